"""What lies between values that are known to correspond: the operations that a proof is about.

A value after is followed back to values that stand for values before, and the value before, which
it is claimed to be, to the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from domino_compile.verify.claims import Claim
from domino_compile.verify.part import Given, NotEstablished, Part
from domino_compile.verify.plain import CONSTANT, GETITEM, INPUT, Graph, Operation

#: The most operations in one part: more than any rewriting needs between two claims.
MOST = 400
#: How often both sides are followed further back, to end at the same values.
ROUNDS = 4
#: Operations before and the values that they end at; operations after and the values there.
Sides: TypeAlias = tuple[
    dict[str, Operation], dict[str, Operation], dict[str, Operation], dict[str, Given]
]


class Between:
    """Finds the parts of a pair of graphs.

    Args:
        before: The graph before.
        after: The graph after.
        known: The values after that are established, and of what each is what. It grows.
        stood_for: The values before that some established value stands for. It grows.
    """

    def __init__(
        self, before: Graph, after: Graph, known: Mapping[str, Given], stood_for: set[str]
    ) -> None:
        self.before, self.after, self.known, self.stood_for = before, after, known, stood_for
        self._places = [
            {name: place for place, name in enumerate(graph.operations)}
            for graph in (before, after)
        ]

    def parts(self, source: Operation, op: Operation, claim: Claim) -> Iterator[Part]:
        """Yield what may be proved of a value after; one proof is enough.

        Args:
            source: The value before that the claim is about.
            op: The value after.
            claim: What is claimed of it.

        Raises:
            NotEstablished: It depends on values that stand for nothing, or on too many operations.
        """
        after, given = self._back(op, set())
        if any(x.before == source.name for x in given.values()):
            yield self._part(source, claim, {}, {source.name: source}, after, given)
            return  # a join, a cut or a copy of it
        for sides in self._both(source, op):
            yield self._part(source, claim, *sides)

    def _part(
        self,
        source: Operation,
        claim: Claim,
        before: dict[str, Operation],
        inputs: dict[str, Operation],
        after: dict[str, Operation],
        given: dict[str, Given],
    ) -> Part:
        for x in given.values():
            if x.before not in before:
                inputs.setdefault(x.before, self.before.operations[x.before])
        return Part(claim, source.name, before, after, inputs, given, (self.before, self.after))

    def _both(self, source: Operation, op: Operation) -> Iterator[Sides]:
        """Yield operations before and after that end at the same values.

        What is computed anew on one side, from what it is computed from, is so on the other. If
        both sides do not end at the same values then, they are left as they are, or else what they
        end at must make no difference: what is left of a buffer that was written over, say.
        """
        opened: set[str] = set()
        first = sides = self._sides(source, op, opened)
        for _ in range(ROUNDS):
            _, inputs, _, given = sides
            read = {x.before for x in given.values()}
            more = [
                name
                for name, x in inputs.items()
                if name not in read and x.target not in (INPUT, CONSTANT)
            ]
            if not more:
                yield sides
                return
            opened.update(more)
            sides = self._sides(source, op, opened)
        yield first
        yield sides

    def _sides(self, source: Operation, op: Operation, opened: set[str]) -> Sides:
        before, inputs = self._back_before(source, opened)
        return before, inputs, *self._back(op, set(before))

    def _back(
        self, op: Operation, opened: set[str]
    ) -> tuple[dict[str, Operation], dict[str, Given]]:
        """Collect operations after, back to values that stand for others than the opened ones."""
        operations: dict[str, Operation] = {}
        given: dict[str, Given] = {}
        stack = [op]
        while stack:
            top = stack.pop()
            if top.name in operations:
                continue
            operations[top.name] = top
            for name in top.operands:
                known = None if name in self.after.inner else self.known.get(name)
                if known is not None and known.before not in opened:
                    given[name] = known
                else:
                    stack.append(self._inside(self.after, name, op))
            self._limit(op, operations)
        return self._in_order(self.after, operations), given

    def _back_before(
        self, source: Operation, opened: set[str]
    ) -> tuple[dict[str, Operation], dict[str, Operation]]:
        """Collect operations before, back to values, but the opened, that something stands for.

        If one result of an operation must be computed anew, all that are needed are.
        """
        operations: dict[str, Operation] = {}
        inputs: dict[str, Operation] = {}
        stack = [source]
        while stack:
            top = stack.pop()
            if top.name in operations:
                continue
            operations[top.name] = top
            inputs.pop(top.name, None)
            for name in top.operands:
                operand = self.before.operations[name]
                several = operand.target == GETITEM and operand.operands[0] in operations
                anew = several or name in opened or name in self.before.inner
                if name in self.stood_for and not anew:
                    inputs[name] = operand
                elif name not in operations:
                    stack.append(self._inside(self.before, name, source))
            for name in [n for n, x in inputs.items() if x.target == GETITEM]:
                if inputs[name].operands[0] in operations:
                    stack.append(inputs.pop(name))
            self._limit(source, operations)
        return self._in_order(self.before, operations), inputs

    def _inside(self, graph: Graph, name: str, op: Operation) -> Operation:
        operation = graph.operations[name]
        if operation.target == INPUT:
            raise NotEstablished(op.name, f"the input {name} stands for nothing")
        return operation

    def _limit(self, op: Operation, operations: dict[str, Operation]) -> None:
        if len(operations) > MOST:
            raise NotEstablished(op.name, f"more than {MOST} operations lie behind it unclaimed")

    def _in_order(self, graph: Graph, operations: dict[str, Operation]) -> dict[str, Operation]:
        if len(operations) == 1:
            return operations
        places = self._places[graph is self.after]
        return {name: operations[name] for name in sorted(operations, key=places.__getitem__)}
