"""Scripts that start their ranks themselves, with ``torch.multiprocessing``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp
from torch.multiprocessing import spawn as spawning

from domino_compile.host.replaced import replaced
from domino_compile.tools.scripts.known import spawns
from domino_compile.tools.scripts.run import ScriptError

#: Takes the function of a rank, its arguments and the number of ranks.
Start = Callable[[Callable[..., Any], tuple[Any, ...], int], None]


@contextmanager
def first_rank_only() -> Iterator[None]:
    """Run the first of the ranks that a script starts in this process, and none of the others."""

    def start(rank: Callable[..., Any], arguments: tuple[Any, ...], _ranks: int) -> None:
        rank(0, *arguments)

    with _starting(start):
        yield


@contextmanager
def spawning_refused(script: Path) -> Iterator[None]:
    """Refuse that a script starts ranks.

    Raises:
        ScriptError: It does.
    """

    def start(_rank: Callable[..., Any], _arguments: tuple[Any, ...], ranks: int) -> None:
        raise ScriptError(spawns(str(script), ranks))

    with _starting(start):
        yield


@contextmanager
def _starting(start: Start) -> Iterator[None]:
    def spawn(fn: Any, args: Any = (), nprocs: int = 1, *_: Any, **__: Any) -> None:
        start(fn, tuple(args), nprocs)

    with ExitStack() as stack:
        for module in (mp, spawning):
            for name in ("spawn", "start_processes"):
                if callable(getattr(module, name, None)):
                    stack.enter_context(replaced(module, name, spawn))
        yield
