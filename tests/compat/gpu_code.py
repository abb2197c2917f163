"""What Inductor generates for an NVIDIA GPU, without one and without Triton.

The graph is lowered, fused and turned into Triton's source for real. Only what asks the machine is
answered from here: the GPU's properties, and whether Triton is installed. Nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.utils._triton
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from domino_compile import _compat
from domino_compile.lowering.kernels import OverlapKernels

#: As torch describes an H200.
H200 = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    warp_size=32,
    total_memory=140 << 30,
    L2_cache_size=60 << 20,
    gcnArchName="",
)


@dataclass(frozen=True)
class Kernel:
    """One generated kernel.

    Attributes:
        heuristic: how its blocks are chosen: ``reduction``, ``persistent_reduction``,
            ``pointwise``, or ``fixed_config``.
        config: the blocks and warps of ``fixed_config``; empty otherwise.
        text: its source.
    """

    heuristic: str
    config: Mapping[str, int]
    text: str


@contextmanager
def _as_on_an_h200() -> Iterator[None]:
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import scheduler
    from torch._inductor.debug import DebugContext
    from torch._inductor.runtime.hints import DeviceProperties
    from torch._inductor.virtualized import V

    answers = {
        (CudaInterface, "get_device_properties"): staticmethod(lambda *_: H200),
        (CudaInterface, "get_compute_capability"): staticmethod(lambda *_: 90),
        (CudaInterface, "current_device"): staticmethod(lambda: 0),
        (torch.cuda, "get_device_properties"): lambda *_: H200,
        (torch.cuda, "get_device_capability"): lambda *_: (9, 0),
        (torch.cuda, "current_device"): lambda: 0,
        (torch.version, "cuda"): "13.0",
        (scheduler, "has_triton"): lambda *_, **__: True,
        (torch.utils._triton, "triton_hash_with_backend"): lambda: "none",
    }
    DeviceProperties.create.cache_clear()
    try:
        with ExitStack() as stack:
            for (where, name), answer in answers.items():
                stack.enter_context(mock.patch.object(where, name, answer))
            stack.enter_context(V.set_debug_handler(DebugContext()))
            yield
    finally:
        DeviceProperties.create.cache_clear()


def captured(function: Callable[..., Any], *shapes: Sequence[int]) -> fx.GraphModule:
    """A function of bf16 tensors on a GPU as a graph, decomposed as by Inductor."""
    from torch._inductor.decomposition import select_decomp_table

    with FakeTensorMode():
        inputs = [torch.empty(tuple(s), dtype=torch.bfloat16, device="cuda") for s in shapes]
    functional = torch.func.functionalize(function)
    return make_fx(functional, decomposition_table=select_decomp_table())(*inputs)


def kernels_of(
    module: fx.GraphModule,
    settings: Mapping[str, Any] | None = None,
    rows_a_block: Callable[[int], int] | None = None,
    cuda: str | None = "13.0",
) -> list[Kernel]:
    """The kernels that Inductor generates under this package's rules, in order.

    Args:
        module: a captured graph, with whatever marks.
        settings: Inductor's.
        rows_a_block: as for ``OverlapKernels``.
        cuda: the version of CUDA that torch says it was built with; ``None``: another vendor's.
    """
    with ThreadPoolExecutor(1) as pool:  # Inductor keeps its heuristics for each thread
        text = pool.submit(_code, module, settings or {}, rows_a_block, cuda).result()
    return list(_kernels(text))


def _code(
    module: fx.GraphModule,
    settings: Mapping[str, Any],
    rows_a_block: Callable[[int], int] | None,
    cuda: str | None,
) -> str:
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    values = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    with (
        _as_on_an_h200(),
        mock.patch.object(torch.version, "cuda", cuda),
        _compat.inductor_config().patch(dict(settings)),
        V.set_fake_mode(values[0].fake_mode),
    ):
        _compat.compile_kernels_by(OverlapKernels(rows_a_block))
        lowering = GraphLowering(module)
        with V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]):
            lowering.run(*values)
            code = lowering.codegen()[0]
    return str(getattr(code, "value", code))


def _kernels(text: str) -> Iterator[Kernel]:
    for source in re.findall(r"async_compile\.triton\('\w+', '''\n(.*?)'''", text, re.DOTALL):
        found = re.search(r"@triton_heuristics\.(\w+)\(\s*(?:config=(\{.*?\}),)?", source)
        assert found is not None, source
        yield Kernel(found[1], ast.literal_eval(found[2] or "{}"), source)
