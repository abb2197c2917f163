"""Measure another checkout's ``domino_compile`` with this checkout's bench.

Before and after are then measured in one run, with the same models, the same loss and the same
judge: everything but ``domino_compile.tools.bench`` comes from the other checkout. Its package must
have the same layout as this one (``domino_compile/tools``).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.grid_cells import Cell
from benchmarks.lane import Settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "domino_compile"
BENCH, GROUPS = f"{PACKAGE}.tools.bench", f"{PACKAGE}._compat.groups"


def work(
    target: Callable[..., None], cell: Cell, settings: Settings, gpu: str, pipe: Connection
) -> None:
    """Run ``target`` with the other checkout's package, in a process spawned for it."""
    assert settings.baseline is not None
    try:
        use(settings.baseline)
    except Exception as error:
        pipe.send(("failed", f"{settings.baseline}: {type(error).__name__}: {error}"))
        return
    target(cell, settings, gpu, pipe)


def use(folder: Path) -> None:
    """Import the package from another checkout, but the bench from this one.

    Raises:
        ImportError: the checkout has no such package.
    """
    # Torch loads the installed package's entry point, which an older package lacks.
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    package = importlib.import_module(PACKAGE)
    if folder not in Path(package.__file__ or "").resolve().parents:
        raise ImportError(f"no {PACKAGE} there")
    borrow(BENCH, ROOT / PACKAGE / "tools" / "bench" / "__init__.py")
    if not (Path(package.__file__ or "").parent / "_compat" / "groups.py").exists():
        borrow(GROUPS, ROOT / PACKAGE / "_compat" / "groups.py")  # newer, and the bench needs it


def borrow(name: str, file: Path) -> None:
    """Import a module or package of this checkout under its own name, beside the other's."""
    parent = importlib.import_module(name.rpartition(".")[0])
    folders = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    setattr(parent, name.rpartition(".")[2], module)
