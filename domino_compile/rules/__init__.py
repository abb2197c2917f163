"""Axis rules: how each operation acts on values that are cut along one axis.

One file per family of operations; each ends in a table. ``registry`` gathers them.
"""

from domino_compile.rules.call import (
    Call,
    Cut,
    Inside,
    Members,
    Operand,
    Outcome,
    Refusal,
    Subgraph,
    Summands,
)
from domino_compile.rules.registry import all_rules, find_pull, find_rule, traits_of
from domino_compile.rules.rule import Rule, Trait

__all__ = [
    "Call",
    "Cut",
    "Inside",
    "Members",
    "Operand",
    "Outcome",
    "Refusal",
    "Rule",
    "Subgraph",
    "Summands",
    "Trait",
    "all_rules",
    "find_pull",
    "find_rule",
    "traits_of",
]
