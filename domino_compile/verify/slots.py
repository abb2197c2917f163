"""The transport's commands in a graph: each start is waited for, released, and not disturbed.

A collective that the transport carries is a start, a wait and, if its result lies in a slot, a
release. Values in a slot are there from the wait to the release. Another collective may use the
slot only after that, or peers would overwrite what is being read. ``order`` establishes the same of
emitted code; graphs that run without code generation have this proof only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from domino_compile.verify.interpret import resolve
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.plain import (
    GETITEM,
    Graph,
    Operation,
    is_release,
    is_wait,
    ranks_of,
)
from domino_compile.verify.transported import STARTS, Start, command_of, slot_of


@dataclass
class _Loan:
    """A start whose slot is in use.

    Attributes:
        op: The start.
        start: Its kind.
        slot: What memory it uses.
        names: Its result, and views of it.
        waited: Whether it has been waited for.
    """

    op: Operation
    start: Start
    slot: str
    names: set[str] = field(default_factory=set)
    waited: bool = False

    def is_for(self, command: Operation, kind: str) -> bool:
        """Return whether a wait or a release has the name, the slot and the group of the start."""
        right = command_of(command.target) == kind and command.args[-2:] == self.op.args[-2:]
        return right and command.operands[0] in self.names


def slots_are_kept(graph: Graph) -> None:
    """Establish that slots are waited for, read, released and used again in this order.

    Raises:
        NotEstablished: They are not.
    """
    loans: list[_Loan] = []
    gone: dict[str, str] = {}  # names of what was in slots that have been released
    for op in graph.operations.values():
        command = command_of(op.target)
        for name in op.operands:
            if name in gone:
                raise NotEstablished(op.name, f"it reads what {gone[name]} got after its release")
        if command in STARTS:
            loans.append(_lent(graph, op, STARTS[command], loans))
        elif command and is_wait(op):
            loan = _waited(op, loans)
            if not loan.start.in_slot:
                loans.remove(loan)
        elif is_release(op):
            loan = _released(op, loans)
            loans.remove(loan)
            gone |= dict.fromkeys({*loan.names, op.name}, loan.op.name)
        elif _is_view(op.target):
            for loan in loans:
                if loan.names.intersection(op.operands):
                    loan.names.add(op.name)
    for loan in loans:
        what = "releases the slot of" if loan.waited else "waits for"
        raise NotEstablished(loan.op.name, f"nothing {what} this collective")
    for name in graph.outputs:
        if name in gone:
            raise NotEstablished(gone[name], "its result is returned, but lies in a slot")


def _lent(graph: Graph, op: Operation, start: Start, loans: list[_Loan]) -> _Loan:
    payload = graph.operations[op.operands[0]].tensor
    nbytes = math.prod(payload.shape) * getattr(torch, payload.dtype).itemsize
    number, group = op.args[-2:]
    slot = slot_of(command_of(op.target), number, group, nbytes, ranks_of(op)[1])
    for loan in loans:
        if loan.slot == slot:
            raise NotEstablished(op.name, f"its slot is still used by {loan.op.name}")
    return _Loan(op, start, slot, {op.name})


def _waited(op: Operation, loans: list[_Loan]) -> _Loan:
    for loan in loans:
        if not loan.waited and loan.is_for(op, loan.start.wait):
            if op.operands[1] != loan.op.operands[0]:
                raise NotEstablished(op.name, f"it waits for another payload of {loan.op.name}")
            loan.waited = True
            loan.names.add(op.name)
            return loan
    raise NotEstablished(op.name, "it waits for no collective that it could be for")


def _released(op: Operation, loans: list[_Loan]) -> _Loan:
    for loan in loans:
        if loan.waited and loan.is_for(op, loan.start.release):
            return loan
    raise NotEstablished(op.name, "it releases the slot of no collective that it could be for")


@cache
def _is_view(target: str) -> bool:
    """Return whether a result may share memory with an operand; what is not known may."""
    if target in (GETITEM, "aten._unsafe_view.default"):
        return True
    schema: Any = getattr(resolve(target), "_schema", None)
    if schema is None:
        return True
    return any(result.alias_info is not None for result in schema.returns) or not schema.returns
