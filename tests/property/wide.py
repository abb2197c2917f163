"""The widest grammar: programs of ``steps`` and ``causal``, and all kinds of collectives.

Beside these there are layers in other layouts and dtypes, checkpointed layers under two policies,
and collectives of several groups in one layer.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from tests.property import causal
from tests.property.programs import Program
from tests.property.steps import (
    BETWEEN,
    HIDDEN,
    INNER,
    LAYERS,
    Builder,
    Draw,
    batch_norm,
    begin,
    buffer_update,
    end,
    input_update,
    pair,
)

#: The relative error that is allowed behind a part that computes in float32.
SINGLE = 2e-5
Layer = Callable[[Builder], None]


def experts(b: Builder) -> None:
    """Tokens go to the ranks of their experts and back."""
    if b.shape[0] % 2:
        return pair(b)
    b.features.add("all-to-all")
    b.emit(f"there = all_to_all((h @ {b.param(HIDDEN, HIDDEN)}).contiguous(), tp)")
    b.update(f"all_to_all(({b.activation('there')} @ {b.param(HIDDEN, HIDDEN)}).contiguous(), tp)")


def coalesced(b: Builder) -> None:
    """Two tensors in one collective."""
    one, two = (f"(h @ {b.param(HIDDEN, HIDDEN)}).contiguous()" for _ in range(2))
    form = b.choose("reduce", "scatter") if b.shape[0] % 2 == 0 else "reduce"
    b.features.add(f"coalesced {form}")
    if form == "reduce":
        b.update(f"all_reduce_both({one}, {two}, {b.group()})")
    else:
        b.emit(f"part = reduce_scatter_both({one}, {two}, tp)")
        b.update(f"all_gather_both(part, {b.activation('part')}, tp)")


def averaged(b: Builder) -> None:
    """A mean over the ranks."""
    b.features.add("average")
    product = b.activation(f"(h @ {b.param(HIDDEN, INNER)})")
    b.update(f"all_reduce_mean({product} @ {b.param(INNER, HIDDEN)}, {b.group()})")


def several_groups(b: Builder) -> None:
    """Reduced over one group after the other."""
    b.features.add("several groups")
    first, second = b.choose(("tp", "dp"), ("dp", "tp"), ("tp", "world"))
    b.emit(f"y = all_reduce(h @ {b.param(HIDDEN, HIDDEN)}, {first})")
    b.update(f"all_reduce({b.activation('y')} @ {b.param(HIDDEN, HIDDEN)}, {second})")


def softmax_over_ranks(b: Builder) -> None:
    """As a loss over a divided vocabulary: the maximum and the sum over the ranks."""
    b.features.add("maximum")
    b.emit(f"y = h @ {b.param(HIDDEN, INNER)}")
    b.emit("y = (y - all_reduce_max(y.amax(-1, True), tp)).exp()")
    b.update(f"(y / all_reduce(y.sum(-1, True), tp)) @ {b.param(INNER, HIDDEN)}")


def single_precision(b: Builder) -> None:
    """A layer that computes in float32."""
    b.features.add("float32")
    weight = f"{b.param(HIDDEN, HIDDEN)}.float()"
    b.update(f"all_reduce({b.activation(f'(h.float() @ {weight})')}, {b.group()}).double()")


def counted(b: Builder) -> None:
    """Whole numbers go over the wire."""
    b.features.add("integers")
    kind = b.choose("torch.int64", "torch.int32")
    b.emit(f"count = all_reduce((h.detach() > 0).sum(-1, True).to({kind}), {b.group()})")
    b.emit("h = h / (1 + count)")


def scaled_alike(b: Builder) -> None:
    """Every rank takes rank 0's scale."""
    b.features.add("broadcast")
    b.update(f"h.tanh() * broadcast(h.mean({b.choose((-1,), (0,), (1,))}, True), {b.group()})")


def strange_strides(b: Builder) -> None:
    """The same value in another memory layout, or a weight in one."""
    b.features.add("strides")
    b.emit(
        b.choose(
            "h = h.transpose(1, 2).contiguous().transpose(1, 2)",
            "h = h.permute(2, 1, 0).contiguous().permute(2, 1, 0)",
            "h = torch.stack([h, h], -1)[..., 0]",
            f"h = h @ {b.param(HIDDEN, HIDDEN)}.t().contiguous().t()",
        )
    )


def causal_attention(b: Builder) -> None:
    causal.attention(b, b.choose(*causal.CAUSAL, *causal.OTHERS))


WIDE: tuple[Layer, ...] = (
    *LAYERS, experts, coalesced, averaged, several_groups, softmax_over_ranks, single_precision,
    causal_attention,
)  # fmt: skip
AROUND: tuple[Layer, ...] = (*BETWEEN, counted, scaled_alike, strange_strides)
#: The same without what changes a buffer or an input.
PURE = tuple(x for x in AROUND if x not in (batch_norm, buffer_update, input_update))
#: What is the same whenever it is computed, and may stand in a checkpointed part.
RECOMPUTED: tuple[Layer, ...] = (*LAYERS, averaged, several_groups, softmax_over_ranks)


def checkpointed(b: Builder) -> None:
    """One or two layers that backward computes again."""
    policy = b.choose("all", "products")
    b.features.add(f"checkpointed: {policy}")
    outer, b.lines = b.lines, []
    for _ in range(b.choose(1, 2)):
        b.choose(*RECOMPUTED)(b)
    inner, b.lines = b.lines, outer
    name = f"layer{len(b.lines)}"
    b.emit(f"def {name}(h): {'; '.join(inner)}; return h")
    b.emit(f"h = checkpoint({name}, h, policy={policy!r})")


@st.composite
def wide_programs(draw: Draw, pure: bool = False) -> Program:
    """Programs of one to three layers, checkpointed or not, with other steps around them.

    Args:
        draw: hypothesis's.
        pure: whether they change no buffer and no input.
    """
    around = PURE if pure else AROUND
    one = draw(st.integers(0, 4)) == 4  # a sequence alone, whose tokens may be cut
    batch = 1 if one else draw(st.integers(1, 6))
    sequence = draw(st.integers(4, 13) if one else st.sampled_from([4, 3, 2]))
    b = Builder(draw, batch, sequence)
    begin(b)
    for _ in range(draw(st.integers(1, 3))):
        for step in draw(st.lists(st.sampled_from(around), max_size=2)):
            step(b)
        b.choose(*WIDE, checkpointed, checkpointed)(b)
    for step in draw(st.lists(st.sampled_from(around), max_size=2)):
        step(b)
    draw(st.sampled_from([end, causal.shifted]))(b)
    return Program(
        lines=tuple(b.lines),
        returns=tuple(b.returns),
        inputs=tuple(b.inputs),
        params=b.params,
        buffers=b.buffers,
        slices=draw(st.integers(2, 4)),
        training=draw(st.integers(0, 7)) < 7,
        features=frozenset(b.features) | ({"one sequence"} if one else set()),
    )
