"""Every collective is accounted for: none lost, none doubled, none with other ranks or reduction.

That values are equal is shown elsewhere. A collective whose result nobody needs changes no value,
but its ranks wait for each other; and a result that is read before its wait is not there yet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from domino_compile.verify.claims import Piece
from domino_compile.verify.part import Given, NotEstablished, Part
from domino_compile.verify.plain import (
    EXCHANGE,
    GETITEM,
    OWN_PART,
    Graph,
    Operation,
    is_launch,
    is_wait,
)
from domino_compile.verify.slots import slots_are_kept
from domino_compile.verify.transported import STARTS, command_of

GATHER = "_c10d_functional.all_gather_into_tensor.default"


def count_collectives(
    before: Graph, after: Graph, known: Mapping[str, Given], parts: Sequence[Part]
) -> tuple[int, int]:
    """Return how many collectives there are before and after.

    Args:
        before: The graph before.
        after: The graph after.
        known: What is established about values after.
        parts: The proved parts that have collectives.

    Raises:
        NotEstablished: A collective is lost, doubled, new, with other arguments, or not waited for.
    """
    old, new = (
        {op.name: op for op in graph.operations.values() if is_launch(op)}
        for graph in (before, after)
    )
    _waited_for(before, after)
    slots_are_kept(after)
    done = defaultdict(list)
    for launch in new.values():
        given = known.get(launch.name)
        if given is not None:
            done[given.before].append(given)
    for name, several in done.items():
        _complete(before.operations[name], several)
    inside, carried = set[str](), _carried_once(parts)
    for part in parts:
        inside |= _same_kinds(part)
        done.update({op.name: [] for op in part.before.values() if op.name in old})
    for name in new:
        if name not in known and name not in inside:
            raise NotEstablished(name, "this collective belongs to none of the graph before")
    for name in old:
        if name not in done:
            raise NotEstablished(name, "this collective is gone")
    _not_repeated(old, new, {*known, *carried})
    return len(old), len(new)


def _complete(launch: Operation, given: Sequence[Given]) -> None:
    """Establish that the pieces of a collective make it up, without gaps and without overlaps."""
    pieces = [x.claim for x in given]
    if len(pieces) == 1 and not isinstance(pieces[0], Piece):
        return
    if any(not isinstance(piece, Piece) for piece in pieces):
        raise NotEstablished(launch.name, "this collective is done whole, and once more")
    first: Any = pieces[0]
    rows = launch.tensor.shape[first.dim] * first.ranks // first.outer
    end = 0
    for piece in sorted(pieces, key=lambda piece: piece.start):  # type: ignore[union-attr]
        assert isinstance(piece, Piece)
        if (piece.dim, piece.outer, piece.start) != (first.dim, first.outer, end):
            raise NotEstablished(launch.name, f"rows {end}.. of this collective are not done once")
        end += piece.length
    if end != rows:
        raise NotEstablished(launch.name, f"rows {end}..{rows} of this collective are not done")


def _same_kinds(part: Part) -> set[str]:
    """Establish that a part has the collectives that it had: the same kind, group and reduction.

    Returns:
        The names of those after.
    """
    assert part.launches is not None
    before, after = part.launches
    if part.own_ranks:
        return {_carried(before, after).name}
    kinds = [Counter(map(_kind, launches)) for launches in (before, after)]
    expected = {_exchange(op) for op in part.after.values() if op.target == OWN_PART}
    expected |= {_kind(op) for op in after if _replaces_gather(op, kinds[0])}
    for kind, count in kinds[1].items():
        if count > kinds[0][kind] and kind not in expected:
            name = next(op.name for op in after if _kind(op) == kind)
            raise NotEstablished(name, "a collective of this kind, reduction and group is new")
    return {op.name for op in after}


def _carried_once(parts: Sequence[Part]) -> dict[str, str]:
    """Return the collective that each start of the transport carries: no two carry the same."""
    carried: dict[str, str] = {}
    for part in parts:
        if part.own_ranks and part.launches is not None:
            before, after = part.launches
            carried |= {start.name: launch.name for start in after for launch in before}
    for name, count in Counter(carried.values()).items():
        if count > 1:
            raise NotEstablished(name, "this collective is carried twice")
    return carried


def _carried(before: Sequence[Operation], after: Sequence[Operation]) -> Operation:
    """Establish that one start of the transport stands for one collective; return it.

    Both must have the same ranks, and the start must be of a kind that can carry the collective.
    """
    if len(before) != 1 or len(after) != 1:
        raise NotEstablished(after[-1].name, "the transport carries one collective by one start")
    (launch,), (start,) = before, after
    if launch.target == start.target:  # as it was before
        same = launch.args[1:] == start.args[1:] and launch.kwargs == start.kwargs
    else:
        kind, ranks = launch.target.split(".")[1], dict(start.kwargs)["ranks"]
        known = STARTS.get(command_of(start.target))
        settings = {"all_reduce": ("sum",), "reduce_scatter_tensor": ("sum", ranks)}
        wanted = (*settings.get(kind, (ranks,)), start.args[-1])
        same = known is not None and kind in known.carries and launch.args[1:] == wanted
    if not same:
        raise NotEstablished(start.name, f"it does not carry {launch.name}: another kind or group")
    return start


def _exchange(own: Operation) -> Any:
    """Return the kind of the gather whose result a rank takes its own part of again.

    All ranks have it, since all have its group, and its result is what they had.
    """
    return GATHER, own.args[2:], ()


def _replaces_gather(launch: Operation, before: Collection[Any]) -> bool:
    """Return whether an exchange of tokens is among the ranks of a gather that was there before."""
    return launch.target == EXCHANGE and (GATHER, launch.args[3:], ()) in before


def _kind(launch: Operation) -> Any:
    """Return what a collective is, but for its payload (and its sizes)."""
    names = tuple(x for x in launch.args[1:] if not isinstance(x, tuple))
    return launch.target, names, launch.kwargs


def _not_repeated(
    old: Mapping[str, Operation], new: Mapping[str, Operation], known: Collection[str]
) -> None:
    """Establish that a collective is not done again, on the same operands, as part of a proof.

    Those that stand for collectives before are counted by ``_complete``: two collectives before
    whose payloads are equal may have one operand after.
    """
    counts = [Counter(map(_call, launches.values())) for launches in (old, new)]
    stand = Counter(_call(op) for name, op in new.items() if name in known)
    for name, op in new.items():
        made = _call(op)
        if counts[1][made] > max(counts[0][made], stand[made], 1):
            raise NotEstablished(name, "this collective is done twice")


def _call(launch: Operation) -> Any:
    return launch.target, launch.args, launch.kwargs


def _waited_for(before: Graph, after: Graph) -> None:
    """Establish that only waits read the results of collectives, as far as that was so before."""
    early = [set(_read_early(graph)) for graph in (before, after)]
    for name, user in early[1]:
        if (name, user) not in early[0]:
            raise NotEstablished(user, f"it reads the result of {name} without waiting")


def _read_early(graph: Graph) -> Any:
    pending = {op.name for op in graph.operations.values() if is_launch(op)}
    for op in graph.operations.values():
        for name in op.operands:
            if name in pending and op.target == GETITEM:
                pending.add(op.name)
            elif name in pending and not is_wait(op):
                yield name, op.name
    for name in graph.outputs:
        if name in pending:
            yield name, "output"
