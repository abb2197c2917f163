"""Which operations of a sequence-parallel program may work on gathered tokens as they arrive.

An all-gather along dimension 0 stacks the ranks' tokens, ``(ranks * rows, shard, ...)``. Programs
with several rows want each row's tokens side by side, ``(rows, ranks * shard, ...)``, and copy the
whole activation for it (``split`` and ``cat``), and once more in front of a reduce-scatter. But
most operations do not care in which order they meet the tokens::

    gathered order                                 row order
    all-gather -> product -> ... -> product -> reduce-scatter      (no copy at all)
    all-gather -> product ------------------> heads -> attention   (a copy of the small result)

Products of activations and weights, pointwise operations and reductions over features treat each
token alone. Products and reductions over all tokens, of weight gradients, need all operands in one
order, whichever. All others get row order. Where the order changes, the value is copied; a minimum
cut finds the changes that move the fewest bytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import networkx as nx
import torch
from networkx.algorithms.flow import boykov_kolmogorov
from torch import fx

from domino_compile._compat.operators import OpOverload
from domino_compile.graph.collectives import size_hint
from domino_compile.graph.nodes import VIEWS, computed_behind, is_returned, users_of
from domino_compile.scheduling.kinds import draws, is_fusible, is_pointwise

aten = torch.ops.aten

#: Reductions of everything, and those whose second argument names the dimensions. They accept
#: elements in any order.
WHOLE = {aten.max.default, aten.min.default, aten.mean.default, aten.sum.default}
REDUCTIONS = {aten.amax.default, aten.amin.default, aten.mean.dim, aten.sum.dim_IntList}
#: The ends of the network.
GATHERED, ROWS = "gathered", "rows"
#: An edge between numbered nodes or ends, and its capacity; ``None``: it cannot be cut.
Edge: TypeAlias = tuple[int | str, int | str, float | None]
Edges: TypeAlias = tuple[Edge, ...]
#: The share of a copy's cost that is left if fused kernels read or write in the other order.
FUSED = 0.25


class Form(Enum):
    """Where a value has its rows and tokens."""

    SPREAD = "(rows, tokens, ...)"
    FLAT = "(rows * tokens, ...)"
    TURNED = "(..., rows * tokens)"


@dataclass(frozen=True)
class Order:
    """The sizes of gathered tokens.

    Attributes:
        ranks: The number of ranks.
        rows: The number of rows of each, at least 2.
        shard: The number of tokens of a row that a rank holds.
    """

    ranks: int
    rows: int
    shard: int

    @property
    def tokens(self) -> int:
        """Return the number of tokens of a row."""
        return self.ranks * self.shard

    def fits(self, form: Form, shape: Sequence[Any]) -> bool:
        """Return whether a shape can have the form. Dynamic sizes are not looked at: no form."""
        held = {Form.SPREAD: shape[:2], Form.FLAT: shape[:1], Form.TURNED: shape[1:2]}[form]
        if form is Form.TURNED and len(shape) != 2:
            return False
        wanted = (self.rows, self.tokens) if form is Form.SPREAD else (self.rows * self.tokens,)
        return all(isinstance(extent, int) for extent in held) and tuple(held) == wanted

    def form_of(self, shape: Sequence[Any]) -> Form | None:
        """Return the form that a view of rows and tokens has."""
        return next((f for f in (Form.SPREAD, Form.FLAT) if self.fits(f, shape)), None)


@dataclass(frozen=True)
class Stacked:
    """All parts of a value, concatenated along another dimension.

    Attributes:
        source: The value.
        split: The node that splits it.
        count: The number of parts.
        along: The dimension that is split.
        into: The dimension that they are concatenated along.
    """

    source: fx.Node
    split: fx.Node
    count: int
    along: int
    into: int


@dataclass(frozen=True)
class Role:
    """What an operation does with tokens.

    Attributes:
        operands: Its operands with tokens, which must be in one order, and their forms.
        result: The form of its result; ``None`` if it has summed over tokens.
    """

    operands: tuple[tuple[fx.Node, Form], ...]
    result: Form | None


def stacked(node: fx.Node) -> Stacked | None:
    """Return what a ``cat`` of all equal parts of one value does; ``None`` for other nodes."""
    if node.target is not aten.cat.default:
        return None
    parts: Any = node.args[0]
    into: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    split = _split_of(parts)
    if split is None:
        return None
    source: Any = split.args[0]
    shape = source.meta["val"].shape
    along: Any = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
    along, into = along % len(shape), into % len(shape)
    first = parts[0].meta["val"].shape
    if not all(isinstance(extent, int) for extent in shape):
        return None
    if along == into or shape[along] != len(parts) * first[along]:
        return None
    return Stacked(source, split, len(parts), along, into)


def removable(node: fx.Node) -> Stacked | None:
    """Return what a ``cat`` of all parts of one value does if it can do without copying.

    It cannot where its result must be memory of its own: where it is returned, or shows an input.
    """
    made = stacked(node)
    if made is None or computed_behind(made.source).op != "call_function" or is_returned(node):
        return None
    return made


def _split_of(parts: Sequence[Any]) -> fx.Node | None:
    """Return the ``split`` whose results these are, all and in order."""
    sources = {part.args[0] for part in parts if _is_part(part)}
    split = sources.pop() if len(sources) == 1 and all(map(_is_part, parts)) else None
    if not isinstance(split, fx.Node) or split.target is not aten.split.Tensor:
        return None
    places = [part.args[1] for part in parts]
    return split if places == list(range(len(split.meta["val"]))) else None


def _is_part(node: Any) -> bool:
    return isinstance(node, fx.Node) and getattr(node.target, "__name__", "") == "getitem"


def _order_of(made: Stacked) -> Order | None:
    """Return the sizes of tokens that are put into row order, or back; ``None`` for all else."""
    first, second = made.source.meta["val"].shape[:2]
    match made.along, made.into:
        case 0, 1:
            order = Order(made.count, first // made.count, second)
        case 1, 0:
            order = Order(made.count, first, second // made.count)
        case _:
            return None
    return order if order.rows > 1 else None


def _reordered(graph: fx.Graph) -> dict[fx.Node, tuple[Stacked, Order]]:
    """Return the nodes that change the order of the tokens of several rows."""
    found = {}
    for node in graph.find_nodes(op="call_function", target=aten.cat.default):
        made = stacked(node)
        order = None if made is None else _order_of(made)
        if made is not None and order is not None:
            found[node] = made, order
    return found


@dataclass(frozen=True)
class Found:
    """The operations that should work in gathered order, for one ``Order``.

    Attributes:
        order: The sizes.
        roles: What they do with tokens, in the order of the graph.
        gathers: The values in row order that are there in gathered order too, and which those are.
        scatters: The nodes that need gathered order, and the value of each.
    """

    order: Order
    roles: Mapping[fx.Node, Role]
    gathers: Mapping[fx.Node, fx.Node]
    scatters: Mapping[fx.Node, fx.Node]


def orders(graph: fx.Graph) -> list[Order]:
    """Return the sizes with which tokens of several rows are gathered or scattered."""
    return list(dict.fromkeys(order for _, order in _reordered(graph).values()))


def find_gathered(graph: fx.Graph, order: Order) -> Found:
    """Find the operations that should work in gathered order.

    Args:
        graph: A functional graph.
        order: The sizes of the gathers and scatters to look at.
    """
    made = {node: made for node, (made, its) in _reordered(graph).items() if its == order}
    sources = {node: stack.source for node, stack in made.items() if stack.into == 1}
    sinks = {node: stack for node, stack in made.items() if stack.into == 0}
    search = _Search(order, sources, sinks)
    inside = search.gathered()
    roles = {node: search.roles[node] for node in graph.nodes if node in inside}
    return Found(order, roles, sources, {node: stack.source for node, stack in sinks.items()})


class _Search:
    """Collects the operations around gathers and scatters that treat tokens alike, and cuts."""

    def __init__(
        self, order: Order, sources: dict[fx.Node, fx.Node], sinks: dict[fx.Node, Stacked]
    ) -> None:
        self.order, self.sources, self.sinks = order, sources, sinks
        self.forms: dict[fx.Node, Form] = {}
        self.roles: dict[fx.Node, Role] = {}
        #: The splits that only feed a node which needs gathered order.
        self.feeds = {made.split for node, made in sinks.items() if _only_feeds(made.split, node)}
        self._collect()

    def _collect(self) -> None:
        todo: deque[fx.Node] = deque()

        def see(value: fx.Node, form: Form) -> None:
            if value not in self.forms:
                self.forms[value] = form
                todo.append(value)

        for node in self.sources:
            see(node, Form.SPREAD)
        for made in self.sinks.values():
            see(made.source, Form.SPREAD)
        while todo:
            value = todo.popleft()
            for node in (value, *value.users):
                role = None if node in self.roles or node in self.sources else self._role(node)
                if role is None:
                    continue
                self.roles[node] = role
                for operand, form in role.operands:
                    see(operand, form)
                if role.result is not None:
                    see(node, role.result)

    def _role(self, node: fx.Node) -> Role | None:
        role = _Reader(self.order, self.forms, node).role()
        if role is None or len(dict(role.operands)) < len(role.operands):
            return None
        claimed = [*role.operands, *([(node, role.result)] if role.result is not None else [])]
        return role if all(self.forms.get(v, form) is form for v, form in claimed) else None

    def gathered(self) -> set[fx.Node]:
        """Return the operations on the side of gathered order of a minimum cut."""
        net = self._net()
        places = {node: place for place, node in enumerate(net)}
        inner = net.subgraph(net.nodes - {GATHERED, ROWS})
        inside: set[Any] = set()
        cuts: dict[Edges, list[int]] = {}
        # One cut for each part between collectives: a cut of everything takes far longer. Equal
        # layers have equal parts, which are cut once.
        for part in nx.weakly_connected_components(inner):
            nodes = sorted(part, key=places.__getitem__)
            edges = _numbered(net, nodes)
            if edges not in cuts:
                cuts[edges] = _cut(edges)
            inside.update(nodes[number] for number in cuts[edges])
        return inside & self.roles.keys()

    def _net(self) -> nx.DiGraph:
        """Return the network: an operation on the source's side works in gathered order.

        A value costs what lies behind it if its maker and some taker are on different sides.
        """
        net = nx.DiGraph()
        net.add_nodes_from((GATHERED, ROWS))
        for value in self.forms:
            maker: Any = GATHERED if value in self.sources else ROWS
            if value in self.roles:
                maker = value
            to_rows, to_gathered = self._prices(value)
            if maker != ROWS:
                net.add_edge(maker, ("to rows", value), capacity=to_rows)
            if maker != GATHERED:
                net.add_edge(("to gathered", value), maker, capacity=to_gathered)
            for user in value.users:
                taker = self._taker(value, user)
                net.add_edge(("to rows", value), taker)
                net.add_edge(taker, ("to gathered", value))
        return net

    def _taker(self, value: fx.Node, user: fx.Node) -> Any:
        role = self.roles.get(user)
        if role is not None and value in dict(role.operands):
            return user
        return GATHERED if user in self.feeds else ROWS

    def _prices(self, value: fx.Node) -> tuple[float, float]:
        """Return what it costs to put a value into row order, and into gathered order."""
        tensor = value.meta["val"]
        copied = float(size_hint(tensor.numel()) * tensor.element_size())
        to_rows = copied * (FUSED if all(map(is_fusible, users_of(value))) else 1.0)
        return to_rows, copied * (FUSED if is_fusible(computed_behind(value)) else 1.0)


def _numbered(net: nx.DiGraph, nodes: Sequence[Any]) -> Edges:
    """Return the edges between some nodes and the ends, with numbers for the nodes."""
    numbers: dict[Any, int | str] = {node: number for number, node in enumerate(nodes)}
    numbers[ROWS] = ROWS
    edges: list[Edge] = []
    for number, node in enumerate(nodes):
        if GATHERED in net.pred[node]:
            edges.append((GATHERED, number, net.pred[node][GATHERED].get("capacity")))
        edges += [
            (number, numbers[taker], edge.get("capacity"))
            for taker, edge in net.succ[node].items()
            if taker != GATHERED  # nothing flows back
        ]
    return tuple(edges)


def _cut(edges: Edges) -> list[int]:
    """Return the numbers of the nodes on the side of gathered order of a minimum cut."""
    net = nx.DiGraph()
    net.add_nodes_from((GATHERED, ROWS))
    for one, other, capacity in edges:
        net.add_edge(one, other, **({} if capacity is None else {"capacity": capacity}))
    _, (side, _) = nx.minimum_cut(net, GATHERED, ROWS, flow_func=boykov_kolmogorov)
    return [node for node in side if node != GATHERED]


def _only_feeds(split: fx.Node, node: fx.Node) -> bool:
    return all(set(part.users) == {node} for part in split.users)


class _Reader:
    """Reads what one operation does with tokens, given the forms known so far."""

    def __init__(self, order: Order, forms: Mapping[fx.Node, Form], node: fx.Node) -> None:
        self.order, self.forms, self.node = order, forms, node

    def role(self) -> Role | None:
        """Return what the operation does with tokens; ``None`` if it needs row order."""
        node = self.node
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            return None
        if not isinstance(node.meta.get("val"), torch.Tensor) or node.kwargs.get("out"):
            return None
        if node.target in VIEWS:
            return self._view()
        if node.target in (aten.permute.default, aten.t.default):
            return self._turned()
        if node.target in (aten.mm.default, aten.addmm.default, aten._scaled_mm.default):
            return self._product()
        if node.target in REDUCTIONS | WHOLE:
            return self._reduced()
        if is_pointwise(node) and not draws(node):
            return self._pointwise()
        return None

    def _operand(self, place: int) -> Any:
        return self.node.args[place] if place < len(self.node.args) else None

    def _view(self) -> Role | None:
        value = self._operand(0)
        if {self.forms.get(value), self.forms.get(self.node)} <= {Form.TURNED, None}:
            return None
        source, result = (self.order.form_of(n.meta["val"].shape) for n in (value, self.node))
        if source is None or result is None:
            return None
        return Role(((value, source),), result)

    def _turned(self) -> Role | None:
        value = self._operand(0)
        tensor = value.meta["val"]
        dims: Any = self._operand(1) or (1, 0)
        if tensor.ndim != 2 or [d % 2 for d in dims] != [1, 0]:
            return None
        other = {Form.FLAT: Form.TURNED, Form.TURNED: Form.FLAT}
        source = self.forms.get(value) or other.get(self.forms.get(self.node, Form.SPREAD))
        if source not in other or not self.order.fits(source, tensor.shape):
            return None
        return Role(((value, source),), other[source])

    def _product(self) -> Role | None:
        """Return the role of a product: of tokens and weights, or over tokens."""
        first = 1 if self.node.target is aten.addmm.default else 0
        left, right = self._operand(first), self._operand(first + 1)
        if self.forms.get(left) is Form.FLAT or self.forms.get(self.node) is Form.FLAT:
            return self._of_tokens(left)
        over = self.forms.get(left) is Form.TURNED or self.forms.get(right) is Form.FLAT
        shapes = left.meta["val"].shape, right.meta["val"].shape
        fit = self.order.fits(Form.TURNED, shapes[0]) and self.order.fits(Form.FLAT, shapes[1])
        if over and fit and left is not right:
            return Role(((left, Form.TURNED), (right, Form.FLAT)), None)
        return None

    def _of_tokens(self, left: fx.Node) -> Role | None:
        if not self.order.fits(Form.FLAT, left.meta["val"].shape):
            return None
        operands = [(left, Form.FLAT)]
        if self.node.target is aten.addmm.default and self._operand(0).meta["val"].ndim != 1:
            return None
        if self.node.target is aten._scaled_mm.default:
            scale = self._operand(2)
            if scale.meta["val"].ndim > 0 and scale.meta["val"].shape[0] != 1:
                if not self.order.fits(Form.FLAT, scale.meta["val"].shape):
                    return None
                operands.append((scale, Form.FLAT))
        return Role(tuple(operands), Form.FLAT)

    def _reduced(self) -> Role | None:
        value = self._operand(0)
        form = self.forms.get(value) or self.forms.get(self.node)
        tensor, dims = value.meta["val"], self._operand(1)
        if self.node.target in WHOLE:
            dims = range(tensor.ndim)
        if form is None or not dims or not self.order.fits(form, tensor.shape):
            return None
        reduced, held = {d % tensor.ndim for d in dims}, self._dims(form, tensor.ndim)
        if held <= reduced:
            return Role(((value, form),), None)
        if held & reduced or not self.order.fits(form, self.node.meta["val"].shape):
            return None
        return Role(((value, form),), form)

    def _pointwise(self) -> Role | None:
        known = [self.forms.get(n) for n in (self.node, *self.node.all_input_nodes)]
        for form in dict.fromkeys(f for f in known if f is not None):
            role = self._elementwise(form)
            if role is not None:
                return role
        return None

    def _elementwise(self, form: Form) -> Role | None:
        shape = self.node.meta["val"].shape
        if not self.order.fits(form, shape):
            return None
        held = self._dims(form, len(shape))
        operands = []
        for operand in self.node.all_input_nodes:
            tensor = operand.meta.get("val")
            if not isinstance(tensor, torch.Tensor):
                return None
            wide = (1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape)
            if not all(isinstance(wide[d], int) for d in held):
                return None
            if all(wide[d] == shape[d] for d in held) and tensor.ndim == len(shape):
                operands.append((operand, form))
            elif any(wide[d] != 1 for d in held):
                return None
        return Role(tuple(operands), form) if operands else None

    def _dims(self, form: Form, ndim: int) -> set[int]:
        """Return the dimensions that hold rows and tokens."""
        return {Form.SPREAD: {0, 1}, Form.FLAT: {0}, Form.TURNED: {ndim - 1}}[form]


def extent_of(stack: Stacked) -> int:
    """Return how many blocks the parts move past; 1 if they stay where they are in memory."""
    shape = stack.source.meta["val"].shape
    low, high = sorted((stack.along, stack.into))
    part = [*shape]
    part[stack.along] //= stack.count
    return math.prod(part[low:high])
