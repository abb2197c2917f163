"""Small files beside Inductor's caches: what an earlier process has found out."""

from __future__ import annotations

import os
from pathlib import Path

from domino_compile import _compat


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
