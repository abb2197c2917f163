"""Strategies that generate programs: a three-dimensional value ``h`` goes through random steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.property.programs import Input, Program

Draw = Callable[[Any], Any]

#: Extents; all different from each other where the batch is not one of them.
HIDDEN, INNER, HEADS = 4, 6, 2
ACTIVATIONS = ("torch.tanh({})", "F.gelu({})", "F.silu({})", "{}.sigmoid()")


class Builder:
    """The program so far. ``h`` has the dimensions ``dims``, a permutation of B, S; then H."""

    def __init__(self, draw: Draw, batch: int, sequence: int) -> None:
        self.draw = draw
        self.sizes = {"B": batch, "S": sequence, "H": HIDDEN}
        self.dims = ["B", "S", "H"]
        self.lines: list[str] = []
        self.params: dict[str, tuple[int, ...]] = {}
        self.buffers: dict[str, tuple[int, ...]] = {}
        self.inputs: list[Input] = []
        self.returns: list[str] = []
        self.features: set[str] = set()

    def emit(self, line: str) -> None:
        self.lines.append(line)

    def choose(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def flag(self) -> bool:
        return bool(self.draw(st.booleans()))

    @property
    def shape(self) -> list[int]:
        return [self.sizes[d] for d in self.dims]

    def param(self, *shape: int) -> str:
        """A new parameter, or (tied) one of the same shape that is there already."""
        alike = [n for n, s in self.params.items() if s == shape and n != "table"]
        if alike and self.draw(st.integers(0, 4)) == 4:
            self.features.add("tied")
            return f"self.{self.choose(*alike)}"
        name = f"w{len(self.params)}"
        self.params[name] = shape
        return f"self.{name}"

    def buffer(self, *shape: int) -> str:
        name = f"b{len(self.buffers)}"
        self.buffers[name] = shape
        return f"self.{name}"

    def input(self, kind: str, shape: list[int], high: int = 0) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(Input(name, tuple(shape), kind, high))
        return name

    def rows(self, *rest: int) -> list[int]:
        """The shape of an input in the present layout."""
        return [*self.shape[:2], *rest]

    def activation(self, x: str) -> str:
        return str(self.choose(*ACTIVATIONS)).format(x)

    def group(self) -> str:
        name = str(self.choose("tp", "tp", "world"))
        self.features.add(f"group {name}")
        return name

    def some_dims(self) -> tuple[int, ...]:
        return self.choose((0,), (1,), (2,), (0, 1), (0, 1, 2), (1, 2))

    def update(self, expression: str) -> None:
        """``h`` becomes the expression, perhaps with a residual."""
        self.emit(f"h = {'h + ' if self.flag() else ''}{expression}")


# -- layers that communicate ------------------------------------------------------------------


def pair(b: Builder) -> None:
    """A column-parallel and a row-parallel matrix product, and what reduces the result."""
    style = b.choose("funcol", "megatron", "in place")
    b.features.add(style)
    on, up, down = b.group(), b.param(HIDDEN, INNER), b.param(INNER, HIDDEN)
    x = f"copy_to(h, {on})" if style == "megatron" else "h"
    if b.flag():
        product = b.activation(f"({x} @ {up} + {b.param(INNER)})")
    else:
        product = b.activation(f"({x} @ {up})")
    reduce = {"funcol": "all_reduce", "megatron": "reduce_from", "in place": "all_reduce_in_place"}
    b.update(f"{reduce[style]}({product} @ {down}, {on})")


def sequence_parallel(b: Builder) -> None:
    """Reduce-scatter, something on the shard, all-gather."""
    possible = [
        (d, on) for d in (0, 1) for on, n in (("tp", 2), ("world", 4)) if b.shape[d] % n == 0
    ]
    if not possible:
        return pair(b)
    dim, on = b.choose(*possible)
    b.features |= {"scatters the batch" if b.dims[dim] == "B" else f"scatters dim {dim}"}
    b.emit(f"part = reduce_scatter(h @ {b.param(HIDDEN, HIDDEN)}, {dim}, {on})")
    b.emit(f"part = F.layer_norm(part, ({HIDDEN},), {b.param(HIDDEN)})")
    b.update(f"all_gather(part, {dim}, {on})")


def attention(b: Builder) -> None:
    b.features.add("attention")
    heads = "transpose(1, 2)" if b.dims[0] == "B" else "permute(1, 2, 0, 3)"
    back = "transpose(1, 2)" if b.dims[0] == "B" else "permute(2, 0, 1, 3)"
    for name in "qkv":
        weight = b.param(HIDDEN, HIDDEN)
        b.emit(f"{name} = (h @ {weight}).unflatten(-1, ({HEADS}, -1)).{heads}")
    form = b.choose("plain", "causal", "key mask", "fused")
    if form == "fused":
        b.emit("a = F.scaled_dot_product_attention(q, k, v, is_causal=True)")
    else:
        b.emit("a = q @ k.transpose(-1, -2)")
        if form == "causal":
            s = b.sizes["S"]
            b.emit(f"a = a + torch.full(({s}, {s}), -1e9, dtype=a.dtype).triu(1)")
        elif form == "key mask":
            mask = b.input("mask", [b.sizes["B"], b.sizes["S"]])
            b.emit(f"a = a.masked_fill(~{mask}[:, None, None, :], -1e9)")
        b.emit("a = a.softmax(-1) @ v")
    b.update(f"all_reduce(a.{back}.flatten(2) @ {b.param(HIDDEN, HIDDEN)}, {b.group()})")


def flat(b: Builder) -> None:
    """On (tokens, features), as Llama-like code that drops the batch dimension has it."""
    b.features.add("flat")
    first, second = b.shape[:2]
    b.emit(f"flat = h.reshape(-1, {HIDDEN}) @ {b.param(HIDDEN, HIDDEN)}")
    b.emit(f"flat = all_reduce({b.activation('flat')}, {b.group()})")
    b.update(f"flat.view({first}, {second}, {HIDDEN})")


LAYERS = (pair, attention, sequence_parallel, flat)


# -- what stands between them -----------------------------------------------------------------


def norm(b: Builder) -> None:
    weight = b.param(HIDDEN)
    b.emit(
        b.choose(
            f"h = F.layer_norm(h, ({HIDDEN},), {weight})",
            f"h = F.rms_norm(h, ({HIDDEN},), {weight}, 1e-3)",
            f"h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-3) * {weight}",
        )
    )


def transpose(b: Builder) -> None:
    b.features.add("transposed")
    b.dims[:2] = b.dims[1], b.dims[0]
    b.emit("h = h.transpose(0, 1)" + b.choose("", ".contiguous()"))


def reduction(b: Builder) -> None:
    """A reduction over random dimensions, used inside."""
    dims = b.some_dims()
    b.features.add("reduces the batch" if b.dims.index("B") in dims else "reduces")
    how = b.choose(
        "h.mean({}, keepdim=True)",
        "h.sum({}, keepdim=True)",
        "h.amax({}, keepdim=True)",
        "h.logsumexp({}, keepdim=True)",
        "h.var({}, correction=0, keepdim=True)",
        "torch.linalg.vector_norm(h.detach(), 2, {}, True)",
    ).format(dims)
    b.emit(f"h = h {b.choose('- 0.5 *', '+', '*')} {b.choose('{}', '{}.sigmoid()').format(how)}")


def along(b: Builder) -> None:
    """An operation along one dimension."""
    dim = b.choose(0, 1, 2)
    b.features.add("along the batch" if b.dims[dim] == "B" else "along")
    last = b.shape[dim] - 1
    b.update(
        b.choose(
            f"0.5 * h.cumsum({dim})",
            f"h.softmax({dim})",
            f"h.sort({dim}).values",
            f"h.topk(1, {dim}).values.expand_as(h)",
            f"h.gather({dim}, h.detach().argsort({dim}))",
            f"h.flip({dim})",
            f"h.roll(1, {dim})",
            f"h.select({dim}, {last}).unsqueeze({dim}) + 0 * h",
            f"torch.cat([h.narrow({dim}, {last}, 1), h.narrow({dim}, 0, {last})], {dim})",
            f"torch.cat(h.split({max(last, 1)}, {dim})[::-1], {dim})",
            f"h.index_select({dim}, torch.arange({last}, -1, -1))",
            f"F.pad(h, {[0, 0] * (2 - dim) + [1, 0]}).narrow({dim}, 0, {last + 1})",
        )
    )


def reshape(b: Builder) -> None:
    """Another shape and back: merged with a neighbour, split, or mixed up."""
    first, second, hidden = b.shape
    shape = b.choose(
        f"{first}, {second * hidden}",
        f"{first * second}, {hidden}",
        f"{first * second * 2}, {hidden // 2}",
        f"{second}, {first}, {hidden}",
        "-1",
        f"{first}, 1, {second}, {hidden}",
    )
    b.emit(f"y = h.reshape({shape})")
    b.update(f"{b.activation('y')}.reshape({first}, {second}, {hidden})")


def stack(b: Builder) -> None:
    dim = b.choose(0, 1, 2, 3)
    first, second, _ = b.shape
    b.update(
        b.choose(
            f"torch.stack([h, h.tanh()], {dim}).sum({dim})",
            f"h.repeat(2, 1, 1).view(2, {first}, {second}, {HIDDEN}).mean(0)",
            f"h.unsqueeze({dim}).expand({[*([-1] * dim), 2, *([-1] * (3 - dim))]}).amax({dim})",
            "torch.cat([h, h.sin()], 0).chunk(2, 0)[1]",
        )
    )


def contraction(b: Builder) -> None:
    """Products that contract the batch, forward."""
    b.features.add("contracts the batch")
    b.emit(f"rows = h.reshape(-1, {HIDDEN})")
    b.update(
        b.choose(
            "0.1 * h @ (rows.t() @ rows)",
            "0.1 * (torch.einsum('abi,cbi->ac', h, h) @ h.flatten(1)).view_as(h)",
            f"(rows @ rows.t()).softmax(-1).matmul(rows).view({b.shape[0]}, {b.shape[1]}, -1)",
        )
    )


def masked(b: Builder) -> None:
    mask = b.input("mask", b.rows())
    b.emit(
        b.choose(
            f"h = h.masked_fill(~{mask}[..., None], 0.1)",
            f"h = torch.where({mask}.unsqueeze(-1), h, h.tanh())",
            f"h = h * {mask}[:, :, None]",
        )
    )


def batch_norm(b: Builder) -> None:
    b.features.add("batch norm")
    buffers = f"{b.buffer(HIDDEN)}, {b.buffer(HIDDEN)}"
    b.emit(
        f"y = F.batch_norm(h.flatten(0, 1), {buffers}, {b.param(HIDDEN)}, None, True, 0.1, 1e-2)"
    )
    b.emit("h = y.view_as(h)")


def buffer_update(b: Builder) -> None:
    """A buffer is updated; see ``input_update`` for what its new value is used for."""
    b.features.add("buffer mutation")
    # Dimensions are kept: dynamo 2.13 loses updates of a float64 buffer without dimensions.
    dims = b.some_dims()
    name = b.buffer(*(1 if i in dims else n for i, n in enumerate(b.shape)))
    b.emit(f"{name}.mul_(0.9).add_(h.detach().{b.choose('mean', 'sum', 'amax')}({dims}, True))")
    if b.flag():
        b.returns.append(f"{name} * {_as_it_is_now(b, name)}")


def _as_it_is_now(b: Builder, name: str) -> str:
    """Keep ``h`` under another name: until the program ends its rows may be another dimension."""
    kept = "at_" + name.removeprefix("self.")
    b.emit(f"{kept} = h.detach()")
    return kept


def input_update(b: Builder) -> None:
    """An input is changed in place.

    Neither its old nor its new value goes where a gradient flows: torch 2.13 (with any backend)
    may recompute from the changed input in backward, and computes another gradient than eager.
    """
    b.features.add("input mutation")
    name = b.input("float", b.rows(HIDDEN))
    if b.flag():
        b.returns.append(f"{name} + {_as_it_is_now(b, name)}")
    b.emit(name + b.choose(".add_(1.0)", ".copy_(h.detach())", "[:, 0].mul_(2.0)", "[0].zero_()"))


def float_input(b: Builder) -> None:
    rest = b.choose((HIDDEN,), (1,))
    b.emit(f"h = h {b.choose('+', '*')} {b.input(b.choose('float', 'grad'), b.rows(*rest))}")


def output(b: Builder) -> None:
    """One more output, differentiable or not."""
    dims = b.some_dims()
    name = f"o{len(b.returns)}"
    b.emit(
        f"{name} = "
        + b.choose(
            f"h.sum({dims})", f"h.detach().amax({dims})", f"h.mean({dims})", "h * 2", "h.detach()",
            f"(h > 0).sum({dims})", "h.transpose(0, 1)", "h[0]", "h.select(1, 0)",
            "all_reduce(h.detach().mean(), dp)", "all_reduce(h.detach().sum(1), tp)",
        )
    )  # fmt: skip
    b.returns.append(name)


def dropout(b: Builder) -> None:
    """Only where cut and uncut draw alike; see ``programs``."""
    b.features.add("dropout")
    b.emit("h = F.dropout(h, 0.5)")


def unused(b: Builder) -> None:
    b.emit(f"unused = all_reduce(h @ {b.param(HIDDEN, HIDDEN)}, tp).sum()")


BETWEEN = (
    norm, transpose, reduction, along, reshape, masked, float_input, output, stack, contraction,
    batch_norm, buffer_update, input_update, unused,
)  # fmt: skip


# -- beginning and end ------------------------------------------------------------------------


def begin(b: Builder) -> None:
    """``h`` from token numbers or from floats, batch first or second.

    No two elements of ``h`` are equal: which of two equal ones is the larger is up to rounding.
    """
    kind = b.choose("grad", "tokens", "float")
    if b.flag():
        b.dims[:2] = ["S", "B"]
        b.features.add("sequence first")
    if kind != "tokens":
        b.emit(f"h = {b.input(kind, b.rows(HIDDEN))} * 1.0")
        return
    b.features.add("tokens")
    rows = b.shape[0] * b.shape[1]
    b.params["table"] = (rows + 3, HIDDEN)
    if b.flag():
        b.emit(f"h = F.embedding({b.input('distinct', b.rows(), rows + 3)}, self.table)")
    else:
        noise = b.input("float", b.rows(HIDDEN))
        b.emit(f"h = F.embedding({b.input('tokens', b.rows(), rows + 3)}, self.table) + {noise}")


def end(b: Builder) -> None:
    """The loss, or the value itself."""
    form = b.choose("mean", "value", "cross entropy")
    if form == "cross entropy":
        b.features.add("cross entropy")
        table = "self.table" if "table" in b.params else b.param(7, HIDDEN)
        classes = b.params["table"][0] if "table" in b.params else 7
        labels = b.input("labels", b.rows(), classes)
        smoothing = b.choose("", ", label_smoothing=0.1", ", reduction='sum'")
        b.emit(f"logits = h @ {table}.t()")
        b.emit(f"loss = F.cross_entropy(logits.flatten(0, 1), {labels}.flatten(){smoothing})")
        b.returns.insert(0, "loss")
    else:
        b.returns.insert(0, "h.pow(2).mean()" if form == "mean" else "h")


@st.composite
def programs(draw: Draw, random: bool = False) -> Program:
    """Programs of one to three layers that communicate, with other steps around them.

    Args:
        draw: hypothesis's.
        random: whether there is dropout; eager mode draws other numbers than compiled programs.
    """
    between = (dropout, *BETWEEN) if random else BETWEEN
    batch, sequence = draw(st.integers(1, 6)), draw(st.sampled_from([4, 3, 2]))
    builder = Builder(draw, batch, sequence)
    begin(builder)
    for _ in range(draw(st.integers(1, 3))):
        for step in draw(st.lists(st.sampled_from(between), max_size=2)):
            step(builder)
        draw(st.sampled_from(LAYERS))(builder)
    for step in draw(st.lists(st.sampled_from(between), max_size=2)):
        step(builder)
    end(builder)
    return Program(
        lines=tuple(builder.lines),
        returns=tuple(builder.returns),
        inputs=tuple(builder.inputs),
        params=builder.params,
        buffers=builder.buffers,
        slices=draw(st.integers(2, 4)),
        training=draw(st.integers(0, 7)) < 7,
        features=frozenset(builder.features),
    )
