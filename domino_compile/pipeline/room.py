"""Calls a function with plenty of room for frames.

CPython keeps frames in chunks of 16 KiB. A loop whose calls alternate between the end of one chunk
and the start of the next maps and unmaps memory at every call. Whether that happens depends on the
depth of the stack only, which is deep inside a compile, and where mapping is slow (in virtual
machines) it doubles the time of the passes and triples that of the checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Slots of the operand stack: a frame of 64 KiB. Its chunk has 128 KiB, and room for all others.
SLOTS = 2**13


def with_room(run: Callable[[], T]) -> T:
    """Return what a function returns, whose own frames all fit into one chunk."""
    return run()


with_room.__code__ = with_room.__code__.replace(co_stacksize=SLOTS)
