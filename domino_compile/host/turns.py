"""Locks between the processes of a machine, on a file. A process that dies releases its lock."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType


class Turn:
    """A lock that many processes may share or one may hold. A ``with`` block releases it.

    Args:
        path: The lock's file, in an existing folder.

    Raises:
        OSError: The file cannot be written, or its folder does not support locks. The methods raise
            this too.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def share(self) -> None:
        """Wait until nobody holds the lock, and share it."""
        self._lock("LOCK_SH")

    def take(self) -> None:
        """Give up any share of the lock, wait until nobody shares or holds it, and hold it."""
        self._lock("LOCK_EX")

    def release(self) -> None:
        """Release the lock."""
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
