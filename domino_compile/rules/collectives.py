"""Functional collectives: they act element by element across ranks, except on dimension 0.

An all-gather stacks the ranks' values along dimension 0; a reduce-scatter and an all-to-all split
dimension 0 into one block for each rank. A cut of dimension 0 is possible if each block is cut
separately (``outer`` is a multiple of the group's size); other dimensions are not affected. The
coalesced forms do the same to each tensor of a list.

Collectives are never pulled: a collective on a whole value stays whole, and so does its wait. (A
wait for one slice would read a result that the whole collective is still writing.)
"""

from __future__ import annotations

from dataclasses import replace

from domino_compile._compat.operators import c10d
from domino_compile.axes import Sliced, State, States, quotient
from domino_compile.axes.sizes import product, same
from domino_compile.ops.own_part import own_part
from domino_compile.rules.call import Call, Cut, Outcome, Refusal, Scaled
from domino_compile.rules.rule import Rule, RuleFn, Trait


def elementwise(call: Call) -> Outcome:
    """Cut an all-reduce, a broadcast or a wait: each element is independent of the others."""
    (x,) = call.operands
    assert x.sliced is not None
    return Cut((x.sliced,), x.sliced)


def all_gather(call: Call) -> Outcome:
    """Cut an all-gather: dimension 0 becomes rank-major, ``outer`` grows by the group's size."""
    (x,) = call.operands
    assert x.sliced is not None
    if x.sliced.dim != 0:
        return Cut((x.sliced,), x.sliced)
    return Cut((x.sliced,), Sliced(0, product((call.arg(1, "group_size"), x.sliced.outer))))


def reduce_scatter(call: Call) -> Outcome:
    """Cut a reduce-scatter; a cut of dimension 0 must be rank-major."""
    (x,) = call.operands
    assert x.sliced is not None
    if x.sliced.dim != 0:
        return Cut((x.sliced,), x.sliced)
    outer = quotient(x.sliced.outer, call.arg(2, "group_size"))
    if outer is None:
        return Refusal("scatters the cut dimension itself over the ranks")
    return Cut((x.sliced,), Sliced(0, outer))


def own(call: Call) -> Outcome:
    """Cut ``own_part``, which takes one block for each rank of a dimension, like a scatter."""
    (x,) = call.operands
    assert x.sliced is not None
    if x.sliced.dim != call.arg(1, "dim"):
        return Cut((x.sliced,), x.sliced)
    if not same(x.sliced.outer, call.arg(2, "ranks")):
        return Refusal("takes a rank's part of the cut dimension itself")
    return Cut((x.sliced,), Sliced(x.sliced.dim))


def all_to_all(call: Call) -> Outcome:
    """Cut an all-to-all, which sends block ``r`` of dimension 0 to rank ``r``.

    Unequal block sizes differ between ranks. A cut that depended on them could be possible on one
    rank and impossible on another, so dimension 0 is cut only if all blocks are equal.
    """
    (x,) = call.operands
    assert x.sliced is not None
    if x.sliced.dim != 0:
        return Cut((x.sliced,), x.sliced)
    received, sent = call.arg(1, "output_split_sizes"), call.arg(2, "input_split_sizes")
    if not all(same(size, sent[0]) for size in (*received, *sent)):
        return Refusal("exchanges blocks of different sizes of the cut dimension between the ranks")
    if quotient(x.sliced.outer, len(sent)) is None:
        return Refusal("exchanges the cut dimension itself between the ranks")
    scaled = (
        Scaled(argument, entry, size)
        for argument, sizes in ((1, received), (2, sent))
        for entry, size in enumerate(sizes)
    )
    return Cut((x.sliced,), x.sliced, tuple(scaled))


def coalesced(single: RuleFn) -> RuleFn:
    """Return the rule for a collective on a list of tensors, given its rule for one tensor."""

    def rule(call: Call) -> Outcome:
        inputs: list[States] = []
        outs: list[State] = []
        for x in call.operands:
            if x.sliced is None:
                return Refusal("some of the tensors that travel together are not cut")
            outcome = single(replace(call, operands=(x,)))
            if isinstance(outcome, Refusal):
                return outcome
            assert isinstance(outcome.out, Sliced)
            inputs += outcome.inputs
            outs.append(outcome.out)
        return Cut(tuple(inputs), tuple(outs))

    return rule


RULES = {
    op: Rule(op, "collective", rule, traits=Trait.COMMUNICATES)
    for op, rule in (
        (c10d.all_reduce.default, elementwise),
        (c10d.broadcast.default, elementwise),
        (c10d.wait_tensor.default, elementwise),
        (c10d.all_gather_into_tensor.default, all_gather),
        (c10d.reduce_scatter_tensor.default, reduce_scatter),
        (c10d.all_to_all_single.default, all_to_all),
        (c10d.all_reduce_coalesced.default, coalesced(elementwise)),
        (c10d.all_gather_into_tensor_coalesced.default, coalesced(all_gather)),
        (c10d.reduce_scatter_tensor_coalesced.default, coalesced(reduce_scatter)),
    )
} | {own_part: Rule(own_part, "own part", own)}
