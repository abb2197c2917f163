"""Small sizes instead of large ones, the same for both forms of a part.

Equal sizes stay equal, so programs still fit together; sizes that differ stay different, so that
they do not fit where they did not. Along a cut dimension the sizes of the pieces are made small and
the whole is their sum. Sizes among the arguments are those that torch's schemas call ``SymInt``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from domino_compile._compat.operators import OpOverload
from domino_compile.verify.claims import Claim, Piece
from domino_compile.verify.interpret import Unknown, resolve
from domino_compile.verify.part import Given, Part
from domino_compile.verify.plain import COUNTS, GETITEM, Graph, Operation, Tensor
from domino_compile.verify.transported import STARTS, command_of

VIEWS = ("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default")
SPLIT, CAT = "aten.split.Tensor", "aten.cat.default"
#: Writes a part of a value, as long as the part: what is larger than the part must stay so.
WRITTEN = "aten.slice_scatter.default"
#: A part is run as it is if its values have no more elements than this, all together.
SMALL = 60_000
#: With small sizes, a part with more elements than this would take seconds.
LARGE = 12_000_000
#: Sizes up to this are left alone.
LITTLE = 4


def reduced(part: Part) -> Part:
    """Return the part with small sizes.

    Raises:
        Unknown: No small sizes are found.
    """
    if _elements(part) * part.ranks <= SMALL:
        return part
    sizes = _Sizes(part)
    made = sizes.apply()
    if _elements(made) * made.ranks > LARGE:
        raise Unknown("it is too large to be run, and its sizes cannot be reduced")
    return made


def _elements(part: Part) -> int:
    return sum(math.prod(shape) for shape in _shapes(part))


def _shapes(part: Part) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            shapes.append(value.shape)
        elif isinstance(value, tuple):
            for member in value:
                add(member)

    for op in (*part.inputs.values(), *part.before.values(), *part.after.values()):
        add(op.value)
    for graph in _called(part):
        for op in graph.operations.values():
            add(op.value)
    return shapes


def _called(part: Part) -> Iterator[Graph]:
    """Yield the graphs that operations of the part call, and those that these call."""
    for graph, side in zip(part.graphs, (part.before, part.after), strict=True):
        for name in side:
            if name in graph.inner:
                yield from _with_inner(graph.inner[name])


def _with_inner(graph: Graph) -> Iterator[Graph]:
    yield graph
    for inner in graph.inner.values():
        yield from _with_inner(inner)


@cache
def _sizes_of(target: str) -> tuple[list[str], frozenset[str], frozenset[str]] | None:
    """Return an operation's arguments by name, and which of them are sizes, or numbers."""
    overload = resolve(target)
    if not isinstance(overload, OpOverload):
        return None
    declared = overload._schema.arguments
    numbers = frozenset(a.name for a in declared if str(a.type) in ("Tensor", "number"))
    sizes = frozenset(re.findall(r"SymInt\S*\s+(\w+)", str(overload._schema)))
    return [argument.name for argument in declared], sizes, numbers


def _products(part: Part) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield each size that a view makes of several, or makes several of, and these."""
    known = {**part.graphs[0].operations, **part.inputs, **part.before}
    sides = [(part.before, known), (part.after, part.graphs[1].operations)]
    sides += [(graph.operations, graph.operations) for graph in _called(part)]
    for side, values in sides:
        for op in side.values():
            if op.target in VIEWS and isinstance(source := values[op.operands[0]].value, Tensor):
                yield from _grouped(source.shape, op.tensor.shape)
                yield from _grouped(op.tensor.shape, source.shape)


def _divided(part: Part) -> Iterator[tuple[int, int, int]]:
    """Yield each extent that is split into, or made of, equal parts: it, their number and length.

    The parts are named one by one, so there must be as many with small sizes. A few parts only
    count where all of one value are put together again, along another dimension maybe.
    """
    known = {**part.graphs[0].operations, **part.inputs, **part.before}
    for side, values in ((part.before, known), (part.after, part.graphs[1].operations)):
        for op in side.values():
            if op.target == SPLIT:
                yield from _equal(_split_lengths(op), LITTLE)
            elif op.target == CAT:
                parts = [values[name] for name in op.operands]
                split = _split_of(parts, values)
                lengths = _lengths([x.value for x in parts], op.args[1] if op.args[1:] else 0)
                yield from _equal(lengths, LITTLE if split is None else 1)
                if split is not None:
                    yield from _equal(_split_lengths(split), 1)


def _equal(lengths: list[int], more_than: int) -> Iterator[tuple[int, int, int]]:
    if len(lengths) > more_than and len(set(lengths)) == 1:
        yield sum(lengths), len(lengths), lengths[0]


def _split_of(parts: list[Operation], values: Mapping[str, Operation]) -> Operation | None:
    """Return the split whose results these are, if they are all of one."""
    makers = {x.operands[0] if x.target == GETITEM else "" for x in parts}
    split = values.get(makers.pop()) if len(makers) == 1 else None
    return split if split is not None and split.target == SPLIT else None


def _split_lengths(op: Operation) -> list[int]:
    parts = op.value if isinstance(op.value, tuple) else ()
    return _lengths(parts, op.args[2] if len(op.args) > 2 else 0)


def _lengths(parts: Iterable[Any], dim: Any) -> list[int]:
    return [part.shape[dim] for part in parts]


def _grouped(fine: tuple[int, ...], coarse: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
    """Yield each extent of ``coarse`` that is the product of extents of ``fine``, and these."""
    place = 0
    for extent in coarse:
        first, product = place, 1
        while product < extent and place < len(fine):
            product *= fine[place]
            place += 1
        if product != extent:
            return
        factors = tuple(n for n in fine[first:place] if n != 1)
        if len(factors) > 1:
            yield extent, factors


class _Sizes:
    """Small numbers for the sizes of a part."""

    def __init__(self, part: Part) -> None:
        self.part = part
        kept = {*range(-1, LITTLE + 1), part.ranks}  # there are as many ranks as there are
        if part.own_ranks:
            kept |= set(range(part.ranks))  # the places of ranks
        self.products = dict(_products(part))
        for extent, parts, length in _divided(part):
            kept.add(parts)
            self.products[extent] = (parts, length)
        self.small: dict[int, int] = {n: n for n in kept}
        self.taken: set[int] = set(self.small)
        calls = (op for side in (part.before, part.after) for op in side.values())
        self.ordered = any(op.target == WRITTEN for op in calls)
        self._shares()
        self._cut_sizes()
        for n in sorted({n for shape in _shapes(part) for n in shape}):
            self._small(n)

    def _small(self, size: int) -> int:
        """Return the small number for a size; one is chosen if there is none yet."""
        if size not in self.small:
            factors = self.products.get(size)
            made = math.prod(map(self._small, factors)) if factors else self._free(size)
            self._put(size, made)
        return self.small[size]

    def _put(self, size: int, small: int) -> None:
        if self.small.setdefault(size, small) != small:
            raise Unknown(f"the size {size} is two different things")
        self.taken.add(small)

    def _free(self, size: int) -> int:
        """Return a number that no size has yet, above those of smaller sizes if order matters."""
        least = max(self.small[n] for n in self.small if n < size) if self.ordered else LITTLE
        return next(n for n in itertools.count(max(least, LITTLE) + 1) if n not in self.taken)

    def _shares(self) -> None:
        """Choose the sizes of ranks' shares first where each rank's place is among the arguments.

        Where the transport's operations are, a rank takes its own share out of the whole.
        """
        known = {**self.part.graphs[1].operations, **self.part.after}
        for op in self.part.after.values():
            if (start := command_of(op.target)) in STARTS:
                rows = known[op.operands[0]].tensor.shape[0]
                share = rows // self.part.ranks if start == "scatter_start" else rows
                small = self._small(share)
                for count in range(2, self.part.ranks + 1):
                    self._put(count * share, count * small)

    def _cut_sizes(self) -> None:
        """Choose the sizes of pieces first: the whole must be their sum."""
        claims = [self.part.goal, *(given.claim for given in self.part.given.values())]
        pieces = [c for c in claims if isinstance(c, Piece)]
        abouts = [self.part.about, *(given.before for given in self.part.given.values())]
        known = {**self.part.inputs, **self.part.before}
        for claim, about in zip(claims, abouts, strict=True):
            if isinstance(claim, Piece):
                self._cut(claim, known[about].tensor.shape[claim.dim], pieces)

    def _cut(self, claim: Piece, extent: int, pieces: list[Piece]) -> None:
        rows = extent * claim.ranks if claim.dealt_over else extent // claim.outer
        ends = sorted(
            {0, rows}
            | {p.start for p in pieces if p.start < rows}
            | {p.start + p.length for p in pieces if p.start + p.length < rows}
        )
        lengths = [b - a for a, b in itertools.pairwise(ends)]
        total = 0
        for length, end in zip(lengths, ends[1:], strict=True):
            # In order: what is left behind two pieces of 2048 may be as long as both, 4096.
            if length in self.products:
                self._small(length)
            elif length not in self.small:
                self._put(length, self._length(length, claim))
            total += self.small[length]
            if end not in self.small or self.small[end] != total:
                self._put(end, total)
        if claim.dealt_over:
            self._put(extent, total // claim.ranks)
            self._put(claim.length // claim.ranks, self.small[claim.length] // claim.ranks)
        elif claim.outer > 1:
            outer = self.small.setdefault(claim.outer, 2)
            self._put(extent, outer * total)
            self._put(claim.outer * claim.length, outer * self.small[claim.length])

    def _length(self, length: int, claim: Piece) -> int:
        unit = claim.ranks if claim.dealt_over else 1
        return next(
            n * unit for n in itertools.count(2) if n * unit not in self.taken or n * unit == 2
        )

    def of(self, size: int) -> int:
        """Return a small size for a size."""
        if size in self.small or size > 1 << 40 or size < 0:
            return self.small.get(size, size)
        raise Unknown(f"the size {size} belongs to no value")

    def apply(self) -> Part:
        """Return the part with its sizes replaced."""
        part = self.part
        return replace(
            part,
            goal=self._claim(part.goal),
            before={name: self._operation(op) for name, op in part.before.items()},
            after={name: self._operation(op) for name, op in part.after.items()},
            inputs={name: self._input(op) for name, op in part.inputs.items()},
            given={n: Given(x.before, self._claim(x.claim)) for n, x in part.given.items()},
            graphs=(
                self._graphs_of(part.graphs[0], part.before),
                self._graphs_of(part.graphs[1], part.after),
            ),
        )

    def _graphs_of(self, graph: Graph, side: Mapping[str, Operation]) -> Graph:
        """Return a graph with small sizes in the graphs that operations of the part call."""
        called = {name: inner for name, inner in graph.inner.items() if name in side}
        made = {name: self._graph(inner) for name, inner in called.items()}
        return replace(graph, inner=graph.inner | made)

    def _graph(self, graph: Graph) -> Graph:
        made = {name: self._operation(op) for name, op in graph.operations.items()}
        inner = {name: self._graph(called) for name, called in graph.inner.items()}
        return replace(graph, operations=made, inner=inner)

    def _input(self, op: Operation) -> Operation:
        if op.target in COUNTS:  # it is run too
            return self._operation(op)
        return replace(op, value=self._value(op.value))

    def _claim(self, claim: Claim) -> Claim:
        if not isinstance(claim, Piece):
            return claim
        outer = claim.outer if claim.dealt_over else self.of(claim.outer)
        return replace(claim, outer=outer, start=self.of(claim.start), length=self.of(claim.length))

    def _value(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value._replace(shape=tuple(map(self.of, value.shape)))
        return tuple(map(self._value, value)) if isinstance(value, tuple) else value

    def _operation(self, op: Operation) -> Operation:
        value, sizes = self._value(op.value), _sizes_of(op.target)
        if sizes is None:
            return replace(op, value=value)
        names, symbolic, numbers = sizes

        def small(name: str, arg: Any) -> Any:
            if name in numbers and type(arg) is int:
                return self._count(arg)
            return self._argument(arg) if name in symbolic else arg

        args = tuple(small(name, arg) for name, arg in zip(names, op.args, strict=False))
        kwargs = tuple((name, small(name, arg)) for name, arg in op.kwargs)
        return replace(op, args=args, kwargs=kwargs, value=value)

    def _argument(self, arg: Any) -> Any:
        if type(arg) is tuple:
            return tuple(map(self._argument, arg))
        return self.of(arg) if type(arg) is int else arg

    def _count(self, number: int) -> int:
        """Return a small number for a product of sizes, such as what a mean divides by."""
        for shape in _shapes(self.part) if number > LITTLE else ():
            for several in range(1, len(shape) + 1):
                for chosen in itertools.combinations(shape, several):
                    if math.prod(chosen) == number:
                        return math.prod(map(self.of, chosen))
        return number
