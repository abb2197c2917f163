"""Handles of collectives with ``async_op=True`` in a captured program."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch


class CapturedWork:
    """The handle of a collective that is part of a compiled graph; stands for ``dist.Work``.

    In a graph a collective's result is a value like any other: its readers wait for the collective,
    whether or not the program has called ``wait``. So the handle has nothing to do. It is plain
    Python, which Dynamo can trace and can pass to code outside the graph.

    Attributes:
        outputs: The tensors that the collective writes to.
    """

    def __init__(self, outputs: list[torch.Tensor]) -> None:
        self.outputs = outputs

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return at once, because the readers of the result wait for it."""
        return True

    def synchronize(self) -> None:
        """Do nothing, as ``wait``."""

    def block_current_stream(self) -> None:
        """Do nothing, as ``wait``."""

    def is_completed(self) -> bool:
        """Return whether the outputs may be read; they always may."""
        return True

    def is_success(self) -> bool:
        """Return whether the collective succeeded; a failure is raised when the graph runs."""
        return True

    def exception(self) -> None:
        """Return ``None``, because a failure is raised when the graph runs (see ``is_success``)."""

    def result(self) -> list[torch.Tensor]:
        """Return the tensors that the collective writes to."""
        return self.outputs

    def get_future(self) -> Any:
        """Return a completed ``torch.futures.Future`` of ``result()``. Breaks the graph."""
        future: Any = torch.futures.Future()
        future.set_result(self.outputs)
        return future


def launched(collective: Any, written: Any, *args: Any, **kwargs: Any) -> CapturedWork:
    """Stand in for a collective with ``async_op=True`` when Dynamo traces it.

    Eager code does not differentiate such a collective, so the captured one is not differentiated
    either: gradients pass an all-reduce unchanged.

    Args:
        collective: The function that was called; it is called here without ``async_op``.
        written: The tensor, or the list of tensors, that it writes to.
        args: The other positional arguments.
        kwargs: The keyword arguments.
    """
    several = isinstance(written, (list, tuple))
    outputs = list(written) if several else [written]
    with torch.no_grad():
        gathers = args and isinstance(args[0], torch.Tensor) and not several
        if gathers and written.dim() != args[0].dim():
            written, read = unstacked(written, args[0])
            args = (read, *args[1:])
        collective(written, *args, **kwargs)
    return CapturedWork(outputs)


def unstacked(written: torch.Tensor, read: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two sides of a gather or a scatter, with the larger one as a concatenation.

    NCCL also stacks: it gathers ``(n, ...)`` to ``(ranks, n, ...)``, and scatters that again.
    """
    if written.dim() == read.dim() + 1 and read.dim() > 0:
        return written.view(-1, *read.shape[1:]), read
    if read.dim() == written.dim() + 1 and written.dim() > 0:
        return written, read.reshape(-1, *written.shape[1:])
    return written.view(-1), read.reshape(-1)
