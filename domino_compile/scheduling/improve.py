"""Improve an order by moving units: simulated annealing over a window that slides along the order.

List scheduling looks no further than the next unit. It starts a long product although a collective
ends in the middle of it, and the short work that the next collective waits for then comes late.
Here units are moved at random, together with what they need or what needs them, and each order is
run on the simulated machine: one that is faster, or a little slower at first, replaces the current
one.

::

    window at the first unit
    until the window has passed the last unit:
        move units in the window; judge by when the window and a tail behind it are done
        the first units of the window are settled; the window moves on behind them

A model repeats its layers, so the window moves in steps of a whole fraction of a layer. What was
found for one window is tried for every later one that looks the same, and searched for again only
if it does not help there, at most ``MOST_SEARCHED`` times. So the time taken grows with the layers
no faster than that of simulating them a few times.

The random numbers are seeded, so every rank finds the same order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

from domino_compile.scheduling.kinds import is_wrapped_attention
from domino_compile.scheduling.simulate import Lifetimes, Machine, Schedule, run_order
from domino_compile.scheduling.units import Unit, UnitGraph

#: The units whose order a window changes, and the fixed ones behind them that it is judged by too.
WINDOW, TAIL = 32, 16
#: The orders that a search tries for each unit of a window.
TRIES = 12
#: The mean distance by which a unit is moved.
DISTANCE = 6.0
#: The temperatures at the start of each search, as fractions of the mean time of a unit.
HEATS = (0.25, 0.1)
#: Units that cost nothing count as taking this long there, in microseconds.
LEAST_US = 1e-3
#: The windows that are searched at most; the others get only what was found for those.
MOST_SEARCHED = 48
#: The fraction of its time that a new order must save. Less is below what predictions are off by.
LEAST_GAIN = 0.01
#: What a MiB above the allowed memory costs during a search, in microseconds.
US_PER_MIB = 30.0
#: The fraction of a graph's middle that has to repeat for a period to count.
REPEATS = 0.5


def improved(graph: UnitGraph, schedule: Schedule, cap_bytes: float) -> Schedule:
    """Return a faster order, or the same schedule if none is found.

    Args:
        graph: The units of the graph.
        schedule: The order to begin with.
        cap_bytes: The allowed live memory. The result needs no more, unless the given order does.
    """
    if schedule.stall_us <= LEAST_GAIN * schedule.total_us:
        return schedule
    found = run_order(graph, _Search(graph, cap_bytes).run(schedule.order))
    fits = found.peak_bytes <= max(cap_bytes, schedule.peak_bytes)
    return found if fits and found.total_us < (1 - LEAST_GAIN) * schedule.total_us else schedule


class _Search:
    """The search for a better order of one graph.

    Args:
        graph: The units of the graph.
        cap_bytes: The allowed live memory.

    Attributes:
        users: For each unit those that must run behind it.
        eager: The units that Inductor runs as soon as it can: recomputed attention, whose position
            cannot be pinned (``passes.pin``).
        found: The best order for windows of each look.
        searched: The number of windows that have been searched.
    """

    def __init__(self, graph: UnitGraph, cap_bytes: float) -> None:
        self.graph, self.cap = _evenly_slowed(graph), cap_bytes
        self.users: list[set[int]] = [set() for _ in graph.units]
        for unit in graph.units:
            for needed in unit.after | unit.after_wire:
                self.users[needed].add(unit.index)
        self.eager = {
            unit.index for unit in graph.units if any(map(is_wrapped_attention, unit.nodes))
        }
        self.found: dict[Hashable, list[int]] = {}
        self.searched = 0
        self.random = random.Random(0)

    def run(self, given: Sequence[int]) -> list[int]:
        """Return the order with every window in turn improved."""
        order = list(given)
        machine = Machine(self.graph)
        for first, settled in _steps([_look(unit) for unit in self.graph.units]):
            window = _Window(self, machine, order[first : first + WINDOW + TAIL])
            order[first : first + window.movable] = window.named(self._best(window))
            for index in order[first:settled]:
                machine.run(self.graph.units[index])
        return order

    def _best(self, window: _Window) -> list[int]:
        """Return the best order found for the units of a window that may move."""
        given = list(range(window.movable))
        price, look = window.price(given), window.look()
        known = self.found.get(look)
        if known is not None and window.price(known) <= price:
            return known
        if self.searched == MOST_SEARCHED:
            return given
        self.searched += 1
        found = [self._annealed(window, given, price, heat * window.mean_us) for heat in HEATS]
        _, self.found[look] = min(found, key=lambda entry: entry[0])
        return self.found[look]

    def _annealed(
        self, window: _Window, given: list[int], price: tuple[float, float], heat: float
    ) -> tuple[tuple[float, float], list[int]]:
        """Move units at random; return the best order found, behind its memory and its time.

        An order is not the best if it needs more memory than allowed and than the given one.
        """
        current, best_price, best = given, price, given
        tries = TRIES * len(given)
        for turn in range(tries):
            moved = self._moved(window, current)
            if moved is None:
                continue
            new = window.price(moved)
            worse = new[1] - price[1] + (new[0] - price[0]) * US_PER_MIB
            if worse > 0 and self.random.random() >= math.exp(
                -worse / heat * tries / (tries - turn)
            ):
                continue
            current, price = moved, new
            if price < best_price:
                best_price, best = price, current
        return best_price, best

    def _moved(self, window: _Window, order: list[int]) -> list[int] | None:
        """Return the order with one unit moved, or ``None`` if there is nothing to move it past.

        If it moves forward, what it needs on the way goes with it; backward, what needs it.
        """
        place = int(self.random.random() * len(order))
        distance = 1 + int(-DISTANCE * math.log(1 - self.random.random()))
        if self.random.random() < 0.5:
            first = max(0, place - distance)
            block, passed = _split(order[first : place + 1][::-1], window.needs)
            changed = [*block[::-1], *passed[::-1]]
        else:
            first = place
            block, passed = _split(order[place : place + distance + 1], window.users)
            changed = [*passed, *block]
        if not passed:
            return None
        return window.settled([*order[:first], *changed, *order[first + len(changed) :]])


def _evenly_slowed(graph: UnitGraph) -> UnitGraph:
    """Return the graph with all compute slowed alike beside a collective.

    Otherwise a search would find out which units are predicted to suffer least beside collectives,
    by differences that are smaller than the errors of those predictions.
    """
    work = [unit for unit in graph.units if not unit.launch]
    alone = sum(unit.cost_us for unit in work)
    mean = sum(unit.cost_us * unit.slowdown for unit in work) / alone if alone else 1.0
    units = [unit if unit.launch else replace(unit, slowdown=mean) for unit in graph.units]
    return replace(graph, units=units)


def _split(units: Sequence[int], ties: Sequence[set[int]]) -> tuple[list[int], list[int]]:
    """Split units into the first with all that it is tied to, directly or not, and the others."""
    block, tied, others = [units[0]], ties[units[0]], list[int]()
    for unit in units[1:]:
        if unit in tied:
            block.append(unit)
            tied = tied | ties[unit]
        else:
            others.append(unit)
    return block, others


class _Window:
    """A part of an order as a graph of its own, behind what a machine has run so far.

    Its units are numbered in the given order; the collectives in flight when it begins come last.

    Args:
        search: The search.
        machine: The machine, which has run all units before.
        units: The units of the window and of the tail, in order.

    Attributes:
        movable: The number of units that may move.
        needs, users: For each unit those that it needs, and those of the window that need it.
        eager: The eager units that may move.
        mean_us: The mean time of a unit, never 0.
    """

    def __init__(self, search: _Search, machine: Machine, units: Sequence[int]) -> None:
        self.cap, self.named_units = search.cap, units
        self.movable = min(WINDOW, len(units))
        self.tail = range(self.movable, len(units))
        flying = machine.flying()
        new = {index: place for place, index in enumerate(units)}
        wires = new | {busy.unit: len(units) + place for place, busy in enumerate(flying)}
        self.users = [{new[i] for i in search.users[index] if i in new} for index in units]
        self.eager = [i for i, index in enumerate(units[: self.movable]) if index in search.eager]
        whole = search.graph.units
        parts = [
            replace(
                unit,
                index=place,
                after={new[i] for i in unit.after if i in new},
                after_wire={wires[i] for i in unit.after_wire if i in wires},
            )
            for place, unit in enumerate(whole[index] for index in units)
        ]
        self.needs = [part.after | part.after_wire for part in parts]
        parts += [
            replace(
                whole[busy.unit],
                index=wires[busy.unit],
                after=set(),
                after_wire=set(),
                out_bytes=0,
            )
            for busy in flying
        ]
        kept = {
            new[index]
            for index in units
            if index in search.graph.kept or any(i not in new for i in search.users[index])
        }
        inputs = [(size, {wires[i] for i in by}) for size, by in machine.freed_by(wires)]
        rest = machine.live - sum(size for size, _ in inputs)
        self.graph = UnitGraph(parts, [*inputs, (rest, set())], kept)
        self.lifetimes = Lifetimes(self.graph)
        self.flying = [
            replace(
                busy,
                unit=wires[busy.unit],
                start_us=busy.start_us - machine.now,
                end_us=busy.end_us - machine.now,
            )
            for busy in flying
        ]
        self.rested = machine.rested
        self.mean_us = max(sum(part.cost_us for part in parts) / len(parts), LEAST_US)

    def settled(self, order: list[int]) -> list[int]:
        """Return an order with each eager unit right behind what it needs."""
        for unit in self.eager:
            order.remove(unit)
            place = max((order.index(i) + 1 for i in self.needs[unit] if i in order), default=0)
            order.insert(place, unit)
        return order

    def price(self, order: Sequence[int]) -> tuple[float, float]:
        """Return the MiB above the allowed memory, and the predicted time, of an order."""
        machine = Machine(self.graph, self.lifetimes, self.flying, self.rested)
        for index in order:
            machine.run(self.graph.units[index])
        for index in self.tail:
            machine.run(self.graph.units[index])
        return max(0.0, machine.peak - self.cap) / 2**20, machine.end()

    def named(self, order: Sequence[int]) -> list[int]:
        """Return an order of the movable units in the numbers of the whole graph."""
        return [self.named_units[i] for i in order]

    def look(self) -> Hashable:
        """Return what two windows share if the same order suits both."""
        return tuple(
            (_look(unit), frozenset(unit.after), frozenset(unit.after_wire))
            for unit in self.graph.units
        )


def _look(unit: Unit) -> tuple[bool, float, int]:
    return unit.launch, round(unit.cost_us, 1), unit.out_bytes


def _steps(looks: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """Yield for each window its first unit and the one behind the last that it settles."""
    period = _period(looks)
    parts = max(1, round(2 * period / WINDOW))
    first, number = 0, 1
    while first + WINDOW < len(looks):
        settled = number * period // parts
        yield first, settled
        first, number = settled, number + 1
    yield first, len(looks)


def _period(looks: Sequence[Hashable]) -> int:
    """Return after how many units the middle of a graph repeats; ``WINDOW`` if it does not."""
    count = len(looks)
    first, middle = count // 4, min(count // 4, 4 * WINDOW)
    best, period = REPEATS * middle, WINDOW
    for distance in range(WINDOW // 4, min(count // 3, 4 * WINDOW)):
        same = sum(looks[i] == looks[i + distance] for i in range(first, first + middle))
        if same > best:
            best, period = same, distance
    return period
