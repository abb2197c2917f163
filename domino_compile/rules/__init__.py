"""Axis rules: how each operation acts on values that are cut along one axis.

One file per family of operations; each ends in a table. ``registry`` gathers them.
"""

from domino_compile.rules.call import Call, Cut, Operand, Outcome, Refusal
from domino_compile.rules.registry import Rule, all_rules, find_pull, find_rule

__all__ = [
    "Call",
    "Cut",
    "Operand",
    "Outcome",
    "Refusal",
    "Rule",
    "all_rules",
    "find_pull",
    "find_rule",
]
