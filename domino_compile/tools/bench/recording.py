"""Records whole steps as one CUDA graph each, for programs that Inductor's graphs cannot record."""

from __future__ import annotations

import functools
from typing import Any

import torch

from domino_compile.errors import first_line
from domino_compile.tools.bench.workload import Step

#: Steps before one is recorded: they allocate what must not be allocated while recording.
WARM_UP = 2
#: How results name a step that is recorded here.
AS_A_WHOLE = "recorded as one CUDA graph, forward and backward"


class Recording:
    """A step that replays what it has recorded.

    Args:
        step: The step, which has run before. Its program must not record CUDA graphs itself.

    Raises:
        RuntimeError: The step cannot be recorded. It still works without.
    """

    def __init__(self, step: Step) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                step()
            step.forget()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as NCCL's watchdog, may call the driver meanwhile.
        with torch.cuda.graph(self._graph, pool=_pool(), capture_error_mode="thread_local"):
            step()
        step.forget()
        torch.cuda.synchronize()

    def __call__(self) -> None:
        """Run the step. Its gradients are in the graph's memory, and nobody gets them."""
        self._graph.replay()


@functools.cache
def _pool() -> Any:
    """Return the pool that all recordings share: only one of them runs at a time."""
    return torch.cuda.graph_pool_handle()


def recorded(step: Step) -> tuple[Any, str]:
    """Return a step's recording and what to call it, or the step itself and why not."""
    try:
        return Recording(step), AS_A_WHOLE
    except RuntimeError as error:
        torch.cuda.synchronize()
        step.forget()
        return step, f"without CUDA graphs: {first_line(error)}"
