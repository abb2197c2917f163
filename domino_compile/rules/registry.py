"""The table of all rules, and the lookup of an operation's rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from domino_compile._compat.operators import OpOverload
from domino_compile.rules import (
    attention,
    collectives,
    contraction,
    control_flow,
    creation,
    experts,
    flex_attention,
    indexing,
    normalisation,
    pieces,
    pointwise,
    random,
    reduction,
    scaled,
    shape,
)
from domino_compile.rules.call import Refusal
from domino_compile.rules.rule import PullFn, Rule, RuleFn, Trait

_FAMILIES = (
    pointwise,
    shape,
    pieces,
    contraction,
    scaled,
    reduction,
    normalisation,
    indexing,
    attention,
    flex_attention,
    experts,
    control_flow,
    collectives,
    creation,
    random,
)


def merge(tables: Iterable[Mapping[Any, Rule]]) -> dict[Any, Rule]:
    """Merge tables of rules, which must not share an operation.

    Raises:
        ValueError: Two tables have a rule for the same operation. The message names it.
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
    """Return every rule, by operation."""
    return merge(module.RULES for module in _FAMILIES)


@cache
def rule_of(op: Any) -> Rule | None:
    """Return an operation's rule: for the overload, for its packet, or for pointwise operations."""
    rules = all_rules()
    if isinstance(op, OpOverload) and op._schema.is_mutable:
        return None
    if op in rules:
        return rules[op]
    if isinstance(op, OpOverload):
        packet = rules.get(op.overloadpacket)
        if packet is not None:
            return packet
        if pointwise.is_tagged_pointwise(op):
            return pointwise.rule_by_tag(op)
    return None


def find_rule(op: Any) -> RuleFn | None:
    """Return the ``forward`` function of an operation's rule, or ``None``."""
    rule = rule_of(op)
    return rule.forward if rule else None


def without_rule(op: Any) -> Refusal:
    """Return why an operation that has no rule stays whole."""
    reason = attention.WHOLE_BY_NAME.get(str(op), "no axis rule for this operation")
    return Refusal(reason)


def find_pull(op: Any) -> PullFn | None:
    """Return the ``pull`` function of an operation's rule, or ``None``."""
    rule = rule_of(op)
    return rule.pull if rule else None


def traits_of(op: Any) -> Trait:
    """Return the traits of an operation; one without a rule has none."""
    rule = rule_of(op)
    return rule.traits if rule else Trait.NONE
