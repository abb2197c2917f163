"""``transport``: let collectives that computation hides travel by copy engines.

A collective that is hidden holds multiprocessors which the computation beside it lacks. This pass
replaces such collectives by the operations of ``domino_compile.transport``:

* an all-gather becomes a start, a wait and, after everything that reads its result, a release:
  the result lies in memory that peers write into. If the graph returns the result, it cannot lie
  there. Then each rank sends its shard into the inboxes of its peers, and the result is a copy of
  the inbox and the rank's own shard;
* a reduce-scatter, and an all-reduce of two ranks, become a start, a wait for what the peers have
  sent, and additions, which Inductor fuses into the kernels that use the sum. Then the inbox is
  released;
* an all-reduce of more ranks becomes a start and a wait, because every rank needs sums that others
  compute.

Each start gets a slot. A slot that is read on the compute stream is used again only after its
release, which the transport's proof against deadlocks asks for (``transport.protocol``). No more
than ``SLOTS`` of one size are in use at once, which bounds the memory. A collective that finds no
free slot keeps NCCL, as does one that is not hidden.

The ranks agree on the result before the graph is changed: if they do not, because their hosts or
GPUs differ, NCCL carries all.

Contract: The pass takes a scheduled graph whose order is not pinned yet. Afterwards some of its
launches and waits are replaced, at their places.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile._compat.operators import c10d
from domino_compile.graph.collectives import Site, find_sites
from domino_compile.graph.new_nodes import new_node
from domino_compile.graph.readers import readers
from domino_compile.scheduling.kinds import event_kind
from domino_compile.transport import ops
from domino_compile.transport.choice import Choice, slot_bytes
from domino_compile.transport.memory import rounded_up
from domino_compile.transport.wire import Use
from domino_compile.verify.claims import Whole, Witness

aten = torch.ops.aten

#: The most slots of one size and use. Two slices have at most two collectives of a kind in flight;
#: the third is for one that is launched before the last is waited for.
SLOTS = 3

_SlotSize = tuple[str, Use, int]  # the group's name, and the bytes of one part


@dataclass
class Carried:
    """What the pass did.

    Attributes:
        carried: The replaced launches by name, with the numbers of their slots.
        left: The other launches by name, with the reason why they use NCCL.
        slots: How many slots there are of each size.
        witness: What each replaced wait is now.
    """

    carried: dict[str, int] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    slots: dict[_SlotSize, int] = field(default_factory=dict)
    witness: Witness = field(default_factory=Witness)

    def __bool__(self) -> bool:
        return bool(self.carried)

    @property
    def slot_bytes(self) -> int:
        """The bytes of all slots on one rank."""
        total = 0
        for (group, use, nbytes), count in self.slots.items():
            ranks = _compat.group_size(group)
            total += count * nbytes * (use.parts(ranks) + (use is Use.SUMMANDS))
        return total

    def text(self) -> str:
        """Return one line for the report."""
        reasons = Counter(self.left.values())
        left = "; ".join(f"{count} by NCCL: {reason}" for reason, count in reasons.items())
        done = f"{len(self.carried)} of {len(self.carried) + len(self.left)} collectives"
        held = f"{self.slot_bytes / 2**20:.1f} MiB of buffers"
        return f"{done} by copy engines ({held})" + (f"; {left}" if left else "")


def transport_collectives(
    graph: fx.Graph, choice: Choice, agreed: Callable[[Mapping[fx.Node, str]], bool]
) -> Carried:
    """Replace collectives in place, and return which.

    Args:
        graph: The graph.
        choice: What decides the transport.
        agreed: Whether all ranks carry the same launches in the same way.
    """
    result = Carried()
    loans = _lent(graph, choice, result)
    if not agreed({loan.site.launch: str(loan) for loan in loans}):
        names = [*result.carried, *result.left]
        return Carried(left=dict.fromkeys(names, "the ranks would choose differently"))
    for loan in loans:
        before = loan.site.waits[0].name
        result.witness.add(before, Whole(_replace(graph, loan).name))
    return result


def _lent(graph: fx.Graph, choice: Choice, result: Carried) -> list[_Loan]:
    """Return the slots of all collectives that can be replaced, and fill in the result."""
    free = _Slots()
    sites = {site.launch: site for site in find_sites(graph)}
    place = {node: index for index, node in enumerate(graph.nodes)}
    ends: defaultdict[fx.Node, list[_Loan]] = defaultdict(list)
    hidden = _hidden(graph, sites)
    loans: list[_Loan] = []
    for node in graph.nodes:
        if node in sites:
            site = sites[node]
            why = choice.against(site) or ("" if node in hidden else "nothing hides it")
            loan = None if why else _lend(site, free, place)
            if loan is None:
                result.left[node.name] = why or f"more than {SLOTS} of its size are in use"
                continue
            result.carried[node.name] = loan.slot
            ends[loan.last].append(loan)
            loans.append(loan)
        for loan in ends[node]:
            free.give(loan.size, loan.slot)
    result.slots = free.most
    return loans


@dataclass(frozen=True)
class _Loan:
    """A collective and the slot that it uses.

    Attributes:
        site: The collective.
        size: What the slot is used for, and its size.
        slot: Its number.
        last: The last node that reads the slot, after which it is released; the wait if only the
            nodes that replace it read the slot.
    """

    site: Site
    size: _SlotSize
    slot: int
    last: fx.Node

    def __str__(self) -> str:
        _, use, nbytes = self.size
        return f"{use.value} slot {self.slot} of {nbytes} bytes"


def _lend(site: Site, free: _Slots, place: dict[fx.Node, int]) -> _Loan | None:
    """Return a free slot for a collective; ``None`` if there is none."""
    (wait,) = site.waits
    nbytes = rounded_up(slot_bytes(site.launch, _compat.group_size(site.group)))
    if site.launch.target is c10d.all_gather_into_tensor.default:
        uses = readers(wait)
        size = site.group, Use.GATHERED, nbytes
        if uses and (slot := free.take(size)) is not None:
            return _Loan(site, size, slot, max(uses, key=place.__getitem__))
    size = site.group, _use_of(site), nbytes
    number = free.take(size)
    return None if number is None else _Loan(site, size, number, wait)


class _Slots:
    """The free numbers of slots by size."""

    def __init__(self) -> None:
        self.most: dict[_SlotSize, int] = {}
        self._free: dict[_SlotSize, list[int]] = {}

    def take(self, size: _SlotSize) -> int | None:
        """Return the lowest free number; ``None`` if there is none."""
        free = self._free.setdefault(size, list(range(SLOTS)))
        if not free:
            return None
        number = min(free)
        free.remove(number)
        self.most[size] = max(self.most.get(size, 0), number + 1)
        return number

    def give(self, size: _SlotSize, number: int) -> None:
        """Free a number."""
        self._free[size].append(number)


def _use_of(site: Site) -> Use:
    """Return what a slot is used for if the result does not lie in it."""
    is_sum = site.launch.target is c10d.all_reduce.default
    return Use.SUMMANDS if is_sum and _compat.group_size(site.group) > 2 else Use.INBOX


def _hidden(graph: fx.Graph, sites: dict[fx.Node, Site]) -> set[fx.Node]:
    """Return the launches that have a product or attention between them and their wait."""
    found: set[fx.Node] = set()
    flying: set[fx.Node] = set()
    for node in graph.nodes:
        if node in sites:
            flying.add(node)
        elif event_kind(node) == "wait":
            flying -= set(node.all_input_nodes)
        elif event_kind(node) is not None:
            found |= flying
    return found


_STARTS: dict[tuple[Any, Use], Any] = {
    (c10d.all_gather_into_tensor.default, Use.GATHERED): ops.gather_start,
    (c10d.all_gather_into_tensor.default, Use.INBOX): ops.exchange_start,
    (c10d.reduce_scatter_tensor.default, Use.INBOX): ops.scatter_start,
    (c10d.all_reduce.default, Use.INBOX): ops.exchange_start,
    (c10d.all_reduce.default, Use.SUMMANDS): ops.reduce_start,
}
_WAITS: dict[Use, Any] = {
    Use.GATHERED: ops.gather_wait,
    Use.INBOX: ops.inbox_wait,
    Use.SUMMANDS: ops.reduce_wait,
}


def _replace(graph: fx.Graph, loan: _Loan) -> fx.Node:
    """Replace one collective by our operations; return what its wait is now."""
    site, (_, use, _) = loan.site, loan.size
    launch, (wait,) = site.launch, site.waits
    (sent,) = launch.all_input_nodes
    end = loan.slot, site.group
    with graph.inserting_before(launch):
        start = new_node(graph, launch, _STARTS[launch.target, use], (sent, *end))
    with graph.inserting_before(wait):
        result = new_node(graph, wait, _WAITS[use], (start, sent, *end))
        if use is Use.INBOX:
            inbox, result = result, _made_of(graph, result, sent, site)
            new_node(graph, wait, ops.inbox_release, (inbox, *end))
    if use is Use.GATHERED:
        with graph.inserting_after(loan.last):
            new_node(graph, wait, ops.gather_release, (result, *end))
    wait.replace_all_uses_with(result)
    name = launch.name
    graph.erase_node(wait)
    graph.erase_node(launch)
    start.name = name
    return result


def _made_of(graph: fx.Graph, inbox: fx.Node, sent: fx.Node, site: Site) -> fx.Node:
    """Insert what a collective's result is made of: its peers' pieces and this rank's."""
    (wait,) = site.waits
    rank, target = _compat.rank_in(site.group), site.launch.target
    own = (
        _own_chunk(graph, wait, sent, site)
        if target is c10d.reduce_scatter_tensor.default
        else sent
    )
    count = inbox.meta["val"].shape[0]
    pieces = [new_node(graph, wait, aten.select.int, (inbox, 0, i)) for i in range(count)]
    pieces.insert(rank, own)
    if target is c10d.all_gather_into_tensor.default:
        return new_node(graph, wait, aten.cat.default, (pieces,))
    return _sum(graph, wait, pieces)


def _own_chunk(graph: fx.Graph, like: fx.Node, sent: fx.Node, site: Site) -> fx.Node:
    """Insert this rank's chunk of what it sends."""
    rank, ranks = _compat.rank_in(site.group), _compat.group_size(site.group)
    rows = sent.meta["val"].shape[0] // ranks
    return new_node(graph, like, aten.slice.Tensor, (sent, 0, rank * rows, (rank + 1) * rows))


def _sum(graph: fx.Graph, like: fx.Node, pieces: list[fx.Node]) -> fx.Node:
    """Insert the sum of the ranks' pieces, in the ranks' order, rounded once."""
    if len(pieces) == 2:
        return new_node(graph, like, aten.add.Tensor, (pieces[0], pieces[1]))
    dtype = pieces[0].meta["val"].dtype
    wide = torch.promote_types(dtype, torch.float32)
    convert = torch.ops.prims.convert_element_type.default
    total, *terms = [new_node(graph, like, convert, (piece, wide)) for piece in pieces]
    for term in terms:
        total = new_node(graph, like, aten.add.Tensor, (total, term))
    return new_node(graph, like, convert, (total, dtype))
