"""Axis rules: whether and how each operation can be cut along one axis.

Each file covers one family of operations and ends in a table; ``registry`` merges the tables.
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
from domino_compile.rules.registry import (
    all_rules,
    find_pull,
    find_rule,
    traits_of,
    without_rule,
)
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
    "without_rule",
]
