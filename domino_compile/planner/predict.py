"""Predict how long a graph takes once it is cut, without cutting it.

Slicing a graph costs more than all other passes together, so slicing it for every candidate would
take too long. A cut turns each unit of work (``scheduling.units``) into one unit per slice, which
does a share of the work and moves a share of those bytes that the analysis says are cut. So the
units of the uncut graph are expanded, and list scheduling orders them as it would order the units
of the sliced graph::

    for unit in uncut units:
        not cut -> the unit, after all slices of its inputs
        cut     -> one unit per slice, each after the same slice of its inputs, or after all of
                   their slices if the value is joined in between

Forward and backward are scheduled separately, because Inductor compiles them separately. Forward
saves the values that backward reads. Recomputation by checkpointing is made explicit (``unfold``);
other recomputation is decided later, so memory is overestimated for the cut and the uncut program
alike.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import fx

from domino_compile.analysis import Analysis
from domino_compile.axes import Partial, Sliced
from domino_compile.cost import CostModel
from domino_compile.cost.fused import Fused
from domino_compile.cost.model import Work, looking_back, slowdown, work_of
from domino_compile.graph.collectives import tensor_bytes
from domino_compile.graph.tags import Piece
from domino_compile.planner.candidates import INDUCTOR, Candidate
from domino_compile.planner.choose import Policy, Prediction
from domino_compile.planner.needs import Meeting, Needs, looks_back, units_at
from domino_compile.planner.unfold import Unfolded
from domino_compile.scheduling import (
    Unit,
    UnitGraph,
    allowed_bytes,
    improved,
    inductors_bytes,
    own_orders,
    run_order,
    schedule_units,
)
from domino_compile.scheduling.kinds import is_anchor, is_fusible
from domino_compile.scheduling.traffic import elements_of

#: A collective counts as not hidden if nothing computes for more than this fraction of its time.
WAITED = 0.25
#: The units of the largest phase whose order is improved to predict it: a block, or a small model.
MOST_IMPROVED = 128

#: The index of a part along each axis that is cut.
Place: TypeAlias = tuple[int, ...]
#: Whether a value is cut, for each axis that is cut.
Mask: TypeAlias = tuple[bool, ...]


def by_inductor(units: UnitGraph, cost: CostModel) -> UnitGraph:
    """Return the units as Inductor compiles them without us: fused kernels at its own rate."""
    theirs = []
    for unit in units.units:
        if unit.is_fused:
            cost_us, beside = cost.fused_us(unit.traffic.fused, inductors=True)
            unit = replace(unit, cost_us=cost_us, slowdown=slowdown(cost_us, beside))
        theirs.append(unit)
    return replace(units, units=theirs)


def predict_as_found(units: UnitGraph, backward: Callable[[fx.Node], Hashable]) -> Prediction:
    """Predict the program as Inductor compiles it without us: the units in the captured order."""
    parts = _phases(units.units, units.kept, backward)
    runs = [run_order(part) for part in parts]
    return Prediction(
        INDUCTOR,
        sum(run.total_us for run in runs),
        round(max(inductors_bytes(part) for part in parts)),
        sum(run.stall_us for run in runs),
    )


@dataclass
class _Extents:
    """A unit's work and traffic along the axes that are cut.

    Attributes:
        unit: The uncut unit.
        cut: The axes along which it is cut.
        traffic: The bytes that it moves, by the axes along which they are cut.
        hard: The elements of its hard operations, by the same axes.
        summed: The elements that it sums over rows, by the same axes.
        out_bytes: The bytes that it leaves, by the same axes.
        work: The work of a product or attention; ``None`` for other units.
        extents: The product's extent that each axis cuts; ``None`` for anything else.
        back: The axis of which it needs all earlier parts as well (tokens of causal attention).
        chained: Whether each slice adds to the result of the one before.
        costs: What has been computed for each part of the unit.
    """

    unit: Unit
    cut: Mask
    traffic: Counter[Mask] = field(default_factory=Counter)
    hard: Counter[Mask] = field(default_factory=Counter)
    summed: Counter[Mask] = field(default_factory=Counter)
    out_bytes: Counter[Mask] = field(default_factory=Counter)
    work: Work | None = None
    extents: tuple[str | None, ...] = ()
    back: int | None = None
    chained: bool = False
    costs: dict[tuple[float, ...], tuple[float, float, int]] = field(default_factory=dict)


@dataclass
class Pieces:
    """The units of one graph, cut into slices.

    Attributes:
        units: The units, and the copies that join slices.
        places: For each uncut unit its pieces, by their place along the axes.
        joined: For each uncut unit the copies that it reads.
    """

    units: list[Unit] = field(default_factory=list)
    places: list[dict[Place, int]] = field(default_factory=list)
    joined: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))


@dataclass
class Expansion:
    """The units of one graph, ready to be expanded into slices of any number and size.

    Args:
        program: The joint or inference graph, not cut.
        cost: The model that predicts times.
        axes: The analysis of each axis that is cut; empty to reorder only.
        units: The units of the graph, if already built; only used without axes.
    """

    program: Unfolded
    cost: CostModel
    axes: Sequence[Analysis] = ()
    units: UnitGraph | None = None
    _wanted: list[set[fx.Node]] = field(init=False)
    _meets: dict[tuple[int, int], list[Meeting]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.backward = self.program.is_backward
        self._wanted = [{value for value, _ in axis.wanted} for axis in self.axes]
        self.uncut = self.units or self.program.units(self.cost, self._kind)
        self.needs = Needs(self.uncut.units, self.axes, self.program)
        self.works = [self._extents(unit) for unit in self.uncut.units]

    def _kind(self, node: fx.Node) -> Hashable:
        origin = self.program.origin(node)
        return (self.backward(node), *(origin in axis.cuts for axis in self.axes))

    # -- how a cut changes each unit -------------------------------------------------------

    def _extents(self, unit: Unit) -> _Extents:
        first = self.program.origin(unit.nodes[0])
        cut = tuple(first in axis.cuts for axis in self.axes)
        extents = _Extents(unit, cut)
        for value, size in unit.traffic.reads.items():
            extents.traffic[self._mask(value, cut)] += size
        for value, size in unit.traffic.writes.items():
            extents.traffic[self._mask(value, cut)] += size
            extents.out_bytes[self._mask(value, cut)] += size
        if unit.launch:
            extents.out_bytes = Counter({self._mask(first, cut): unit.out_bytes})
        for value, size in unit.traffic.hard_sizes.items():
            extents.hard[self._mask(value, cut)] += size
        for value in unit.traffic.sums.values():
            extents.summed[self._mask(value, cut)] += elements_of(value)
        if len(unit.nodes) == 1 and not unit.launch:
            extents.work = work_of(first)
            extents.extents = tuple(_extent(axis, first) for axis in self.axes)
            back = (i for i, axis in enumerate(self.axes) if looks_back(axis, first))
            extents.back = next(back, None)
        extents.chained = is_anchor(first) and any(
            isinstance(axis.cuts[first].out, Partial) or axis.cuts[first].chain is not None
            for axis in self.axes
            if first in axis.cuts
        )
        return extents

    def _mask(self, value: fx.Node, cut: Mask) -> Mask:
        """Return the axes along which the units of a cut operation see only a part of a value."""
        value = self.program.origin(value)
        return tuple(
            along and (value in axis.states or value in wanted)
            for axis, wanted, along in zip(self.axes, self._wanted, cut, strict=True)
        )

    @cached_property
    def copies(self) -> list[tuple[int, int, set[int]]]:
        """Return the joins that are kernels: bytes, the unit that makes the value, its users.

        A fused kernel reads the slices where they are; a product, a collective and an output need
        the whole value in one place.
        """
        of, units = self.needs.of, self.uncut.units
        needed_by: dict[fx.Node, set[int]] = {}
        for axis in self.axes:
            for value, user in self.needs.edges(axis.joins):
                takers = units_at(user, of, lambda n: list(n.users))
                needing = {i for i in takers if is_anchor(units[i].nodes[0])}
                if needing or user.op == "output":
                    needed_by.setdefault(value, set()).update(needing)
        result = []
        for value, needing in needed_by.items():
            for maker in sorted(units_at(value, of, lambda n: n.all_input_nodes)):
                result.append((tensor_bytes(value.meta.get("val")), maker, needing))
        return result

    # -- expanding -------------------------------------------------------------------------

    def pieces(self, shares: Sequence[Sequence[float]]) -> Pieces:
        """Return the units, cut, that do not know yet which others they need.

        Args:
            shares: For each axis the shares of its parts, which add up to 1.
        """
        made = Pieces()
        copies: dict[int, list[tuple[int, set[int]]]] = defaultdict(list)
        for size, maker, needing in self.copies:
            copies[maker].append((size, needing))
        for number, work in enumerate(self.works):
            places: dict[Place, int] = {}
            for place in self._places(work.cut, shares):
                unit = self._piece(work, place, shares, len(made.units))
                places[place] = unit.index
                made.units.append(unit)
            made.places.append(places)
            for size, needing in copies[number]:
                made.units.append(self._copy(size, work.unit, set(places.values()), made.units))
                for taker in needing:
                    made.joined[taker].add(made.units[-1].index)
        return made

    def expanded(self, made: Pieces) -> list[UnitGraph]:
        """Return the units of each phase, cut, with what each needs."""
        kept: set[int] = set()
        for number, (work, places) in enumerate(zip(self.works, made.places, strict=True)):
            last = -1
            for place, index in places.items():
                unit = made.units[index]
                for needed in work.unit.after:
                    unit.after.update(self._needed(needed, number, place, made.places[needed]))
                for needed in work.unit.after_wire:
                    wires = self._needed(needed, number, place, made.places[needed])
                    unit.after_wire.update(wires)
                unit.after |= made.joined[number]
                if work.chained and last >= 0:
                    unit.after.add(last)
                last = index
            if number in self.uncut.kept:  # only the last of a chain of sums stays
                kept.update([last] if work.chained else places.values())
        return _phases(made.units, kept, self.backward)

    def _places(self, cut: Mask, shares: Sequence[Sequence[float]]) -> Iterator[Place]:
        parts = (range(len(s)) if c else range(1) for c, s in zip(cut, shares, strict=True))
        return itertools.product(*parts)

    def _needed(
        self, needed: int, by: int, place: Place, made: Mapping[Place, int]
    ) -> Iterable[int]:
        """Return the pieces of a unit that a piece of another needs."""
        if len(made) == 1:
            return made.values()  # the whole, or its only piece: see ``Needs.meets``
        if (needed, by) not in self._meets:
            cuts = self.works[needed].cut, self.works[by].cut
            self._meets[needed, by] = self.needs.meets((needed, by), *cuts)
        meets = self._meets[needed, by]
        if all(meet is operator.eq for meet in meets):
            return (made[place],)
        return [
            index
            for other, index in made.items()
            if all(meet(a, b) for a, b, meet in zip(other, place, meets, strict=True))
        ]

    def _piece(
        self, work: _Extents, place: Place, shares: Sequence[Sequence[float]], index: int
    ) -> Unit:
        part = tuple(s[i] if c else 1.0 for c, s, i in zip(work.cut, shares, place, strict=True))
        unit, start = work.unit, 0.0
        if work.back is not None:
            start = sum(shares[work.back][: place[work.back]])
        if (*part, start) not in work.costs:
            work.costs[*part, start] = self._costs(work, part, start)
        cost_us, slower, out_bytes = work.costs[*part, start]
        return Unit(
            *(index, unit.nodes, unit.launch, cost_us, unit.group),
            piece=Piece(*place[:2]) if place else None,
            out_bytes=out_bytes,
            slowdown=slower,
            recomputed=unit.recomputed,
            keeps_input=unit.keeps_input,
            regained=unit.regained,
        )

    def _costs(
        self, work: _Extents, part: tuple[float, ...], start: float
    ) -> tuple[float, float, int]:
        """Return time, slowdown and the bytes left, of a unit's part.

        ``start`` is what it looks back on.
        """
        out_bytes = round(_scaled(work.out_bytes, part))
        if work.unit.launch:
            wire_us = self.cost.wire_us(work.unit.nodes[0], math.prod(part))
            return wire_us, work.unit.slowdown, out_bytes
        moved = _scaled(work.traffic, part)
        if work.work is None:
            whole = work.unit.traffic
            hard, summed = _scaled(work.hard, part), _scaled(work.summed, part)
            fused = Fused(moved, hard, whole.wide, len(whole.sums), summed)
            cost_us, beside = self.cost.fused_us(fused)
        else:
            cost_us, beside = self._work_us(work, work.work, part, start, moved)
        return cost_us, slowdown(cost_us, beside), out_bytes

    def _work_us(
        self, extents: _Extents, work: Work, part: tuple[float, ...], start: float, moved: float
    ) -> tuple[float, float]:
        """Return how long a product or attention takes, alone and beside a collective."""
        if extents.back is None:
            return self.cost.work_us(work.share(part, extents.extents), moved)
        others = [p for axis, p in enumerate(part) if axis != extents.back]
        pieces = looking_back(work.share(others, ()), start, part[extents.back])
        times = [self.cost.work_us(piece, moved) for piece in pieces]
        if start:  # the results of both are merged: two are read, one is written
            times.append(self.cost.fused_us(Fused(3 * _scaled(extents.out_bytes, part))))
        cost_us, beside = (sum(column) for column in zip(*times, strict=True))
        return cost_us, beside

    def _copy(self, size: int, maker: Unit, after: set[int], made: list[Unit]) -> Unit:
        cost, beside = self.cost.fused_us(Fused(2 * size))
        wires = {i for i in after if made[i].launch}
        return Unit(
            *(len(made), maker.nodes, False, cost, None, None, after, wires, size),
            slowdown=slowdown(cost, beside),
        )

    # -- predicting ------------------------------------------------------------------------

    def estimate_us(self, made: Pieces, parts: int = 1, at: Container[str] = ()) -> float:
        """Estimate the time of the best order: all communication hidden, with compute slowed by it.

        Args:
            made: The units.
            parts: The number of parts to assume for the collectives ``at``.
            at: The names of these collectives.
        """
        phases: dict[bool, list[Unit]] = defaultdict(list)
        for unit in made.units:
            phases[bool(self.backward(unit.nodes[0]))].append(unit)
        return sum((self._phase_us(phases[later], parts, at) for later in sorted(phases)), 0.0)

    def _phase_us(self, units: Sequence[Unit], parts: int, at: Container[str]) -> float:
        compute = sum(u.cost_us for u in units if not u.launch)
        beside = sum(u.cost_us * u.slowdown for u in units if not u.launch)
        wires: dict[str | None, float] = defaultdict(float)
        hidden: dict[str | None, float] = defaultdict(float)
        for unit in units:
            if not unit.launch:
                continue
            wire_us = unit.cost_us
            if self.program.origin(unit.nodes[0]).name in at:
                wire_us = parts * self.cost.wire_us(unit.nodes[0], 1 / parts)
            wires[unit.group] += wire_us
            hidden[unit.group] += wire_us * unit.slowdown
        longest = min(max(hidden.values(), default=0.0), beside)
        price = longest * (1 - compute / beside) if beside else 0.0
        return max(max(wires.values(), default=0.0), compute + price)

    def predict(
        self,
        candidate: Candidate,
        phases: Sequence[UnitGraph],
        policy: Policy,
        most_bytes: float = math.inf,
        improve: bool = False,
    ) -> Prediction:
        """Predict a candidate, with each phase in the best order that list scheduling finds.

        Args:
            candidate: The candidate that the units belong to.
            phases: The units of the candidate, phase by phase.
            policy: The limits, which also hold when the graphs are scheduled.
            most_bytes: The live memory to stay below if possible.
            improve: Whether to improve the order, as it is when the graphs are scheduled. This
                takes longer, so that phases of more than ``MOST_IMPROVED`` units are left as found.
        """
        us, exposed, peak, waited = 0.0, 0.0, 0, set[str]()
        for graph in phases:
            own = own_orders(graph)
            inductors = inductors_bytes(graph, [order.peak_bytes for order in own])
            room = allowed_bytes(inductors, policy.memory_cap, policy.held)
            room = min(most_bytes, room)
            schedule = schedule_units(graph, room, known=own)
            if improve and len(graph.units) <= MOST_IMPROVED:
                schedule = improved(graph, schedule, room)
            us, exposed = us + schedule.total_us, exposed + schedule.stall_us
            peak = max(peak, schedule.peak_bytes)
            waited |= {
                self.program.origin(graph.units[busy.unit].nodes[0]).name
                for busy in schedule.occupancies
                if busy.wire and schedule.exposed_us(busy) > WAITED * (busy.end_us - busy.start_us)
            }
        return Prediction(candidate, us, peak, exposed, frozenset(waited))


def _scaled(sizes: Mapping[Mask, int], part: Sequence[float]) -> float:
    return sum(
        size * math.prod(p for p, along in zip(part, mask, strict=True) if along)
        for mask, size in sizes.items()
    )


def _extent(axis: Analysis, node: fx.Node) -> str | None:
    """Return which extent of a product an axis cuts."""
    cut, value = axis.cuts.get(node), node.meta.get("val")
    if cut is None or not isinstance(value, torch.Tensor):
        return None
    if not isinstance(cut.out, Sliced):
        return "inner"
    from_end = value.ndim - 1 - cut.out.dim
    return ("columns", "rows")[from_end] if from_end < 2 else "batch"


def _phases(
    units: Sequence[Unit], kept: set[int], backward: Callable[[fx.Node], Hashable]
) -> list[UnitGraph]:
    """Split the units into separate graphs for forward and backward."""
    later = [bool(backward(unit.nodes[0])) for unit in units]
    across = _saved(units, later)
    graphs = []
    for phase in sorted(set(later)):
        members = [unit for unit in units if later[unit.index] == phase]
        new = {unit.index: place for place, unit in enumerate(members)}
        parts = []
        for unit in members:
            after = {new[i] for i in unit.after if i in new}
            wires = {new[i] for i in unit.after_wire if i in new}
            parts.append(_moved(unit, new[unit.index], after, wires))
        uses = [(units[i].out_bytes, {new[r] for r in readers}) for i, readers in across if phase]
        left = {new[i] for i in (kept | {i for i, _ in across}) & new.keys()}
        graphs.append(UnitGraph(parts, uses, left))
    return graphs


def _saved(units: Sequence[Unit], later: Sequence[bool]) -> list[tuple[int, set[int]]]:
    """Return the units of forward whose results backward keeps, each with its readers there.

    As the partitioner does, backward computes a fused unit again if that unit's inputs are smaller
    than its results: the float32 copy of a saved value is not saved as well.
    """
    readers: dict[int, set[int]] = defaultdict(set)
    for unit in units:
        if later[unit.index]:
            for i in unit.after:
                if not later[i]:
                    readers[i].add(unit.index)
    for i in sorted(readers, reverse=True):
        inputs = units[i].after
        missing = sum(units[j].out_bytes for j in inputs if j not in readers)
        if is_fusible(units[i].nodes[0]) and missing < units[i].out_bytes:
            used_by = readers.pop(i)
            for j in inputs:
                readers[j] |= used_by
    return sorted(readers.items())


def _moved(unit: Unit, index: int, after: set[int], wires: set[int]) -> Unit:
    return Unit(
        index,
        unit.nodes,
        unit.launch,
        unit.cost_us,
        unit.group,
        unit.piece,
        after,
        wires,
        unit.out_bytes,
        unit.slowdown,
        recomputed=unit.recomputed,
        keeps_input=unit.keeps_input,
        regained=unit.regained,
    )
