"""The table of all rules, and how a rule is found for an operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from domino_compile.axes import Sliced
from domino_compile.rules.call import Call, Outcome

#: A rule maps a call with at least one cut operand to what can be done.
RuleFn = Callable[[Call], Outcome]
#: A pull maps a call with no cut operand and the wanted state of its result to what can be done:
#: it lets a value that is wanted in slices be *made* in slices instead of made whole and cut.
PullFn = Callable[[Call, Sliced], Outcome]


@dataclass(frozen=True)
class Rule:
    """The rule of one operation, the family file it comes from, and its pull if it has one."""

    op: Any
    family: str
    forward: RuleFn
    pull: PullFn | None = None


def family(
    name: str, forward: RuleFn, ops: Iterable[Any], pull: PullFn | None = None
) -> dict[Any, Rule]:
    """The same rule for a family of operations.

    Operations are given as overload packets (``torch.ops.aten.add``, all overloads), single
    overloads, or plain functions.
    """
    return {op: Rule(op, name, forward, pull) for op in ops}


def merge(tables: Iterable[Mapping[Any, Rule]]) -> dict[Any, Rule]:
    """One table of several; an operation in two of them is a mistake.

    Raises:
        ValueError: naming the operation.
    """
    merged: dict[Any, Rule] = {}
    for table in tables:
        for op, rule in table.items():
            if op in merged:
                raise ValueError(f"two rules for {op}: {merged[op].family} and {rule.family}")
            merged[op] = rule
    return merged


@cache
def all_rules() -> Mapping[Any, Rule]:
    """Every rule, by operation."""
    from domino_compile.rules import (
        attention,
        collectives,
        contraction,
        creation,
        indexing,
        normalisation,
        pieces,
        pointwise,
        random,
        reduction,
        shape,
    )

    return merge(
        (
            pointwise.RULES,
            shape.RULES,
            pieces.RULES,
            contraction.RULES,
            reduction.RULES,
            normalisation.RULES,
            indexing.RULES,
            attention.RULES,
            collectives.RULES,
            creation.RULES,
            random.RULES,
        )
    )


@cache
def rule_of(op: Any) -> Rule | None:
    """The rule of an operation: its own, its packet's, or the pointwise rule by its tag."""
    from domino_compile.rules import pointwise

    rules = all_rules()
    if isinstance(op, torch._ops.OpOverload) and op._schema.is_mutable:
        return None
    if op in rules:
        return rules[op]
    if isinstance(op, torch._ops.OpOverload):
        packet = rules.get(op.overloadpacket)
        if packet is not None:
            return packet
        if pointwise.is_pointwise(op):
            return Rule(op, "pointwise", pointwise.pointwise, pointwise.pull_pointwise)
    return None


def find_rule(op: Any) -> RuleFn | None:
    """The rule of an operation, or ``None``."""
    rule = rule_of(op)
    return rule.forward if rule else None


def find_pull(op: Any) -> PullFn | None:
    """The pull of an operation, or ``None``."""
    rule = rule_of(op)
    return rule.pull if rule else None
