"""Locks between the processes of a machine, on a file: whoever holds one and dies gives it back."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType


class Turn:
    """A lock that many may share or one may hold; left with the ``with`` block.

    Args:
        path: the file; its folder exists.

    Raises:
        OSError: the file cannot be written, or its folder takes no locks (also from the methods).
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def share(self) -> None:
        """Wait until nobody holds it, and share it."""
        self._lock("LOCK_SH")

    def take(self) -> None:
        """Wait until nobody shares or holds it, and hold it; a share of it is given up first."""
        self._lock("LOCK_EX")

    def release(self) -> None:
        """Give it up."""
        self._lock("LOCK_UN")

    def _lock(self, kind: str) -> None:
        try:
            import fcntl
        except ImportError as error:  # Windows
            raise OSError("no locks on files here") from error
        fcntl.flock(self._file, getattr(fcntl, kind))

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
