"""The processes of the ranks of one job, forked from the first rank's process.

This module does not import torch; processes must be forked before they use a GPU.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

#: How long a rank that fails has to say why, before the end of another one is reported instead.
SETTLE_S = 2.0


def fork(ranks: int) -> tuple[int, list[int]]:
    """Make the processes of the other ranks, which end when this one does.

    Returns:
        The rank of the process that returns, and on the first rank the others' process numbers.
    """
    ours, theirs = os.pipe()
    others = []
    for rank in range(1, ranks):
        if child := os.fork():
            others.append(child)
            continue
        os.close(theirs)
        threading.Thread(target=_end_with_first, args=(ours,), daemon=True).start()
        return rank, []
    os.close(ours)
    return 0, others


def _end_with_first(pipe: int) -> None:
    os.read(pipe, 1)  # returns when the first rank's process has ended
    os._exit(1)


def watch(process: int, ended: Callable[[], None]) -> None:
    """Call a function, in a thread of its own, some time after another rank's process has ended."""

    def wait() -> None:
        os.waitpid(process, 0)
        time.sleep(SETTLE_S)
        ended()

    threading.Thread(target=wait, daemon=True).start()
