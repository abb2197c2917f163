"""Small files beside Inductor's caches: what an earlier process has found out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domino_compile import _compat
from domino_compile.host.turns import Turn


def _path(name: str) -> Path:
    return Path(_compat.cache_folder()) / "domino_compile" / name


def keep(name: str, text: str) -> None:
    """Keep a text; a full or read-only disk is no reason to stop."""
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        return


def kept(name: str) -> str | None:
    """The text that was kept under a name; ``None`` if there is none that can be read."""
    try:
        return _path(name).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


@contextmanager
def alone(name: str) -> Iterator[None]:
    """While this lasts, no other process of this machine does what has this name.

    Where the folder takes no locks they may; whoever holds one and dies gives it back.
    """
    path = _path(f"{name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        turn = Turn(path)
        turn.take()
    except OSError:
        yield
        return
    with turn:
        yield
