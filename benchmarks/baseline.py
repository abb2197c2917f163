"""Processes that measure another checkout's ``domino_compile`` with this checkout's bench.

Before and after are then measured in one call, by the same models, the same loss and the same
judge: of the other checkout everything is taken but ``domino_compile.tools.bench``. Its package
must be laid out like this one (``domino_compile/tools``).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.grid_cells import Cell
from benchmarks.lane import Settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "domino_compile"
BENCH = f"{PACKAGE}.tools.bench"


def work(
    target: Callable[..., None], cell: Cell, settings: Settings, gpu: str, pipe: Connection
) -> None:
    """``target`` with the other checkout's package, in a process that was spawned for it."""
    assert settings.baseline is not None
    try:
        use(settings.baseline)
        print(f"measuring {settings.baseline}")
    except Exception as error:
        pipe.send(("failed", f"{settings.baseline}: {type(error).__name__}: {error}"))
        return
    target(cell, settings, gpu, pipe)


def use(folder: Path) -> None:
    """Import the package from another checkout, but the bench from this one.

    Raises:
        ImportError: the checkout has no such package.
    """
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    package = importlib.import_module(PACKAGE)
    if folder not in Path(package.__file__ or "").resolve().parents:
        raise ImportError(f"no {PACKAGE} there")
    importlib.import_module(f"{PACKAGE}.tools")
    place = ROOT / PACKAGE / "tools" / "bench"
    spec = importlib.util.spec_from_file_location(
        BENCH, place / "__init__.py", submodule_search_locations=[str(place)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[BENCH] = module
    spec.loader.exec_module(module)
    sys.modules[f"{PACKAGE}.tools"].bench = module  # type: ignore[attr-defined]
