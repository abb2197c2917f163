"""The operations that compiled graphs call: collectives whose payloads lie in slots.

====================  ============================================================================
``scatter_start``     sends each peer its chunk; returns the inbox, ``(ranks - 1, chunk)``
``exchange_start``    sends every peer the whole value; returns the inbox, ``(ranks - 1, value)``
``inbox_wait``        waits for one of these; its result is the inbox, which may then be read
``inbox_release``     ends the use of the inbox, after everything that reads it
``gather_start``      starts an all-gather along dimension 0; returns its result
``gather_wait``       waits for a gather, whose result may then be read
``gather_release``    ends the use of the result, after everything that reads it
``reduce_start``      starts an all-reduce
``reduce_wait``       waits for an all-reduce; its result is what the start returned
====================  ============================================================================

As with functional collectives, a wait returns the tensor that it is given. It also takes what was
sent, which therefore lives until then. ``slot`` numbers come from the pass ``transport``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from domino_compile import _compat
from domino_compile.ops.library import library
from domino_compile.transport.wire import wire_of


def _scatter_start(value: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    wire = wire_of(group, value.device.type)
    return wire.send(value.contiguous().chunk(wire.member.ranks), slot)


def _like_scatter(value: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    ranks = _compat.group_size(group)
    return value.new_empty((ranks - 1, value.shape[0] // ranks, *value.shape[1:]))


def _exchange_start(value: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    wire = wire_of(group, value.device.type)
    return wire.send([value.contiguous()] * wire.member.ranks, slot)


def _like_exchange(value: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    return value.new_empty((_compat.group_size(group) - 1, *value.shape))


def _inbox_wait(inbox: torch.Tensor, value: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    wire_of(group, value.device.type).received(inbox[0], slot)
    return inbox


def _inbox_release(inbox: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    wire_of(group, inbox.device.type).release(inbox[0], slot)
    return inbox


def _gather_start(shard: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    wire = wire_of(group, shard.device.type)
    return wire.gather(shard.contiguous(), slot).flatten(0, 1)


def _like_gather(shard: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    return shard.new_empty((_compat.group_size(group) * shard.shape[0], *shard.shape[1:]))


def _reduce_start(value: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    out = value.new_empty(value.shape)
    wire_of(group, value.device.type).all_reduce(value.contiguous(), out, slot)
    return out


def _like_reduce(value: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    return value.new_empty(value.shape)


def _gather_wait(out: torch.Tensor, shard: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    wire_of(group, shard.device.type).gathered(shard, slot)
    return out


def _gather_release(out: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    wire = wire_of(group, out.device.type)
    wire.leave(out[: out.shape[0] // wire.member.ranks], slot)
    return out


def _reduce_wait(out: torch.Tensor, value: torch.Tensor, slot: int, group: str) -> torch.Tensor:
    wire_of(group, value.device.type).all_reduced(out, slot)
    return out


def _same(out: torch.Tensor, *_: Any) -> torch.Tensor:
    return out


def _define(schema: str, run: Any, fake: Any) -> Any:
    name = schema.partition("(")[0]
    library.define(schema)
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"domino_compile::{name}", fake, lib=library)
    return getattr(torch.ops.domino_compile, name).default


def _without_result(operation: Any) -> Any:
    """Define an operation that runs another and returns nothing."""
    name, _, rest = str(operation._schema).partition("::")[2].partition("(")
    arguments = rest.rpartition(" -> ")[0]

    def run(*given: Any) -> None:
        operation(*given)

    return _define(f"{name}_only({arguments} -> ()", run, lambda *_: None)


scatter_start = _define(
    "scatter_start(Tensor value, int slot, str group) -> Tensor", _scatter_start, _like_scatter
)
exchange_start = _define(
    "exchange_start(Tensor value, int slot, str group) -> Tensor", _exchange_start, _like_exchange
)
inbox_wait = _define(
    "inbox_wait(Tensor inbox, Tensor value, int slot, str group) -> Tensor", _inbox_wait, _same
)
inbox_release = _define(
    "inbox_release(Tensor inbox, int slot, str group) -> Tensor", _inbox_release, _same
)
gather_start = _define(
    "gather_start(Tensor shard, int slot, str group) -> Tensor", _gather_start, _like_gather
)
reduce_start = _define(
    "reduce_start(Tensor value, int slot, str group) -> Tensor", _reduce_start, _like_reduce
)
gather_wait = _define(
    "gather_wait(Tensor out, Tensor shard, int slot, str group) -> Tensor", _gather_wait, _same
)
gather_release = _define(
    "gather_release(Tensor out, int slot, str group) -> Tensor", _gather_release, _same
)
reduce_wait = _define(
    "reduce_wait(Tensor out, Tensor value, int slot, str group) -> Tensor", _reduce_wait, _same
)

STARTS = (scatter_start, exchange_start, gather_start, reduce_start)
WAITS = (inbox_wait, inbox_release, gather_wait, gather_release, reduce_wait)
#: The same without a result, for what runs: torch allows no operation of ours to return what it is
#: given.
EMITTED = {operation: _without_result(operation) for operation in WAITS}
#: Starts whose result lies in a slot.
IN_SLOTS = (scatter_start, exchange_start, gather_start)
_compat.keep_calls((*STARTS, *WAITS))


def is_command(node: fx.Node) -> bool:
    """Return whether a node is one of these operations."""
    return node.op == "call_function" and (node.target in STARTS or node.target in WAITS)


def without_results(graph: fx.Graph) -> None:
    """Replace waits by those without a result, in a graph that runs as it is, not through Inductor.

    What read a wait's result reads what the wait was given.
    """
    for node in [n for n in graph.nodes if n.op == "call_function" and n.target in EMITTED]:
        with graph.inserting_before(node):
            graph.call_function(EMITTED[node.target], node.args, node.kwargs)
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)


def register_lowerings() -> None:
    """Let Inductor lower these operations as it lowers collectives."""
    _compat.register_collective_lowerings(STARTS, EMITTED, not_reused=IN_SLOTS)
