"""Conditionals: one of two graphs runs, the same one for all slices.

    cond(predicate, true_graph, false_graph, operands)

Each slice runs the chosen graph on its own rows. That is possible if both graphs can be cut from
end to end: neither may join the slices, and their results must be cut in the same way. In backward
a graph returns zeros as the gradient of an unused input: zeros fit any sum.
"""

from __future__ import annotations

from typing import Any

from domino_compile._compat.operators import cond
from domino_compile.axes import WHOLE, PartialSum, Sliced, State, States
from domino_compile.rules.call import (
    Call,
    Cut,
    Function,
    Inside,
    Operand,
    Outcome,
    Refusal,
    Subgraph,
)
from domino_compile.rules.rule import family

#: The number of rounds in which each graph adapts to the other's cut.
MOST_ROUNDS = 3


def conditional(call: Call) -> Outcome:
    """Cut ``cond``, with its operands cut as both graphs require."""
    predicate, yes, no, operands = call.args
    assert call.inside is not None
    if isinstance(predicate, Operand) and predicate.sliced is not None:
        return Refusal("the condition is cut")
    if not isinstance(yes, Subgraph) or not isinstance(no, Subgraph):
        return Refusal("the graphs of the two branches are not known")
    branches = _both(call, yes, no, tuple(_state(x) for x in operands))
    if isinstance(branches, Refusal):
        return branches
    out: list[State] = []
    for states, zeros in zip(
        zip(*(x.out for x in branches), strict=True),
        zip(*(x.zeros for x in branches), strict=True),
        strict=True,
    ):
        state = _agreed(states, zeros)
        if state is None:
            return Refusal(f"one branch's result is {states[0]}, the other's {states[1]}")
        out.append(state)
    wanted: dict[int, States] = {
        x.index: state
        for x, state in zip(operands, branches[0].inputs, strict=True)
        if isinstance(x, Operand)
    }
    inputs = tuple(wanted.get(x.index, WHOLE) for x in call.operands)
    taken = tuple(x.index if isinstance(x, Operand) else None for x in operands)
    return Cut(inputs, tuple(out), functions=tuple(Function(taken, x) for x in branches))


def _state(value: Any) -> State:
    return value.sliced or WHOLE if isinstance(value, Operand) else WHOLE


def _both(
    call: Call, yes: Subgraph, no: Subgraph, states: tuple[State, ...]
) -> tuple[Inside, Inside] | Refusal:
    """Cut both graphs so that their inputs and results agree."""
    assert call.inside is not None
    results: tuple[State, ...] = tuple(WHOLE for _ in call.out)
    for _ in range(MOST_ROUNDS):
        first = call.inside(yes, states, results)
        if isinstance(first, Refusal):
            return first
        second = call.inside(no, first.inputs, first.out)
        if isinstance(second, Refusal):
            return second
        if first.inputs == second.inputs and results == second.out:
            return first, second
        states, results = second.inputs, second.out
    return Refusal("the branches want their operands cut differently")


def _agreed(states: tuple[State, ...], zeros: tuple[bool, ...]) -> State | None:
    """Return the state of a result that both graphs agree on, or ``None``."""
    known = [s for s, zero in zip(states, zeros, strict=True) if not (zero and s == WHOLE)]
    if not known:
        return PartialSum()
    if len(set(known)) != 1:
        return None
    (state,) = set(known)
    if isinstance(state, Sliced):
        return state if len(known) == len(states) else None
    return state if isinstance(state, PartialSum) else None


RULES = {**family("conditional", conditional, (cond,))}
