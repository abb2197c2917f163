"""Small files beside Inductor's caches, which hold results of earlier processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from domino_compile import _compat
from domino_compile.host.turns import Turn


def _path(name: str) -> Path:
    return Path(_compat.cache_folder()) / "domino_compile" / name


def keep(name: str, text: str) -> None:
    """Keep a text under a name. A full or read-only disk is ignored."""
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid4().hex}")  # other machines may share the folder
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        return


def kept(name: str) -> str | None:
    """Return the text that was kept under a name; ``None`` if there is none or it is unreadable."""
    try:
        return _path(name).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Hold the lock of this name, so that no other process on this machine does the same work.

    If the folder does not support locks, nothing is locked. A process that dies releases its lock.
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
