"""A key-value store whose calls end, even if its server can no longer be reached.

``torch.distributed.TCPStore`` waits for an answer without a limit. If the link to the server dies
silently (a pulled cable, a switch without power), the kernel sends the question again and again for
about a quarter of an hour, and the rank seems to hang. So each call runs in a thread of its own,
and a caller that waits too long raises an error instead. The thread stays behind and keeps waiting;
it does not keep the process alive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from domino_compile import _compat
from domino_compile.errors import RankMismatchError

#: How many seconds a store may take to answer. It answers in milliseconds if it can be reached.
ANSWER_S = 20.0
#: How much longer than asked a store may wait for keys, in seconds.
GRACE_S = 2.0


class BoundedStore:
    """A store of a process group, with the calls that this package uses.

    Every method raises ``RankMismatchError`` if the store does not answer in time or the connection
    is lost.

    Args:
        store: The store.
        group: The name of its group, for messages.
    """

    def __init__(self, store: Any, group: str) -> None:
        self._store, self._group = store, group
        self._remote = isinstance(_compat.base_store(store), dist.TCPStore)

    @staticmethod
    def of(group: str) -> tuple[BoundedStore, list[int], int] | None:
        """Return the store of a group, as ``_compat.shared_store`` does, but bounded."""
        shared = _compat.shared_store(group)
        if shared is None:
            return None
        store, ranks, position = shared
        return BoundedStore(store, group), ranks, position

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all keys exist."""
        return bool(self._call(ANSWER_S, self._store.check, list(keys)))

    def get(self, key: str) -> bytes:
        """Return the value of a key that exists."""
        return bytes(self._call(ANSWER_S, self._store.get, key))

    def set(self, key: str, value: str) -> None:
        """Set a value."""
        self._call(ANSWER_S, self._store.set, key, value)

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Set a value if the present one is ``expected``; return the value that is then there."""
        return bytes(self._call(ANSWER_S, self._store.compare_set, key, expected, value))

    def wait(self, keys: Sequence[str], timeout: timedelta) -> None:
        """Wait until all keys exist.

        Raises:
            RuntimeError: They do not exist in time.
        """
        seconds = timeout.total_seconds() + GRACE_S
        self._call(seconds, self._store.wait, list(keys), timeout)

    def _call(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        if not self._remote:
            return function(*arguments)
        outcome: list[Any] = []
        failure: list[Exception] = []

        def call() -> None:
            try:
                outcome.append(function(*arguments))
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=call, name="domino_compile store", daemon=True)
        thread.start()
        thread.join(seconds)
        if outcome:
            return outcome[0]
        if failure and not isinstance(failure[0], dist.DistNetworkError):
            raise failure[0]
        lost = "is lost" if failure else f"has been silent for {seconds:g} s"
        raise RankMismatchError(
            f"the connection to the key-value store of group {self._group} {lost}: the rank that"
            " serves the store (usually rank 0) or the network between it and this rank is down"
        )
