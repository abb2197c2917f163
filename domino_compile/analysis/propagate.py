"""One walk over the graph: the state of every value, given where the cut begins."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import fx

from domino_compile.analysis.dealt import COMBINED, Dealt, begin, follow
from domino_compile.axes import (
    WHOLE,
    Partial,
    PartialSum,
    PerSlice,
    Prefix,
    PrefixSum,
    Size,
    Sliced,
    State,
    States,
    state_at,
    to_shape,
)
from domino_compile.axes.sizes import divides, product, quotient
from domino_compile.graph.collectives import backward_nodes, is_launch, is_wait, tensor_bytes
from domino_compile.graph.nodes import is_free
from domino_compile.graph.subgraphs import subgraph_of
from domino_compile.rules import (
    Call,
    Cut,
    Inside,
    Operand,
    Refusal,
    Subgraph,
    Trait,
    find_pull,
    find_rule,
    traits_of,
    without_rule,
)
from domino_compile.rules.registry import rule_of


@dataclass(frozen=True)
class Limits:
    """How far a cut may extend; by default, the rules are the only limit.

    Attributes:
        within: The operations that may be cut; ``None`` for all.
        ends: Values that are made in slices but are whole for all operations that use them.
        pulled: The values that may be pulled, that is, made in slices on request; ``None`` for all.
        columns: The products that are cut by columns, where the cut begins.
    """

    within: frozenset[fx.Node] | None = None
    ends: frozenset[fx.Node] = frozenset()
    pulled: frozenset[fx.Node] | None = None
    columns: frozenset[fx.Node] = frozenset()


@dataclass(frozen=True)
class Need:
    """Why an operation must run whole, although its rule could cut it.

    Attributes:
        node: The operation that needs the result whole.
        reason: The reason why it does.
    """

    node: fx.Node
    reason: str


NO_LIMITS = Limits()
#: Operations that read or write a value's elements by their places in memory.
BY_PLACE = (torch.ops.aten.as_strided.default, torch.ops.aten.as_strided_scatter.default)
#: Operations that give an ``arange`` dimensions of extent 1.
COUNT_VIEWS = (torch.ops.aten.unsqueeze.default, torch.ops.aten.view.default)


@dataclass
class Analysis:
    """The cut of a graph: the state of each value, and how each operation is cut.

    Attributes:
        batch: The extent of the cut axis.
        seeds: The nodes where the cut begins, and how each is cut.
        states: The state of every value that is not whole.
        cuts: How each cut operation is computed in slices.
        refusals: The operations that run whole although an operand is cut, and why.
        wanted: Whole values that a cut operation needs in slices, in the order of the graph.
        joins: Cut values that are needed whole (or cut differently), each with the node that needs
            it.
        blocked: Operations that run whole from the start, because an earlier walk found that they
            must.
        unjoinable: Operations that must run whole, because their result is needed whole and cannot
            be joined: it is opaque, or its tokens are dealt differently.
        dealt: The values whose tokens the cut deals differently to the ranks (``analysis.dealt``).
        limits: How far the cut may extend.
    """

    batch: Size
    seeds: Mapping[fx.Node, Sliced]
    limits: Limits = NO_LIMITS
    states: dict[fx.Node, States] = field(default_factory=dict)
    cuts: dict[fx.Node, Cut] = field(default_factory=dict)
    refusals: dict[fx.Node, Refusal] = field(default_factory=dict)
    wanted: list[tuple[fx.Node, Sliced]] = field(default_factory=list)
    joins: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    blocked: Mapping[fx.Node, Need] = field(default_factory=dict)
    unjoinable: dict[fx.Node, Need] = field(default_factory=dict)
    dealt: dict[fx.Node, Dealt] = field(default_factory=dict)

    def state(self, node: fx.Node) -> States:
        """Return the state of a node's value."""
        return self.states.get(node, WHOLE)

    def seen(self, node: fx.Node) -> States:
        """Return the state in which the operations that use a node's value see it."""
        return WHOLE if node in self.limits.ends else self.state(node)

    def moved(self, env: Mapping[fx.Node, fx.Node]) -> Analysis:
        """Return the analysis for a copy of the graph, given each node's copy."""
        return replace(
            self,
            seeds={env[n]: s for n, s in self.seeds.items()},
            states={env[n]: s for n, s in self.states.items()},
            cuts={env[n]: c for n, c in self.cuts.items()},
            dealt={env[n]: how for n, how in self.dealt.items()},
        )

    def sliced_collectives(self) -> list[fx.Node]:
        """Return the launches that are cut."""
        return [n for n in self.cuts if is_launch(n)]

    def inner_joins(self) -> list[tuple[fx.Node, fx.Node]]:
        """Return the joins inside the graph: not of inputs, which exist whole, nor for outputs."""
        return [
            (value, user)
            for value, user in self.joins
            if user.op != "output" and value.op != "placeholder"
        ]

    @cached_property
    def gradients(self) -> set[fx.Node]:
        """The nodes that depend on a gradient of an output."""
        return backward_nodes(next(iter(self.seeds)).graph)

    @cached_property
    def unit(self) -> int:
        """How many rows or tokens the cut treats as one: if it deals tokens, one for each rank."""
        node, state = next(iter(self.seeds.items()))
        extent = quotient(to_shape(node.meta["val"].shape)[state.dim], state.outer)
        rows = quotient(extent, self.batch) if extent is not None and self.dealt else 1
        return rows if isinstance(rows, int) else 1

    @cached_property
    def looks_back(self) -> bool:
        """Whether slices need results of earlier slices, as tokens of causal attention do."""
        return any(isinstance(s, Prefix) for cut in self.cuts.values() for s in cut.inputs)

    def joined_bytes(self, users: Collection[fx.Node] | None = None) -> int:
        """Return the bytes that joins inside the graph copy, each value counted once.

        Args:
            users: The nodes for which joins count; ``None`` for all nodes.
        """
        joined = {v for v, user in self.inner_joins() if users is None or user in users}
        return sum(tensor_bytes(v.meta.get("val")) for v in joined)


def propagate(
    graph: fx.Graph,
    batch: Size,
    seeds: Mapping[fx.Node, Sliced],
    blocked: Mapping[fx.Node, Need] | None = None,
    limits: Limits = NO_LIMITS,
) -> Analysis:
    """Follow a cut from the seeds through the graph.

    Args:
        graph: A functional aten graph with ``val`` metadata.
        batch: The extent of the cut axis.
        seeds: Placeholders, or operations that can be pulled (``rules.find_pull``).
        blocked: Operations that must run whole, and why.
        limits: How far the cut may extend.
    """
    needs = {**_read_by_place(graph), **(blocked or {})}
    analysis = _propagated(graph, batch, seeds, needs, limits)
    while early := _joined_early(analysis):
        needs |= early
        analysis = _propagated(graph, batch, seeds, needs, limits)
    return analysis


def _joined_early(analysis: Analysis) -> dict[fx.Node, Need]:
    """Return the cut launches whose wait is whole: a join would read pieces before they arrive."""
    pieces = ((value, user) for value, user in analysis.joins if is_wait(user))
    launches = ((x.args[0] if x.target is operator.getitem else x, user) for x, user in pieces)
    return {
        x: _need(analysis, user)
        for x, user in launches
        if isinstance(x, fx.Node) and is_launch(x) and x not in analysis.blocked
    }


def _propagated(
    graph: fx.Graph,
    batch: Size,
    seeds: Mapping[fx.Node, Sliced],
    blocked: Mapping[fx.Node, Need],
    limits: Limits,
) -> Analysis:
    analysis = Analysis(batch, seeds, limits, blocked=blocked)
    for node in graph.nodes:
        if node.op == "placeholder":
            if node in seeds:
                analysis.states[node] = seeds[node]
        elif node.op == "call_function" and node.target is operator.getitem:
            _getitem(analysis, node)
        elif node.op == "call_function":
            _operation(analysis, node)
        else:
            _needs_whole(analysis, node)
    return analysis


def _read_by_place(graph: fx.Graph) -> dict[fx.Node, Need]:
    """Return the values that are read by places in memory, which a join may change."""
    values: dict[fx.Node, Need] = {}
    for target in BY_PLACE:
        for node in graph.find_nodes(op="call_function", target=target):
            value: Any = node.args[0]
            while isinstance(value, fx.Node) and value not in values:
                values[value] = Need(node, "needs elements by their places in memory")
                value = value.args[0] if value.args and is_free(value) else None
    return values


def _getitem(analysis: Analysis, node: fx.Node) -> None:
    base, index = node.args
    assert isinstance(base, fx.Node)
    states = analysis.state(base)
    if states == WHOLE and node in analysis.seeds:
        analysis.states[node] = analysis.seeds[node]
        return
    if isinstance(states, tuple):
        assert isinstance(index, int)
        state = state_at(states, index)
        analysis.cuts[node] = Cut((states,), state)
        if base in analysis.dealt:
            analysis.dealt[node] = analysis.dealt[base]
        if isinstance(state, PrefixSum):
            analysis.states[node] = state.chunk
        elif not isinstance(state, Partial):
            analysis.states[node] = state
    elif states != WHOLE:
        _needs_whole(analysis, node)


def _operation(analysis: Analysis, node: fx.Node) -> None:
    want, limits, blocked = analysis.seeds.get(node), analysis.limits, node in analysis.blocked
    if want is None and all(analysis.seen(x) == WHOLE for x in node.all_input_nodes):
        if limits.ends:
            _needs_whole(analysis, node)
        return
    if node.target is torch.ops.aten.sym_size.int:
        return  # the size of the whole value is known without the value
    call, nodes = make_call(analysis, node)
    outcome: Cut | Refusal
    if blocked:
        outcome = Refusal("its per-slice state is needed whole elsewhere")
    elif limits.within is not None and node not in limits.within:
        outcome = Refusal("couples the columns, or uses a value that does")
    elif want is not None and node in limits.columns:
        product = rule_of(node.target)
        assert product is not None and product.columns is not None
        outcome = product.columns(call, want)
    elif want is not None and (pull := find_pull(node.target)) is not None:
        outcome = pull(call, want)
    elif (rule := find_rule(node.target)) is not None:
        outcome = rule(call) if _has_cut_operand(call) else Refusal("takes only per-slice values")
    else:
        outcome = without_rule(node.target)
    if isinstance(outcome, Cut) and not _divisible(call, outcome):
        outcome = Refusal("an extent is not known to be a multiple of the batch's")
    dealt = [analysis.dealt.get(x) for x in nodes]
    how: Dealt | None = None
    if any(dealt):
        outcome, how = follow(node, call, dealt, outcome, lambda x: x in analysis.gradients)
    elif isinstance(outcome, Refusal) and not blocked and (begun := begin(node, call)) is not None:
        cut, how = begun
        if isinstance(cut, Cut) and _divisible(call, cut):
            outcome = cut
    if isinstance(outcome, Refusal):
        if any(x in analysis.states for x in node.all_input_nodes):
            analysis.refusals[node] = outcome
            _needs_whole(analysis, node)
        return
    _apply(analysis, node, nodes, outcome)
    if how is not None:
        analysis.dealt[node] = how


def _divisible(call: Call, cut: Cut) -> bool:
    """Return whether every extent that is cut is provably a multiple of the batch's.

    torch may know that two dynamic extents are equal although their expressions do not prove it.
    """
    cuts = [(x.shape, _chunk(state)) for x, state in zip(call.operands, cut.inputs, strict=True)]
    if isinstance(cut.out, Sliced):
        cuts.append((call.out, cut.out))
    elif isinstance(cut.out, tuple):
        cuts += [
            (shape, s) for shape, s in zip(call.out, cut.out, strict=True) if shape is not None
        ]
    return all(
        divides(product((state.outer, call.batch)), shape[state.dim])
        for shape, state in cuts
        if isinstance(state, Sliced)
    )


def _chunk(state: States) -> States:
    """Return the state of the value that an operand is made of."""
    return state.chunk if isinstance(state, Prefix) else state


def _has_cut_operand(call: Call) -> bool:
    return any(isinstance(x.state, Sliced) for x in call.operands)


def _apply(analysis: Analysis, node: fx.Node, nodes: list[fx.Node], cut: Cut) -> None:
    for operand, state in zip(nodes, cut.inputs, strict=True):
        have, wanted = analysis.state(operand), _chunk(state)
        if have == wanted:
            continue
        if have != WHOLE:
            _join(analysis, operand, node)
        if isinstance(wanted, Sliced):
            analysis.wanted.append((operand, wanted))
    if cut.out == WHOLE and cut.chain is None and all(s == WHOLE for s in cut.inputs):
        return
    analysis.cuts[node] = cut
    if isinstance(cut.out, (Sliced, PerSlice, tuple)):
        analysis.states[node] = cut.out


def _needs_whole(analysis: Analysis, node: fx.Node) -> None:
    for operand in node.all_input_nodes:
        if operand in analysis.states:
            _join(analysis, operand, node)


def _join(analysis: Analysis, value: fx.Node, user: fx.Node) -> None:
    need, states = _need(analysis, user), analysis.state(value)
    members: tuple[State, ...] = states if isinstance(states, tuple) else (states,)
    if any(not isinstance(s, Sliced) for s in members):
        source = value
        while source.target is operator.getitem:
            assert isinstance(source.args[0], fx.Node)
            source = source.args[0]
        analysis.unjoinable.setdefault(source, need)
    if value in analysis.dealt:
        for source in analysis.dealt[value].sources:
            analysis.unjoinable.setdefault(source, need)
    analysis.joins.append((value, user))


def _need(analysis: Analysis, user: fx.Node) -> Need:
    """Return why an operand of an operation is needed whole, or cut differently."""
    if user in analysis.blocked:
        return analysis.blocked[user]
    if user.op == "output":
        return Need(user, "the graph returns it as the uncut program does")
    refusal = analysis.refusals.get(user)
    if refusal is COMBINED and (behind := _refused_behind(analysis, user)) is not None:
        return _need(analysis, behind)
    return Need(user, refusal.reason if refusal else "wanted in another form")


def tensor_operands(node: fx.Node) -> list[fx.Node]:
    """Return the tensors that an operation takes, in the order of ``Call.operands``."""
    operands: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), operands.append)
    return [x for x in operands if isinstance(x.meta.get("val"), torch.Tensor)]


def make_call(analysis: Analysis, node: fx.Node) -> tuple[Call, list[fx.Node]]:
    """Return the call as rules see it, and the node of each operand."""
    nodes: list[fx.Node] = []
    operands: list[Operand] = []

    def operand(x: fx.Node) -> Any:
        value = x.meta.get("val")
        if isinstance(value, torch.SymInt | int):
            return to_shape([value])[0]
        if (subgraph := subgraph_of(x)) is not None:
            return Subgraph(subgraph.graph)
        if not isinstance(value, torch.Tensor):
            return x
        shape = to_shape(value.shape)
        made = Operand(len(operands), analysis.seen(x), shape, value.dtype, counted_dim(x))
        operands.append(made)
        nodes.append(x)
        return made

    args = fx.node.map_arg(node.args, operand)
    kwargs = fx.node.map_arg(node.kwargs, operand)
    out = _shapes(node.meta.get("val"))
    inside = partial(cut_inside, analysis.batch)
    call = Call(
        node.target, tuple(args), dict(kwargs), out, analysis.batch, tuple(operands), inside
    )
    return call, nodes


def counted_dim(node: fx.Node) -> int | None:
    """Return the dimension along which each element is its own number; ``None`` if there is none.

    That is an ``arange`` from zero, whatever dimensions of extent 1 a view has added.
    """
    if node.target is torch.ops.prims.iota.default:
        return 0 if (node.kwargs.get("start"), node.kwargs.get("step")) == (0, 1) else None
    if node.target not in COUNT_VIEWS or counted_dim(node.all_input_nodes[0]) is None:
        return None
    long = [d for d, extent in enumerate(to_shape(node.meta["val"].shape)) if extent != 1]
    return long[0] if len(long) == 1 else None


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return to_shape(value.shape)
    if isinstance(value, (tuple, list)):
        return tuple(_shapes(member) for member in value)
    return None


def _refused_behind(analysis: Analysis, node: fx.Node) -> fx.Node | None:
    """Return the nearest refused operation for which an operand of an operation is whole."""
    waiting = deque(node.all_input_nodes)
    seen = set(waiting)
    while waiting:
        value = waiting.popleft()
        if value in analysis.refusals:
            return value
        more = [x for x in value.all_input_nodes if x not in seen and value not in analysis.states]
        seen.update(more)
        waiting += more
    return None


# -- graphs that operations call -----------------------------------------------------------


def cut_inside(
    batch: Size, subgraph: Subgraph, states: tuple[State, ...], results: tuple[State, ...]
) -> Inside | Refusal:
    """Follow a cut through a graph that an operation calls. It must be cut from end to end.

    Args:
        batch: The extent of the cut axis.
        subgraph: The called graph.
        states: The states of its inputs. A whole input is also cut if the graph needs it in slices.
        results: The preferred states of its results, which are given to constants.
    """
    if not isinstance(batch, int):
        return Refusal("it calls a graph, and the batch has a dynamic size")
    graph, inputs = subgraph.graph, subgraph.inputs
    output = graph.output_node()
    made: Any = output.args[0]
    seeds = {x: s for x, s in zip(inputs, states, strict=True) if isinstance(s, Sliced)}
    for value, want in zip(made, results, strict=True):
        if isinstance(value, fx.Node) and isinstance(want, Sliced) and _is_zero(value):
            seeds[value] = want
    while True:
        analysis = propagate(graph, batch, seeds)
        more = {x: s for x, s in analysis.wanted if x.op == "placeholder" and x not in seeds}
        if not more:
            break
        seeds |= more
    for node, refusal in analysis.refusals.items():
        return Refusal(f"{node.target} in the graph that it calls: {refusal.reason}")
    if analysis.looks_back or analysis.dealt:
        return Refusal("in the graph that it calls, a slice needs more than its part")
    joined = any(user is not output for _, user in analysis.joins)
    if joined or analysis.unjoinable or not _sums_are_results(analysis, output):
        return Refusal("the graph that it calls needs a whole value")
    return Inside(
        inputs=tuple(seeds.get(x, WHOLE) for x in inputs),
        out=tuple(_result_state(analysis, value) for value in made),
        zeros=tuple(isinstance(value, fx.Node) and _is_zero(value) for value in made),
        analysis=analysis,
    )


def _is_zero(value: fx.Node) -> bool:
    return value.target is torch.ops.aten.full.default and bool(value.args[1] == 0)


def _sums_are_results(analysis: Analysis, output: fx.Node) -> bool:
    """Return whether each partial sum is a result, at most reshaped: the caller adds it up."""
    for node, cut in analysis.cuts.items():
        partial = isinstance(cut.out, Partial)
        added = cut.out == PartialSum() and not cut.finish
        kept = added and all(_is_reshaped_to(user, output) for user in node.users)
        if cut.chain is not None or (partial and not kept):
            return False
    return True


def _is_reshaped_to(node: fx.Node, output: fx.Node) -> bool:
    reshapes = node.op == "call_function" and bool(traits_of(node.target) & Trait.RESHAPES)
    return node is output or (reshapes and all(_is_reshaped_to(u, output) for u in node.users))


def _result_state(analysis: Analysis, value: Any) -> State:
    """Return the state of a result; a summand may have been reshaped."""
    state = analysis.state(value) if isinstance(value, fx.Node) else WHOLE
    assert not isinstance(state, tuple)
    while isinstance(value, fx.Node) and value.op == "call_function" and state == WHOLE:
        if value in analysis.cuts and analysis.cuts[value].out == PartialSum():
            return PartialSum()
        value = value.args[0] if traits_of(value.target) & Trait.RESHAPES else None
    return state
