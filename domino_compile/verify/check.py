"""The checker: does a graph after a pass compute what the graph before computes?

::

    for each value after, in order, that is claimed to stand for a value before:
        collect the operations after, back to values already established
        collect the operations before, back to the values that those stand for
        the claim follows if the operations are the same on the same values     (same)
                      or if they read the same elements in the same order       (structure)
                      or if they compute the same random numbers in float64     (numbers)
    every output, effect and collective of the graph before must be there, and no others

The checker imports nothing of the passes, their rules or their analyses. What it takes from torch
is the meaning of operations, and of a graph's metadata only shapes and types, which both forms must
have in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from domino_compile.verify import elements, numbers, uninitialised
from domino_compile.verify.between import Between
from domino_compile.verify.claims import Claim, Piece, Whole, Witness
from domino_compile.verify.collectives import count_collectives
from domino_compile.verify.equal import equal_values, merged
from domino_compile.verify.movements import MOVES
from domino_compile.verify.part import Given, NotEstablished, Part
from domino_compile.verify.plain import (
    CONSTANT,
    INPUT,
    TAKEN,
    Graph,
    Operation,
    Ref,
    Tensor,
    is_launch,
    is_wait,
    replaced,
)
from domino_compile.verify.transported import STARTS, command_of

#: Collectives whose result is the same on all ranks.
EQUAL_ON_RANKS = (
    "_c10d_functional.all_reduce.default",
    "_c10d_functional.broadcast.default",
    "_c10d_functional.all_gather_into_tensor.default",
)
SAME, STRUCTURE, NUMBERS = "same", "structure", "numbers"


@dataclass
class Established:
    """What was established about one rewriting.

    Attributes:
        how: For each claimed value after: ``SAME``, ``STRUCTURE`` or ``NUMBERS``.
        collectives: The number of collectives before and after.
        assumed: What was taken to hold, for example that a parameter is the same on all ranks.
        equal_on_ranks: The inputs of which that was taken to hold.
    """

    how: dict[str, str] = field(default_factory=dict)
    collectives: tuple[int, int] = (0, 0)
    assumed: list[str] = field(default_factory=list)
    equal_on_ranks: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """Return how many values were established in each way."""
        return Counter(self.how.values())


class Memory:
    """The parts that were proved, and how: equal layers are proved once."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], str] = {}

    def prove(self, part: Part) -> str:
        """Return how a part is proved.

        Raises:
            NotEstablished: The part is not proved.
        """
        key = part.key
        if key not in self.known:
            self.known[key] = self._prove(part)
        return self.known[key]

    def _prove(self, part: Part) -> str:
        if elements.proved(part):
            return STRUCTURE
        if (reason := numbers.refuted(part)) is not None:
            raise NotEstablished(part.about, f"{part.goal.node} is not {part.goal} of it: {reason}")
        return NUMBERS


def check(before: Graph, after: Graph, witness: Witness, memory: Memory) -> Established:
    """Establish that a graph computes the same as before.

    Args:
        before: The graph before.
        after: The graph after.
        witness: Which values correspond; it may be wrong.
        memory: The parts proved so far.

    Raises:
        NotEstablished: The graph may not compute the same.
    """
    same = equal_values(before)
    checker = _Checker(merged(before, same), merged(after, same), memory, same)
    checker.run(witness)
    return checker.done


class _Checker:
    """Establishes the claims about one pair of graphs, in the order of the graph after."""

    def __init__(
        self, before: Graph, after: Graph, memory: Memory, same: Mapping[str, str]
    ) -> None:
        self.before, self.after, self.memory = before, after, memory
        #: For each value that ``before`` had twice, the name of the one that it has.
        self.same = same
        #: The values after that are established, and of what each is what.
        self.known: dict[str, Given] = {}
        #: Those that are the whole of the value of their own name.
        self.kept: set[str] = set()
        #: The values before that some established value stands for.
        self.stood_for: set[str] = set()
        self.between = Between(before, after, self.known, self.stood_for)
        #: The values before that are taken to be equal on all ranks.
        self.equal: set[str] = set()
        #: The parts that were proved and have collectives.
        self.parts: list[Part] = []
        self.unwritten = uninitialised.Unwritten()
        self.done = Established()

    def run(self, witness: Witness) -> None:
        """Establish all claims, then that nothing is missing or too much."""
        claims: dict[str, tuple[str, Claim]] = {}
        for said, several in witness.claims.items():
            name = self.same.get(said, said)
            for claim in several:
                if name in self.before.operations and claim.node in self.after.operations:
                    claims[claim.node] = (name, claim)
        for name, op in self.after.operations.items():
            if name in claims:
                about, claim = claims[name]
            else:
                about, claim = self.same.get(name, name), self._unsaid(op)
                if about not in self.before.operations or self._is_inbox(about, op):
                    continue
            self._claimed(self.before.operations[about], op, claim)
        self._outputs()
        self._numbers()
        self._effects()
        self.done.collectives = count_collectives(self.before, self.after, self.known, self.parts)

    def _is_inbox(self, name: str, op: Operation) -> bool:
        """Return whether a start has replaced a collective of its name, but not its result."""
        start = STARTS.get(command_of(op.target))
        replaced_one = self.before.operations[name].target != op.target
        return start is not None and start.use == "inbox" and replaced_one

    def _unsaid(self, op: Operation) -> Whole:
        """Return what a value that keeps its name is.

        Of values that ranks add up, it is a value such as they. An all-reduce is the sum itself.
        """
        groups = {
            given.claim.summed_over
            for name in op.operands
            if (given := self.known.get(name)) is not None and isinstance(given.claim, Whole)
        } - {""}
        added = len(groups) == 1 and not is_launch(op)
        return Whole(op.name, groups.pop()) if added else Whole(op.name)

    def _claimed(self, source: Operation, op: Operation, claim: Claim) -> None:
        """Establish a claim. Memory that nothing has written is taken for what it is claimed to be.

        Where that cannot be, the claim is not needed unless something depends on the numbers.
        """
        if not {source.target, op.target} <= uninitialised.OPERATIONS:
            self._establish(source, op, claim)
        elif self.unwritten.take(source.name, claim):
            self._types(source.tensor, op, claim)
            self._note(source, op, claim, SAME)

    def _establish(self, source: Operation, op: Operation, claim: Claim) -> None:
        if not isinstance(source.value, Tensor) or not isinstance(op.value, Tensor):
            if self._is_same(source, op, claim):
                self._note(source, op, claim, SAME)
            return
        self._types(source.value, op, claim)
        if self._is_same(source, op, claim):
            how = SAME
        else:
            part, how = self._proved(source, op, claim)
            if part.launches:
                self.parts.append(part)
            for name in part.equal_on_ranks:
                self._assume_equal(name)
        self._note(source, op, claim, how)

    def _proved(self, source: Operation, op: Operation, claim: Claim) -> tuple[Part, str]:
        """Return a part that is proved, and how.

        Raises:
            NotEstablished: None is; the reason is that of the last one, which goes back furthest.
        """
        refused: NotEstablished | None = None
        for part in self.between.parts(source, op, claim):
            try:
                return part, self.memory.prove(part)
            except NotEstablished as reason:
                refused = reason
        assert refused is not None  # there is always a part
        raise refused

    def _note(self, source: Operation, op: Operation, claim: Claim, how: str) -> None:
        self.known[op.name] = Given(source.name, claim)
        if source.name == op.name and claim == Whole(op.name):
            self.kept.add(op.name)
        self.stood_for.add(source.name)
        self.done.how[op.name] = how

    def _assume_equal(self, name: str) -> None:
        """Note that a value must be equal on all ranks: so must the inputs that it is made of."""
        if name in self.equal:
            return
        self.equal.add(name)
        op = self.before.operations[name]
        if op.target == INPUT:
            self.done.assumed.append(f"{name} is the same on all ranks")
            self.done.equal_on_ranks.append(name)
        elif op.target not in EQUAL_ON_RANKS:
            for operand in op.operands:
                self._assume_equal(operand)

    def _types(self, value: Tensor, op: Operation, claim: Claim) -> None:
        shape = list(value.shape)
        if isinstance(claim, Piece):
            if not self._fits(claim, value.shape):
                raise NotEstablished(op.name, f"there are no {claim} of {list(shape)}")
            extent = claim.outer * claim.length
            shape[claim.dim] = claim.length // claim.ranks if claim.dealt_over else extent
        if (tuple(shape), value.dtype) != op.tensor:
            actual = f"{op.tensor.dtype}{list(op.tensor.shape)}"
            raise NotEstablished(op.name, f"it is {actual}, not {value.dtype}{shape}")

    def _fits(self, claim: Piece, shape: tuple[int, ...]) -> bool:
        if not 0 <= claim.dim < len(shape) or claim.start < 0 or claim.length < 0:
            return False
        extent = shape[claim.dim]
        if claim.dealt_over:
            fits = claim.outer == 1 and claim.length % claim.ranks == 0
            return fits and claim.start + claim.length <= extent * claim.ranks
        whole = claim.outer > 0 and extent % claim.outer == 0
        return whole and claim.start + claim.length <= extent // claim.outer

    def _is_same(self, source: Operation, op: Operation, claim: Claim) -> bool:
        """Return whether it is the same operation on the same whole values."""
        if not isinstance(claim, Whole) or claim.summed_over or source.target != op.target:
            return False
        if source.target in uninitialised.OPERATIONS:
            return False
        if source.target in (INPUT, CONSTANT):
            inside = [graph.inner.get(source.name) for graph in (self.before, self.after)]
            named = source.name == op.name and source.args == op.args
            return named and source.value == op.value and inside[0] == inside[1]

        if source.args == op.args and source.kwargs == op.kwargs:
            return self.kept.issuperset(op.operands)

        def stands_for(ref: Ref) -> Any:
            given = self.known.get(ref.name)
            if given is None or given.claim != Whole(ref.name):
                return None
            return Ref(given.before)

        same: bool = replaced((op.args, op.kwargs), stands_for) == (source.args, source.kwargs)
        return same

    # -- nothing missing, nothing too much ----------------------------------------------------

    def _outputs(self) -> None:
        if len(self.before.outputs) != len(self.after.outputs):
            raise NotEstablished("output", "the number of results differs")
        for place, (name, now) in enumerate(
            zip(self.before.outputs, self.after.outputs, strict=True)
        ):
            if not isinstance(name, str):
                if name != now:
                    raise NotEstablished("output", f"result {place} is {now}, not {name}")
                continue
            given = self.known.get(now)
            if given is not None and given.before == name and isinstance(given.claim, Whole):
                if given.claim.summed_over:
                    self.done.assumed.append(
                        f"result {place} ({name}) is summed over group {given.claim.summed_over}"
                    )
            elif now in self.after.operations:
                whole = Whole(now)
                self._establish(self.before.operations[name], self.after.operations[now], whole)
            else:
                raise NotEstablished(name, f"result {place} is gone")

    def _numbers(self) -> None:
        """Establish that numbers that are taken from data are taken from the same values."""
        for op in self.after.operations.values():
            if op.target in TAKEN and op.name not in self.known:
                raise NotEstablished(op.name, "this number is taken from another value")

    def _effects(self) -> None:
        """Establish that operations with effects are there, whole, once, and in order."""
        needed = [op.name for op in self._with_effects(self.before)]
        kept = []
        for op in self._with_effects(self.after):
            given = self.known.get(op.name)
            if given is None or not isinstance(given.claim, Whole):
                raise NotEstablished(op.name, "an operation with an effect is new")
            kept.append(given.before)
        if needed != kept:
            missing = [n for n in needed if n not in kept] or needed
            raise NotEstablished(missing[0], "an operation with an effect is gone or moved")
        for op in self._with_effects(self.after):
            self._reads_in_order(op)

    def _reads_in_order(self, op: Operation) -> None:
        """Establish that what was read before it is written is read before that.

        What was read later must be read later.
        """
        if not op.operands:
            return
        earlier, later = self._readers(self.after, op.name)
        source = self.known[op.name].before
        first, last = self._readers(self.before, source)
        moved = [{self._origin(name) for name in names} for names in (earlier, later)]
        wrong = (moved[0] & last - first) | (moved[1] & first - last)
        if wrong:
            raise NotEstablished(wrong.pop(), f"it is read on the other side of {source}'s write")

    def _origin(self, name: str) -> str:
        given = self.known.get(name)
        return name if given is None else given.before

    def _readers(self, graph: Graph, writer: str) -> tuple[set[str], set[str]]:
        """Return what reads what an operation writes, itself or views: before that, and after."""
        seen = {graph.operations[writer].operands[0]}
        readers: tuple[set[str], set[str]] = (set(), set())
        written = False
        for op in graph.operations.values():
            written = written or op.name == writer
            if op.name != writer and any(x in seen for x in op.operands):
                readers[written].add(op.name)
                if op.target in MOVES:
                    seen.add(op.name)
        return readers

    def _with_effects(self, graph: Graph) -> Iterator[Operation]:
        for op in graph.operations.values():
            if not op.pure and not is_launch(op) and not is_wait(op):
                yield op
