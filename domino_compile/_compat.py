"""Every private or version-dependent part of torch that we use, in one place.

Works on torch 2.11 and newer. Each function here has a test in ``tests/test_compat.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def fake_mode_of(graph: fx.Graph) -> Any:
    """The fake tensor mode of the graph's ``val`` metadata."""
    from torch._guards import detect_fake_mode

    values = [n.meta["val"] for n in graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    mode = detect_fake_mode(values)
    if mode is None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        mode = FakeTensorMode(allow_non_fake_inputs=True)
    return mode


def can_view(fake_mode: Any, value: torch.Tensor, sizes: list[Any]) -> bool:
    """Whether ``value.view(sizes)`` is possible without a copy."""
    try:
        with fake_mode:
            torch.ops.aten.view.default(value, sizes)
    except (RuntimeError, ValueError):
        return False
    return True


def register_random_slice_lowering(op: Any) -> None:
    """Lower ``random_slice`` as Inductor lowers ``inductor_random``: fused, indexed by element.

    A draw is ``ops.rand(seed, linear index)``; a slice is the same draw at the indices that its
    elements have in the whole. (``inductor_random``'s own lowering has an ``offset``, which
    serves slices of the first dimension only; an indexer with the whole's strides serves all.)
    """
    from torch._inductor import ir, lowering
    from torch._inductor.virtualized import ops

    if op in lowering.lowerings:
        return

    @lowering.register_lowering(op, type_promotion_kind=None)  # type: ignore[untyped-decorator]
    def random_slice(
        size: list[Any], seed: Any, mode: str, dim: int, start: Any, length: Any
    ) -> Any:
        device = seed.get_device_or_error()
        strides = ir.FlexibleLayout.contiguous_strides(list(size))
        part = [*size[:dim], length, *size[dim + 1 :]]
        position = ir.FixedLayout(
            device, torch.float32, part, strides, offset=start * strides[dim]
        ).make_indexer()
        load_seed = seed.make_loader()

        def draw(index: Any) -> Any:
            return getattr(ops, mode)(load_seed([]), ops.index_expr(position(index), torch.int32))

        result = ir.Pointwise.create(device=device, dtype=torch.float32, inner_fn=draw, ranges=part)
        result.realize()
        return result
