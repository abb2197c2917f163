"""Sequence parallelism: a cut may deal the tokens to the ranks differently than the uncut program.

A reduce-scatter leaves each rank one contiguous part of the tokens. If the tokens are cut first,
each slice is scattered separately. A rank then holds a part of every slice: the same number of
tokens, but different ones. The program stays right while operations treat each token separately,
and the following all-gather puts each slice's tokens together again, in order.

In terms of states: for a suitable permutation of the tokens, the slices are
``Sliced(dim, outer=ranks)`` of the whole, with one block for each rank. So the rules stay as they
are, and between scatter and gather they describe the permuted tokens. This module decides where the
permutation begins and ends, and which operations may stand in between::

    whole -(split, cat)-> stacked -reduce-scatter-> dealt -all-gather-> stacked -(view)-> whole

* A *dealt* value holds one rank's tokens. Operations must treat each token separately, and may
  combine it only with values that are dealt alike. Sums over tokens may only be added up further:
  over the ranks (an all-reduce), or by the caller (a parameter's gradient, of which each rank has a
  summand).
* A *stacked* value holds the parts of all ranks along a separate dimension. It may only be
  reshaped.

If a dealt value is needed as the uncut program has it (by an output, a random mask, or an operation
without a rule), its tokens must not be dealt differently. Then the scatter runs whole, and so does
everything behind it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import fx

from domino_compile._compat.operators import c10d, prims
from domino_compile.axes import WHOLE, Partial, PartialMax, PartialSum, Shape, Sliced
from domino_compile.axes.sizes import product, same
from domino_compile.graph.collectives import is_launch, is_wait
from domino_compile.graph.nodes import is_free
from domino_compile.ops.own_part import own_part
from domino_compile.rules import Call, Cut, Outcome, Refusal, find_rule
from domino_compile.rules.registry import rule_of, traits_of
from domino_compile.rules.rule import Trait
from domino_compile.scheduling.kinds import draws, is_pointwise

aten = torch.ops.aten
SCATTER = c10d.reduce_scatter_tensor.default
GATHER = c10d.all_gather_into_tensor.default
SPLITS = (aten.split.Tensor, aten.split_with_sizes.default)
#: Linear operations. Behind them, the sum of all ranks' summands over dealt tokens is the same.
LINEAR = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.clone.default,
    aten.alias.default,
    aten.add.Tensor,
    torch.ops.prims.convert_element_type.default,
)
COMBINED = Refusal("combines tokens that the cut deals differently with others")
DRAWN = Refusal(
    "its random numbers are drawn for the tokens that the rank has in the uncut program"
)


@dataclass(frozen=True)
class Dealt:
    """How a value's tokens are dealt to ranks.

    Attributes:
        ranks: The number of ranks.
        group: The name of their process group.
        sources: The operations that begin to deal the tokens.
        stacked: Whether the value holds the parts of all ranks, and not only this rank's.
    """

    ranks: int
    group: str
    sources: frozenset[fx.Node]
    stacked: bool


#: How an operation is cut, and how its result is dealt.
Followed: TypeAlias = tuple[Outcome, Dealt | None]


def scattered_over(node: fx.Node) -> tuple[int, str] | None:
    """Return the number of ranks, and the group, over which an operation begins to scatter tokens.

    Such an operation takes a rank's part of what all ranks have (``passes.regroup``), or is a
    reduce-scatter, or the split in front of a reduce-scatter along a
    dimension other than the first. The pieces of the split must be concatenated in their order, and
    only the reduce-scatter may use the result.
    """
    if node.target is own_part:
        return int(node.args[2]), str(node.args[3])  # type: ignore[arg-type]
    if node.target is SCATTER:
        return int(node.args[2]), str(node.args[3])  # type: ignore[arg-type]
    if node.target not in SPLITS:
        return None
    pieces = sorted(node.users, key=lambda user: user.args[1])  # type: ignore[arg-type, return-value]
    joined = {user for piece in pieces for user in piece.users}
    if len(joined) != 1 or any(piece.target is not operator.getitem for piece in pieces):
        return None
    (cat,) = joined
    if cat.target is not aten.cat.default or list(cat.args[0]) != pieces:  # type: ignore[arg-type]
        return None
    behind = list(cat.users)
    if (len(cat.args) > 1 and cat.args[1] != 0) or [x.target for x in behind] != [SCATTER]:
        return None
    scatter = scattered_over(behind[0])
    return scatter if scatter is not None and scatter[0] == len(pieces) else None


def begin(node: fx.Node, call: Call) -> Followed | None:
    """Let each slice scatter its tokens separately; ``None`` if the operation scatters none."""
    scatter = scattered_over(node)
    x = call.operands[0] if call.operands else None
    rule = find_rule(node.target)
    if scatter is None or rule is None or x is None or x.sliced is None or x.sliced.outer != 1:
        return None
    ranks, group = scatter
    strided = replace(x, state=Sliced(x.sliced.dim, ranks))
    outcome = rule(replace(call, args=(strided, *call.args[1:]), operands=(strided,)))
    if not isinstance(outcome, Cut):
        return None
    stacked = node.target not in (SCATTER, own_part)
    cut = replace(outcome, inputs=(x.sliced,))
    return cut, Dealt(ranks, group, frozenset({node}), stacked)


def follow(
    node: fx.Node,
    call: Call,
    dealt: Sequence[Dealt | None],
    outcome: Outcome,
    is_gradient: Callable[[fx.Node], bool],
) -> Followed:
    """Return how an operation on dealt operands is cut, and how its result is dealt.

    Args:
        node: The operation.
        call: The operation as its rule sees it.
        dealt: How each operand is dealt; ``None`` for an operand that is not.
        outcome: The answer of its rule.
        is_gradient: Whether a node depends on a gradient of an output.
    """
    known = [x for x in dealt if x is not None]
    if isinstance(outcome, Refusal):
        return outcome, None
    first = known[0]
    if any(
        (x.ranks, x.group, x.stacked) != (first.ranks, first.group, first.stacked) for x in known
    ):
        return Refusal("combines tokens that are dealt to the ranks of different groups"), None
    how = replace(first, sources=frozenset().union(*(x.sources for x in known)))
    for operand, one, wanted in zip(call.operands, dealt, outcome.inputs, strict=True):
        if wanted != WHOLE and (one is None or operand.state != wanted):
            return (DRAWN if any(map(_is_drawn, node.all_input_nodes)) else COMBINED), None
    if how.stacked or is_launch(node):
        why = _stacked(node, how)
    else:
        why = _by_token(node, outcome, is_gradient)
    if why is not None:
        return why, None
    return _result(node, call, outcome, how)


def _is_drawn(value: fx.Node) -> bool:
    """Return whether a value is made of random numbers only, as a mask of dropout is."""
    if value.target is prims.inductor_random.default or draws(value):
        return True
    made_of = value.all_input_nodes
    plain = value.op == "call_function" and (is_free(value) or is_pointwise(value))
    return plain and bool(made_of) and all(map(_is_drawn, made_of))


def _stacked(node: fx.Node, how: Dealt) -> Refusal | None:
    """Refuse an operation on stacked values, or a collective on dealt ones, that cannot be cut."""
    if is_launch(node):
        group = node.args[3 if node.target is SCATTER else 2]
        fits = node.target is (SCATTER if how.stacked else GATHER) and str(group) == how.group
        return (
            None if fits else Refusal("another collective on tokens that the cut deals differently")
        )
    rule = rule_of(node.target)
    traits = rule.traits if rule is not None else Trait.NONE
    shapes_only = len(node.all_input_nodes) == 1 and bool(
        traits & (Trait.RESHAPES | Trait.POINTWISE)
    )
    if is_wait(node) or shapes_only or node.target is aten.cat.default:
        return None
    return Refusal("distinguishes the ranks of tokens that the cut deals differently")


def _by_token(node: fx.Node, cut: Cut, is_gradient: Callable[[fx.Node], bool]) -> Refusal | None:
    """Refuse an operation that cannot be computed on tokens that are dealt differently."""
    if isinstance(cut.out, PartialMax):
        extreme = Refusal("takes a maximum over a rank's tokens, which the cut deals differently")
        return None if _only_maximised(node, cut.out) else extreme
    if cut.out == PartialSum() or cut.chain is not None:
        summed = Refusal("sums over the tokens that a rank holds, which the cut deals differently")
        return None if _only_summed(node, is_gradient) else summed
    outs = cut.out if isinstance(cut.out, tuple) else (cut.out,)
    plain = all(isinstance(s, Sliced) and s.outer == 1 for s in outs)
    inputs = all(s == WHOLE or (isinstance(s, Sliced) and s.outer == 1) for s in cut.inputs)
    if plain and inputs and node.target not in (aten.cat.default, *SPLITS):
        return None
    if plain and inputs and _beside(node, cut):
        return None
    return Refusal("does not treat each token separately")


def _beside(node: fx.Node, cut: Cut) -> bool:
    """Return whether a concatenation or split is along a dimension other than the tokens."""
    lead = next(s for s in cut.inputs if isinstance(s, Sliced))
    at = 1 if node.target is aten.cat.default else 2
    dim = node.args[at] if len(node.args) > at else node.kwargs.get("dim", 0)
    rank = next(x.meta["val"].ndim for x in node.all_input_nodes)
    return bool(int(dim) % rank != lead.dim)  # type: ignore[arg-type]


def _only_maximised(node: fx.Node, state: PartialMax) -> bool:
    """Return whether a maximum over a rank's tokens only serves the maximum over all ranks' tokens.

    It does not matter then which rank holds which token.
    """
    reduction = "max" if state.largest else "min"
    return all(
        _only_maximised(user, state)
        if traits_of(user.target) & Trait.RESHAPES
        else user.target is c10d.all_reduce.default and user.args[1] == reduction
        for user in node.users
    )


def _only_summed(node: fx.Node, is_gradient: Callable[[fx.Node], bool]) -> bool:
    """Return whether a sum over a rank's tokens is only added up, over ranks or by the caller.

    The caller adds up parameters' gradients if each rank has a summand of them.
    """
    waiting, seen = [node], {node}
    while waiting:
        value = waiting.pop()
        for user in value.users:
            if user.target is c10d.all_reduce.default and user.args[1] == "sum":
                continue
            if user.op == "output":
                if not is_gradient(value):
                    return False
            elif user.target not in LINEAR:
                return False
            elif user not in seen:
                seen.add(user)
                waiting.append(user)
    return True


def _result(node: fx.Node, call: Call, cut: Cut, how: Dealt) -> Followed:
    if isinstance(cut.out, Partial) or cut.chain is not None:
        return cut, None
    if node.target is SCATTER:
        return cut, replace(how, stacked=False)
    if not how.stacked and node.target is not GATHER:
        return cut, how
    if isinstance(cut.out, Sliced) and _in_order(call.out_shape, cut.out, how.ranks):
        return replace(cut, out=Sliced(cut.out.dim)), None
    return cut, replace(how, stacked=True)


def _in_order(shape: Shape, state: Sliced, ranks: int) -> bool:
    """Return whether the ranks' parts are contiguous and outermost, so that tokens are in order."""
    before = product((*shape[: state.dim], state.outer))
    return same(before, ranks) and same(state.outer, ranks)
