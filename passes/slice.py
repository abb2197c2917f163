"""``slice``: rewrite a graph into independent slices along one axis.

Contract: The pass takes a functional graph with ``val`` metadata, and the ``CutPlan`` that the
analysis made for it. Afterwards each cut operation exists once per slice, and:

* A cut value that is needed whole is joined once (``cat`` along its dimension).
* A whole value that is needed in slices is cut once (``slice``).
* The summands of a partial sum are added up immediately, and those of a ``PrefixSum`` for each
  chunk. Partial maxima are combined likewise. Where products can add, each slice's product in half
  precision adds to the sum of those before: a separate sum reads both and writes a third (a weight
  gradient's takes a quarter of its product's time), and rounds once more.
* The slices of an accumulating operation form a chain.

::

    for node in graph:
        cut      -> for each slice: the operation on the slices of its operands
        not cut  -> the operation on whole operands, joined if they are cut

Each new node has the metadata of the node that it stands for (recompute tags included), a slice
tag, and a name made from that node's name: ``add_2_s0`` is slice 0 of ``add_2``, and ``mm_c0`` is
column part 0 of ``mm``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.analysis import CutPlan
from domino_compile.axes import (
    WHOLE,
    Partial,
    PartialMax,
    Prefix,
    PrefixSum,
    Size,
    Sliced,
    States,
)
from domino_compile.axes.sizes import to_shape, to_size
from domino_compile.cost.model import is_matmul
from domino_compile.cost.rates import HALVES
from domino_compile.graph.collectives import Replaced, size_hint
from domino_compile.graph.new_nodes import with_size
from domino_compile.graph.slice_nodes import SliceNodes, inverse, order_in_memory
from domino_compile.graph.subgraphs import add_subgraph, copy_for, subgraph_of
from domino_compile.passes.cut_inputs import separate_uses
from domino_compile.rules import Cut, Members, Summands
from domino_compile.verify.claims import Piece, Whole, Witness

aten = torch.ops.aten


def slice_graph(graph: fx.Graph, plan: CutPlan, adds_in_products: bool = False) -> Replaced:
    """Cut the graph in place, and return the launches of each cut collective's slices.

    Args:
        graph: A functional graph with ``val`` metadata.
        plan: The cut that the analysis made for it.
        adds_in_products: Whether sums of slices' products should be made by the products.
    """
    slicer = Slicer(graph, plan, adds_in_products=adds_in_products)
    slicer.run()
    separate_uses(graph, slicer.slices_of_inputs())
    cut = plan.analysis.sliced_collectives()
    launches = {x: tuple(slicer.pieces[x, plan.analysis.state(x)]) for x in cut}
    return Replaced(launches, slicer.witness())


class Slicer:
    """Rewrites one graph, and knows which new nodes stand for the slices of each old node.

    Args:
        graph: The graph, which is changed.
        plan: The cut of its operations.
        only: The slice that calls the graph, if it is a function that one slice calls.
        adds_in_products: Whether sums of slices' products should be made by the products.
    """

    def __init__(
        self,
        graph: fx.Graph,
        plan: CutPlan,
        only: int | None = None,
        adds_in_products: bool = False,
    ) -> None:
        self.graph = graph
        self.adds_in_products = adds_in_products
        self.chunks = plan.chunks
        self.analysis = plan.analysis
        self.parts = len(plan.chunks)
        self.nodes = SliceNodes(graph, plan.chunks, plan.columns)
        self.pieces: dict[tuple[fx.Node, States], list[Any]] = {}  # nodes, or ``Members``
        self.joined: dict[fx.Node, fx.Node] = {}
        #: Values that are added up, and the ranks that add them up further, if any must.
        self.totals: dict[fx.Node, tuple[fx.Node, str]] = {}
        #: The slice that calls the graph, and whose inputs it has; ``None`` for a whole graph.
        self.only = only
        if only is not None:
            given = ((n, s) for n, s in plan.analysis.seeds.items() if n.op == "placeholder")
            self.pieces.update({(node, state): [node] * self.parts for node, state in given})

    def run(self) -> None:
        """Rewrite every node in order, then erase the replaced nodes."""
        replaced: list[fx.Node] = []
        for node in list(self.graph.nodes):
            cut = self.analysis.cuts.get(node)
            if cut is None:
                self._keep_whole(node)
                continue
            with self.graph.inserting_before(node):
                if cut.chain is not None:
                    self._chain(node, cut)
                elif isinstance(cut.out, Partial):
                    self._combine(node, cut, cut.out)
                elif isinstance(cut.out, PrefixSum):
                    self._prefix_sum(node, cut, cut.out)
                else:
                    self.pieces[node, cut.out] = self._emit_slices(node, cut)
            if self._makes_own_whole(node, cut):
                self.joined[node] = node
            else:
                replaced.append(node)
        for node in reversed(replaced):
            self.graph.erase_node(node)
        self.graph.eliminate_dead_code()

    def _makes_own_whole(self, node: fx.Node, cut: Cut) -> bool:
        """Return whether a cut value needs no join, because it can be made from whole operands."""
        return isinstance(cut.out, Sliced) and all(s == WHOLE for s in cut.inputs)

    def _keep_whole(self, node: fx.Node) -> None:
        """Give whole operands to an operation that is not cut."""
        if node.target is aten.sym_size.int and node.all_input_nodes[0] in self.analysis.states:
            node.replace_all_uses_with(self.nodes.sizes.node_or_int(to_size(node.meta["val"])))
            self.graph.erase_node(node)
            return
        for operand in node.all_input_nodes:
            if operand in self.analysis.states and operand.op != "placeholder":
                with self.graph.inserting_before(node):
                    node.replace_input_with(operand, self._whole(operand))

    def slices_of_inputs(self) -> list[fx.Node]:
        """Return the slices of the graph's inputs."""
        inputs = (pieces for (value, _), pieces in self.pieces.items() if value.op == "placeholder")
        return [piece for pieces in inputs for piece in pieces]

    def witness(self) -> Witness:
        """Return which values after the rewriting stand for which before it."""
        witness = Witness()
        for (value, state), pieces in self.pieces.items():
            if isinstance(state, Sliced):
                for claim in self._pieces_of(value, state, pieces):
                    witness.add(value.name, claim)
        for value, whole in self.joined.items():
            witness.add(value.name, Whole(whole.name))
        for value, (total, group) in self.totals.items():
            witness.add(value.name, Whole(total.name, group))
        return witness

    def _pieces_of(self, value: fx.Node, state: Sliced, pieces: list[Any]) -> Iterator[Piece]:
        """Yield what each slice of a value is of it."""
        dealt = self.analysis.dealt.get(value)
        ranks, group = (dealt.ranks, dealt.group) if dealt is not None else (1, "")
        if (dealt is not None and dealt.stacked) or not isinstance(state.outer, int):
            return
        start = 0
        for piece in pieces:
            extent = size_hint(piece.meta["val"].shape[state.dim])
            length = extent * ranks if dealt is not None else extent // state.outer
            outer = 1 if dealt is not None else state.outer
            yield Piece(piece.name, state.dim, outer, start, length, group, ranks)
            start += length

    # -- one operation ---------------------------------------------------------------------

    def _emit_slices(self, node: fx.Node, cut: Cut) -> list[Any]:
        """Emit the operation of every slice."""
        if self.only is not None:
            return [self._emit(node, cut, self.only)] * self.parts
        return [self._emit(node, cut, i) for i in range(self.parts)]

    def _emit(self, node: fx.Node, cut: Cut, index: int, chained: fx.Node | None = None) -> Any:
        """Emit the operation of slice ``index``; return its node, or ``Members`` of several."""
        if node.target is operator.getitem:
            return self._member(node, index)
        given: list[Any] = []  # a value may be two operands, in two required states

        def operand(x: fx.Node) -> Any:
            if not isinstance(x.meta.get("val"), torch.Tensor):
                return x
            place = len(given)
            wanted = cut.inputs[place]
            if chained is not None and place == cut.chain:
                given.append(chained)
            elif isinstance(wanted, Prefix):
                given.append([self._operand(x, wanted.chunk, i) for i in range(index + 1)])
            else:
                given.append(self._operand(x, wanted, index))
            return given[-1]

        args = tuple(fx.node.map_arg(node.args, operand))
        kwargs = dict(fx.node.map_arg(node.kwargs, operand))
        if cut.functions:
            args = self._with_functions(args, cut, given, index)
        target: Any = node.target
        for scaled in cut.scaled:
            size = self.chunks.part_of(scaled.extent, index)
            args, kwargs = with_size(args, kwargs, scaled.argument, scaled.entry, size)
        if cut.expand is not None:
            emit = partial(self._emit_one, node, index)
            return cut.expand(emit, args, kwargs, self.chunks, index)
        if cut.build is not None:
            target, args, kwargs = cut.build(args, kwargs, self.chunks, index)
            return self.nodes.call(node, target, args, kwargs, index)
        return self.nodes.call(
            node, target, args, kwargs, index, self._value(node, cut, args, index)
        )

    def _with_functions(
        self, args: tuple[Any, ...], cut: Cut, given: list[fx.Node], index: int
    ) -> tuple[Any, ...]:
        """Return a slice's arguments; functions that capture cut values get the slice's version."""
        functions = iter(cut.functions)

        def for_slice(x: fx.Node) -> fx.Node:
            if (subgraph := subgraph_of(x)) is None:
                return x
            function = next(functions)
            if all(i is None or cut.inputs[i] == WHOLE for i in function.captured):
                return x
            values = [None if i is None else given[i].meta["val"] for i in function.captured]
            copied, env = copy_for(subgraph, values)
            if function.inside is not None:
                inside = function.inside.analysis.moved(env)
                Slicer(copied.graph, CutPlan(self.chunks, inside), index).run()
                copied.recompile()
            return add_subgraph(self.graph, x, copied, f"s{index}")

        return tuple(fx.node.map_arg(args, for_slice))

    def _emit_one(
        self, node: fx.Node, index: int, target: Any, *args: Any, **kwargs: Any
    ) -> fx.Node:
        """Emit one of the operations that make slice ``index`` of a node."""
        return self.nodes.call(node, target, args, kwargs, index)

    def _member(self, node: fx.Node, index: int) -> Any:
        """Return one result of slice ``index`` of an operation with several results."""
        base, number = node.args
        assert isinstance(base, fx.Node) and isinstance(number, int)
        piece = self.pieces[base, self.analysis.state(base)][index]
        if isinstance(piece, Members):
            if number in piece.given:
                return piece.given[number]
            piece = piece.base
        return self.nodes.call(node, operator.getitem, (piece, number), {}, index)

    def _value(self, node: fx.Node, cut: Cut, args: tuple[Any, ...], index: int) -> Any:
        """Return a slice's fake value if it follows from the whole value, otherwise ``None``.

        Slicing spends most of its time on running operations on fake tensors. It can skip that for
        an operation that makes a new contiguous tensor from contiguous operands: a slice is the
        whole value with another extent, and a summand has the whole value's shape.
        """
        if not isinstance(cut.out, (Sliced, Partial)) or not _compat.is_plain(node.target):
            return None
        whole = node.meta["val"]
        inputs = [x.meta["val"] for x in args if isinstance(x, fx.Node)]
        tensors = [x for x in (whole, *inputs) if isinstance(x, torch.Tensor)]
        if not all(_compat.is_contiguous(x) for x in tensors[: 1 if is_matmul(node) else None]):
            return None
        shape = list(whole.shape)
        if isinstance(cut.out, Sliced):
            dim = cut.out.dim
            size = self.nodes.sizes.node_or_int(self.chunks.part_of(to_size(shape[dim]), index))
            shape[dim] = size.meta["val"] if isinstance(size, fx.Node) else size
        return _compat.new_fake(self.nodes.fake_mode, shape, whole.dtype, whole.device)

    def _operand(self, value: fx.Node, wanted: States, index: int) -> Any:
        have = self.analysis.state(value)
        if wanted == WHOLE:
            return self._whole(value)
        if (value, wanted) in self.pieces:
            return self.pieces[value, wanted][index]
        if have == wanted and value.op != "placeholder":
            raise AssertionError(f"{value} is {have} but has no pieces")
        assert isinstance(wanted, Sliced)
        self.pieces[value, wanted] = self._cut(value, wanted)
        return self.pieces[value, wanted][index]

    def _combine(self, node: fx.Node, cut: Cut, state: Partial) -> None:
        """Add up the slices' summands, or take their maximum or minimum, and finish the result."""
        if self.only is None and self.adds_in_products and _can_add(node, cut):
            self._add_in_products(node, cut)
            return
        combine = aten.add.Tensor
        if isinstance(state, PartialMax):
            combine = aten.maximum.default if state.largest else aten.minimum.default
        parts = self._emit_slices(node, cut)
        total = parts[0]
        for part in parts[1:] if self.only is None else ():
            last = part is parts[-1] and not cut.finish
            value = node.meta["val"] if last else None
            total = self.nodes.whole_call(node, combine, (total, part), value)
        for target, extra in cut.finish:
            total = self.nodes.whole_call(node, target, (total, *extra))
        self._replace_whole(node, total)

    def _add_in_products(self, node: fx.Node, cut: Cut) -> None:
        """Let each slice's product add to the sum of those before."""
        total, *products = self._emit_slices(node, cut)
        for product in products:
            product.target, product.args = aten.addmm.default, (total, *product.args)
            total = product
        self._replace_whole(node, total)

    def _prefix_sum(self, node: fx.Node, cut: Cut, state: PrefixSum) -> None:
        """Add up each chunk's summands, which come from its own slice and from all later slices."""
        made = [self._emit(node, cut, i) for i in range(self.parts)]
        totals = [x.own if isinstance(x, Summands) else x for x in made]
        extent = to_shape(node.meta["val"].shape)[state.dim]
        for index, summands in enumerate(made):
            if not isinstance(summands, Summands):
                continue
            lengths = [self.chunks.part_of(extent, i) for i in range(index)]
            pieces = [summands.past]
            if index > 1:
                pieces = self.nodes.take_apart(node, summands.past, state.dim, lengths)
            for place, piece in enumerate(pieces):
                both = (totals[place], piece)
                totals[place] = self.nodes.call(node, aten.add.Tensor, both, {}, place)
        self.pieces[node, state.chunk] = totals

    def _chain(self, node: fx.Node, cut: Cut) -> None:
        """Let each slice accumulate into the result of the previous one."""
        result: fx.Node | None = None
        for index in range(self.parts):
            result = self._emit(node, cut, index, result)
        assert result is not None
        self._replace_whole(node, result)

    def _replace_whole(self, node: fx.Node, total: fx.Node) -> None:
        total.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(total)
        dealt = [self.analysis.dealt[x] for x in node.all_input_nodes if x in self.analysis.dealt]
        self.totals[node] = (total, dealt[0].group if dealt else "")

    # -- whole <-> slices ------------------------------------------------------------------

    def _whole(self, value: fx.Node) -> fx.Node:
        """Return the whole value: the value itself, or its joined slices."""
        state = self.analysis.state(value)
        if state == WHOLE or value.op == "placeholder":
            return value
        if self.only is not None:
            piece: fx.Node = self.pieces[value, state][self.only]
            return piece
        if value not in self.joined:
            assert isinstance(state, Sliced), f"{value} is {state} and cannot be joined"
            joined = self._join(value, state)
            joined.meta["val"] = value.meta["val"]
            self.joined[value] = joined
        return self.joined[value]

    def _join(self, value: fx.Node, state: Sliced) -> fx.Node:
        """Join the slices of a value, with its dimensions in memory in the same order as before.

        The order matters because the value may be viewed: torch itself makes the views of a
        program's results, outside the graph.
        """
        pieces = self.pieces[value, state]
        order = order_in_memory(value.meta["val"])
        if state.outer == 1:
            pieces = [self.nodes.permuted(value, piece, order) for piece in pieces]
            dim = order.index(state.dim)
            joined = self.nodes.whole_call(value, aten.cat.default, (pieces, dim))
            return self.nodes.permuted(value, joined, inverse(order))
        shape = to_shape(value.meta["val"].shape)
        opened = [
            self.nodes.view(value, piece, self._opened(shape, state, index))
            for index, piece in enumerate(pieces)
        ]
        joined = self.nodes.whole_call(value, aten.cat.default, (opened, state.dim + 1))
        joined = self.nodes.permuted(value, self.nodes.view(value, joined, shape), order)
        if order != sorted(order):
            joined = self.nodes.contiguous(value, joined, None)
        return self.nodes.permuted(value, joined, inverse(order))

    def _cut(self, value: fx.Node, state: Sliced) -> list[fx.Node]:
        whole = self._whole(value)
        shape = to_shape(value.meta["val"].shape)
        dim = state.dim
        if state.outer != 1:
            whole = self.nodes.view(value, whole, self._opened(shape, state, None))
            dim += 1
        extent = self._opened(shape, state, None)[dim] if state.outer != 1 else shape[dim]
        lengths = [self.chunks.part_of(extent, i) for i in range(self.parts)]
        pieces = self.nodes.take_apart(value, whole, dim, lengths)
        for index, piece in enumerate(pieces):
            if state.outer != 1:
                sizes = list(shape)
                sizes[state.dim] = self.chunks.part_of(shape[state.dim], index)
                pieces[index] = piece = self.nodes.view(value, piece, sizes)
            self.nodes.tag(piece, index, value.name)
        return pieces

    def _opened(self, shape: Any, state: Sliced, index: int | None) -> list[Size]:
        """Return the shape of the value or a slice, with ``outer`` split off the cut dimension."""
        from domino_compile.axes import quotient

        extent = shape[state.dim]
        rest = quotient(extent, state.outer)
        assert rest is not None
        part = rest if index is None else self.chunks.part_of(rest, index)
        return [*shape[: state.dim], state.outer, part, *shape[state.dim + 1 :]]


def _can_add(node: fx.Node, cut: Cut) -> bool:
    """Return whether a product of slices can add to another value, without losing precision."""
    plain = node.target is aten.mm.default and not cut.finish
    return plain and node.meta["val"].dtype in HALVES
