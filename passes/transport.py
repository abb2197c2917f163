"""``transport``: let collectives that computation hides travel by copy engines.

A collective that is hidden holds multiprocessors which the computation beside it lacks. This pass
replaces such collectives by the operations of ``domino_compile.transport``:

* an all-gather becomes a start and a wait;
* a reduce-scatter, and an all-reduce of two ranks, become a start, a wait for what the peers have
  sent, and additions, which Inductor fuses into the kernels that use the sum. Then the inbox is
  released;
* an all-reduce of more ranks becomes a start and a wait, because every rank needs sums that others
  compute.

Each start gets a slot. A slot that is read on the compute stream is used again only after its
release, which the transport's proof against deadlocks asks for (``transport.protocol``). No more
than ``SLOTS`` of one size are in use at once, which bounds the memory. A collective that finds no
free slot keeps NCCL, as does one that is not hidden.

Contract: The pass takes a scheduled graph whose order is not pinned yet. Afterwards some of its
launches and waits are replaced, at their places.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile._compat.operators import c10d
from domino_compile.graph.collectives import Site, find_sites
from domino_compile.graph.new_nodes import new_node
from domino_compile.scheduling.kinds import event_kind
from domino_compile.transport import ops
from domino_compile.transport.choice import Choice, slot_bytes
from domino_compile.transport.memory import rounded_up
from domino_compile.transport.wire import Use

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
    """

    carried: dict[str, int] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    slots: dict[_SlotSize, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.carried)

    @property
    def slot_bytes(self) -> int:
        """The bytes of all slots on one rank."""
        total = 0
        for (group, use, nbytes), count in self.slots.items():
            parts = _compat.group_size(group) - 1 if use.is_inbox else 1
            total += count * nbytes * (parts + (use is Use.SUMMANDS))
        return total

    def text(self) -> str:
        """Return one line for the report."""
        reasons = Counter(self.left.values())
        left = "; ".join(f"{count} by NCCL: {reason}" for reason, count in reasons.items())
        done = f"{len(self.carried)} of {len(self.carried) + len(self.left)} collectives"
        held = f"{self.slot_bytes / 2**20:.1f} MiB of buffers"
        return f"{done} by copy engines ({held})" + (f"; {left}" if left else "")


def transport_collectives(graph: fx.Graph, choice: Choice) -> Carried:
    """Replace collectives in place, and return which."""
    result, free = Carried(), _Slots()
    sites = {site.launch: site for site in find_sites(graph)}
    begun: dict[fx.Node, tuple[Site, int, _SlotSize]] = {}
    hidden = _hidden(graph, sites)
    for node in list(graph.nodes):
        if node in begun:
            site, number, size = begun.pop(node)
            _replace(graph, site, number)
            free.give(size, number)
        elif node in sites:
            site = sites[node]
            why = choice.against(site) or ("" if node in hidden else "nothing hides it")
            size = _slot_size(site)
            slot = None if why else free.take(size)
            if slot is None:
                result.left[node.name] = why or f"more than {SLOTS} of its size are in flight"
                continue
            result.carried[node.name] = slot
            begun[site.waits[0]] = site, slot, size
    result.slots = free.most
    return result


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
    """Return what the slot of a collective is used for."""
    if site.launch.target is c10d.all_gather_into_tensor.default:
        return Use.OUTBOX
    is_scatter = site.launch.target is c10d.reduce_scatter_tensor.default
    return Use.INBOX if is_scatter or _compat.group_size(site.group) == 2 else Use.SUMMANDS


def _slot_size(site: Site) -> _SlotSize:
    nbytes = rounded_up(slot_bytes(site.launch, _compat.group_size(site.group)))
    return site.group, _use_of(site), nbytes


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


def _replace(graph: fx.Graph, site: Site, slot: int) -> None:
    """Replace one collective by our operations."""
    launch, (wait,), use = site.launch, site.waits, _use_of(site)
    (sent,) = launch.all_input_nodes
    is_scatter = launch.target is c10d.reduce_scatter_tensor.default
    start_op: Any = {
        Use.OUTBOX: ops.gather_start,
        Use.SUMMANDS: ops.reduce_start,
        Use.INBOX: ops.scatter_start if is_scatter else ops.exchange_start,
    }[use]
    wait_op: Any = {
        Use.OUTBOX: ops.gather_wait,
        Use.SUMMANDS: ops.reduce_wait,
        Use.INBOX: ops.inbox_wait,
    }[use]
    name = launch.name
    with graph.inserting_before(launch):
        start = new_node(graph, launch, start_op, (sent, slot, site.group))
    with graph.inserting_before(wait):
        result = new_node(graph, wait, wait_op, (start, sent, slot, site.group))
        if use is Use.INBOX:
            inbox, own = result, _own_chunk(graph, wait, sent, site) if is_scatter else sent
            result = _sum(graph, wait, inbox, own, _compat.rank_in(site.group))
            new_node(graph, wait, ops.inbox_release, (inbox, slot, site.group))
    wait.replace_all_uses_with(result)
    graph.erase_node(wait)
    graph.erase_node(launch)
    start.name = name


def _own_chunk(graph: fx.Graph, like: fx.Node, sent: fx.Node, site: Site) -> fx.Node:
    """Insert this rank's chunk of what it sends."""
    rank, ranks = _compat.rank_in(site.group), _compat.group_size(site.group)
    rows = sent.meta["val"].shape[0] // ranks
    return new_node(graph, like, aten.slice.Tensor, (sent, 0, rank * rows, (rank + 1) * rows))


def _sum(graph: fx.Graph, like: fx.Node, inbox: fx.Node, own: fx.Node, rank: int) -> fx.Node:
    """Insert the sum of the inbox's pieces and this rank's, in the ranks' order, rounded once."""
    count = inbox.meta["val"].shape[0]
    pieces = [new_node(graph, like, aten.select.int, (inbox, 0, i)) for i in range(count)]
    pieces.insert(rank, own)
    if count == 1:
        return new_node(graph, like, aten.add.Tensor, (pieces[0], pieces[1]))
    dtype = own.meta["val"].dtype
    wide = torch.promote_types(dtype, torch.float32)
    convert = torch.ops.prims.convert_element_type.default
    terms = [new_node(graph, like, convert, (piece, wide)) for piece in pieces]
    total = terms[0]
    for term in terms[1:]:
        total = new_node(graph, like, aten.add.Tensor, (total, term))
    return new_node(graph, like, convert, (total, dtype))
