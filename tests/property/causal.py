"""Strategies that generate programs with causal attention, as people write long sequences."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.property.programs import Program
from tests.property.steps import HEADS, HIDDEN, Builder, Draw, begin, end, norm, output, pair

#: The width of a head. Of halves of one element torch (2.13) captures another layout than it runs,
#: and the CPU's attention then reads wrong elements, with any backend.
WIDTH = 4
#: Ways to write attention whose tokens can be cut, and those in which every token may see others.
CAUSAL = ("causal", "causal", "scaled", "grouped")
OTHERS = ("full", "given mask", "window", "prefix")


def attention(b: Builder, form: str) -> None:
    """Queries, keys and values, rotated or not, and a fused attention; an all-reduce behind it."""
    b.features.add(form)
    heads = "transpose(1, 2)" if b.dims[0] == "B" else "permute(1, 2, 0, 3)"
    back = "transpose(1, 2)" if b.dims[0] == "B" else "permute(2, 0, 1, 3)"
    for name in "qkv":
        few = form == "grouped" and name != "q"
        count = 1 if few else HEADS
        weight = b.param(HIDDEN, WIDTH * count)
        b.emit(f"{name} = (h @ {weight}).unflatten(-1, ({count}, -1)).{heads}")
    if b.flag():
        rotary(b)
    b.emit(f"a = F.scaled_dot_product_attention(q, k, v, {arguments(b, form)})")
    b.update(f"all_reduce(a.{back}.flatten(2) @ {b.param(HEADS * WIDTH, HIDDEN)}, {b.group()})")


def arguments(b: Builder, form: str) -> str:
    """What the attention is called with beside queries, keys and values."""
    s = b.sizes["S"]
    ones = f"torch.ones({s}, {s}, dtype=torch.bool)"
    if form == "given mask":
        return f"{b.input('float', [s, s])}"
    if form == "prefix":
        b.emit(f"mask = {ones}.tril() | (torch.arange({s}) < {max(s // 2, 1)})")
        return "mask"
    if form == "window":
        b.emit(f"mask = {ones}.tril() & {ones}.triu(-2)")
        return "mask"
    return {
        "causal": "is_causal=True",
        "scaled": "is_causal=True, scale=0.3",
        "grouped": "is_causal=True, enable_gqa=True",
        "full": "None",
    }[form]


def rotary(b: Builder) -> None:
    """Queries and keys turned by angles of their positions."""
    s = b.sizes["S"]
    form = b.choose("computed", "given", "positions")
    b.features.add(f"rotary {form}")
    if form == "computed":
        b.emit(f"angle = torch.arange({s}, dtype=h.dtype)[:, None] * torch.tensor([0.3, 0.1])")
    elif form == "given":
        b.emit(f"angle = {b.input('float', [s + b.choose(0, 2), 1])}[:{s}]")
    else:
        ids = b.input("tokens", [b.sizes["B"], s], s + 3)
        b.emit(f"angle = {b.input('float', [s + 3, 1])}[{ids}][:, None]")
    b.emit("cos, sin = angle.cos(), angle.sin()")
    for name in "qk":
        b.emit(f"y, z = {name}.chunk(2, -1)")
        b.emit(f"{name} = torch.cat((y * cos - z * sin, y * sin + z * cos), -1)")


def shifted(b: Builder) -> None:
    """The loss of every token but the last, against the next one's label."""
    b.features.add("shifted")
    table, labels = b.param(7, HIDDEN), b.input("labels", b.rows(), 7)
    at = "[:, :-1]" if b.dims[0] == "B" else "[:-1]"
    after = "[:, 1:]" if b.dims[0] == "B" else "[1:]"
    b.emit(f"logits = h @ {table}.t()")
    b.emit(
        f"loss = F.cross_entropy(logits{at}.flatten(0, 1), {labels}{after}.flatten(),"
        " reduction='sum')"
    )
    b.returns.insert(0, "loss")


@st.composite
def causal_programs(draw: Draw, others: bool = False) -> Program:
    """Programs of one to three layers with attention, of one sequence or of a few.

    Args:
        draw: hypothesis's.
        others: whether there is attention that is not causal.
    """
    batch = draw(st.sampled_from([1, 1, 1, 1, 2, 3]))
    builder = Builder(draw, batch, draw(st.integers(4, 13)))
    begin(builder)
    forms = CAUSAL + OTHERS if others else CAUSAL
    for _ in range(draw(st.integers(1, 3))):
        if builder.flag():
            norm(builder)
        attention(builder, draw(st.sampled_from(forms)))
        if builder.flag():
            pair(builder)
    if builder.flag():
        output(builder)
    draw(st.sampled_from([end, shifted]))(builder)
    return Program(
        lines=tuple(builder.lines),
        returns=tuple(builder.returns),
        inputs=tuple(builder.inputs),
        params=builder.params,
        slices=draw(st.integers(2, 4)),
        training=draw(st.integers(0, 7)) < 7,
        features=frozenset(builder.features) | {f"batch {batch}"},
    )
