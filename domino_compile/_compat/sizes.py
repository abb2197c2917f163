"""Numbers for sizes that are symbols while a program is compiled.

A dynamic size has a number that was seen (a hint). A size that depends on data, such as how many
elements ``nonzero`` finds, has none (torch calls it unbacked): one is chosen that satisfies what
the program asserts, the same each time. The attributes of ``ShapeEnv`` that are used here have the
same names in torch 2.11 and 2.13.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch

#: Sizes are chosen from this many above the least that is allowed, and not below ``LEAST``: torch
#: takes unbacked sizes to be neither 0 nor 1.
CHOICES, LEAST = 64, 5
#: How often all are chosen anew if some assertion cannot be satisfied.
ATTEMPTS = 20
_chosen: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def number_of(size: Any) -> Any:
    """Return the number that stands for a size, or for another number or condition of a graph.

    Raises:
        ValueError: No numbers are found that satisfy the program's assertions.
    """
    if not isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return size
    node: Any = size.node
    if (hint := node.hint) is not None:
        return hint
    environment, expression = node.shape_env, node.expr
    known = dict(environment.backed_var_to_val)
    chosen = _chosen.setdefault(environment, {})
    if missing := expression.free_symbols - known.keys() - chosen.keys():
        chosen.update(_choose(environment, missing, known | chosen))
    found = expression.xreplace(known | chosen)
    return node.pytype(found)


def _choose(environment: Any, symbols: Any, known: dict[Any, Any]) -> dict[Any, Any]:
    """Return numbers for symbols, and for those that assertions relate them to."""
    asserted = [
        one.expr for several in environment.deferred_runtime_asserts.values() for one in several
    ]
    related: set[Any] = set(symbols)
    for _ in asserted:
        related |= {s for x in asserted if x.free_symbols & related for s in x.free_symbols}
    wanted = sorted(related - known.keys(), key=str)
    for attempt in range(ATTEMPTS):
        made = _attempt(environment, wanted, asserted, known, random.Random(attempt))
        if made is not None:
            return made
    raise ValueError(f"no sizes {wanted} are found that satisfy {asserted}")


def _attempt(
    environment: Any, wanted: list[Any], asserted: list[Any], known: dict[Any, Any], draw: Any
) -> dict[Any, Any] | None:
    made: dict[Any, Any] = {}
    for symbol in wanted:
        values = known | made
        mine = [x.xreplace(values) for x in asserted if symbol in x.free_symbols]
        decided = [x for x in mine if x.free_symbols == {symbol}]
        allowed = environment.var_to_range.get(symbol)
        candidates = [*_solutions(decided, symbol), *_drawn(symbol, allowed, values, draw)]
        fits = (
            n
            for n in candidates
            if (allowed is None or n in allowed)
            and all(x.xreplace({symbol: n}) == True for x in decided)  # noqa: E712  (sympy's true)
        )
        if (number := next(fits, None)) is None:
            return None
        made[symbol] = number
    return made


def _solutions(relations: list[Any], symbol: Any) -> Iterator[Any]:
    """Yield the numbers that an equation leaves for a symbol."""
    import sympy

    for relation in relations:
        if isinstance(relation, sympy.Eq):
            try:
                yield from (n for n in sympy.solve(relation, symbol) if n.is_number)
            except NotImplementedError:  # sympy cannot solve it: numbers are tried
                continue


def _drawn(symbol: Any, allowed: Any, used: dict[Any, Any], draw: Any) -> list[Any]:
    """Return numbers to try in a drawn order, those first that no other symbol has."""
    import sympy

    if not symbol.is_integer:
        return [sympy.Float(draw.uniform(0.25, 0.75))]
    least = LEAST
    if allowed is not None and allowed.lower.is_number and allowed.lower > LEAST:
        least = int(allowed.lower)
    numbers = draw.sample(range(least, least + CHOICES), CHOICES)
    taken = set(used.values())
    first = [n for n in numbers if n not in taken]
    return [sympy.Integer(n) for n in (*first, *(n for n in numbers if n in taken), *range(LEAST))]
