"""The collectives of a captured graph: where they are, what they carry, who wrote them."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx

from domino_compile._compat.operators import c10d
from domino_compile.ops.tokens import all_to_all_tokens
from domino_compile.verify.claims import Witness

#: Functional collectives, and the position of the group name among their arguments.
LAUNCHES: dict[Any, int] = {
    c10d.all_reduce.default: 2,
    c10d.all_reduce_.default: 2,
    c10d.all_gather_into_tensor.default: 2,
    c10d.reduce_scatter_tensor.default: 3,
    c10d.all_to_all_single.default: 3,
    all_to_all_tokens: 4,
    c10d.broadcast.default: 2,
    c10d.broadcast_.default: 2,
    c10d.all_reduce_coalesced.default: 2,
    c10d.all_gather_into_tensor_coalesced.default: 2,
    c10d.reduce_scatter_tensor_coalesced.default: 3,
}
WAIT = c10d.wait_tensor.default


def is_launch(node: fx.Node) -> bool:
    """Return whether the node starts a collective."""
    return node.op == "call_function" and node.target in LAUNCHES


def is_wait(node: fx.Node) -> bool:
    """Return whether the node waits for a collective."""
    return node.op == "call_function" and node.target is WAIT


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Return the tensors in a node's value."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for member in value:
            yield from tensors_of(member)


def size_hint(extent: Any) -> int:
    """Return an extent as a number; for a dynamic one, the value seen while compiling."""
    if isinstance(extent, torch.SymInt):
        hint = extent.node.hint
        return int(hint) if hint is not None else 1
    return int(extent)


def tensor_bytes(value: Any) -> int:
    """Return the bytes of the tensors in a node's value."""
    total = 0
    for tensor in tensors_of(value):
        count: Any = tensor.numel()
        if not isinstance(count, int):
            count = math.prod(map(size_hint, tensor.shape))
        total += count * tensor.element_size()
    return total


@dataclass(frozen=True)
class Site:
    """One collective of the graph.

    Attributes:
        launch: The node that starts the collective.
        waits: The nodes that wait for it.
        kind: The operation, such as ``all_reduce`` or ``all_gather_into_tensor``.
        group: The process group's name.
        payload: The size in bytes as link tables count it: the larger of input and output (an
            all-reduce's payload, an all-gather's output, a reduce-scatter's input).
        backward: Whether the collective depends on a gradient.
        source: The user's line, ``file:line in function: code``, or ``unknown``.
    """

    launch: fx.Node
    waits: tuple[fx.Node, ...]
    kind: str
    group: str
    payload: int
    backward: bool
    source: str


@dataclass(frozen=True)
class Replaced:
    """The collectives that a pass has replaced.

    Attributes:
        launches: The replacements of each removed launch. Several removed launches can share one
            (a merge), and one can have several (slices).
        witness: Which values after stand for which values before.
    """

    launches: Mapping[fx.Node, tuple[fx.Node, ...]]
    witness: Witness = field(default_factory=Witness)

    def __len__(self) -> int:
        return len(self.launches)

    @property
    def fewer(self) -> int:
        """By how many the number of collectives shrinks; negative if it grows."""
        return len(self.launches) - len({new for made in self.launches.values() for new in made})


def kind_of(launch: fx.Node) -> str:
    """Return the collective's kind, without the in-place suffix."""
    target: Any = launch.target
    return str(target._schema.name).split("::")[1].rstrip("_")


def group_of(launch: fx.Node) -> str:
    """Return the name of the process group."""
    position = LAUNCHES[launch.target]
    if position < len(launch.args):
        return str(launch.args[position])
    return str(launch.kwargs["group_name"])


def payload_of(launch: fx.Node) -> int:
    """Return the bytes in the link tables' convention (see ``Site.payload``)."""
    sent = sum(tensor_bytes(x.meta.get("val")) for x in launch.all_input_nodes)
    return max(sent, tensor_bytes(launch.meta.get("val")))


def has_own_sizes(launch: fx.Node) -> bool:
    """Return whether the sizes may differ between ranks, as those of tokens sent to experts do.

    Pieces may also be equal by chance, on this rank only. The sizes of an ``all_to_all_single`` are
    therefore never compared between ranks (``agreement.votes``).
    """
    if launch.target is not c10d.all_to_all_single.default:
        return False
    sizes: list[Any] = [size for pieces in launch.args[1:3] for size in cast(Any, pieces)]
    return any(not isinstance(size, int) or size != sizes[0] for size in sizes)


@dataclass(frozen=True)
class Launch:
    """A collective as all its ranks see it.

    Attributes:
        kind: As in ``Site``.
        bytes: Its payload.
        group: The process group's name.
        name: Its node, whose name says which collective and which slice it is.
    """

    kind: str
    bytes: int
    group: str
    name: str = ""


def as_launch(node: fx.Node) -> Launch:
    """Return a launch as the ranks of its group see it."""
    return Launch(kind_of(node), payload_of(node), group_of(node), node.name)


#: The file in the trace of a collective with ``async_op=True``, between the user's and torch's.
_HANDLE = "domino_compile/runtime/async_work.py"


def is_asynchronous(launch: fx.Node) -> bool:
    """Return whether the program called the collective with ``async_op=True``."""
    return _HANDLE in str(launch.meta.get("stack_trace"))


def user_line(node: fx.Node) -> str:
    """Return the innermost line of the user's code that made the node, or ``unknown``."""
    trace = node.meta.get("stack_trace") or node.meta.get("fwd_nn_module_stack_trace") or ""
    lines = [line.strip() for line in str(trace).splitlines() if line.strip()]
    frames = [
        (head, code)
        for head, code in zip(lines, [*lines[1:], ""], strict=False)
        if head.startswith("File ")
    ]
    users = [f for f in frames if "/torch/" not in f[0] and _HANDLE not in f[0]]
    if not users:
        return "unknown"
    head, code = users[-1]
    path, _, where = head.removeprefix("File ").replace('"', "").partition(", line ")
    return f"{_portable(path)}:{where}: {code}"


@cache
def _portable(path: str) -> str:
    """Return a file's path in the folder that Python imports it from.

    It is the same wherever a program is installed, so that dumps can be compared.
    """
    folders = {str(Path(entry or ".").resolve()) for entry in sys.path}
    inside = [f for f in folders if Path(path).is_absolute() and path.startswith(f"{f}{os.sep}")]
    return path[len(max(inside, key=len)) + 1 :] if inside else path


def is_tangent(node: fx.Node) -> bool:
    """Return whether an input is the gradient of an output (``tangents`` of a joint graph)."""
    return str(node.target).startswith("tangents")


def backward_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that depend on a gradient of an output."""
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            if is_tangent(node):
                reached.add(node)
        elif any(x in reached for x in node.all_input_nodes):
            reached.add(node)
    return reached


def site_of(launch: fx.Node, backward: bool) -> Site:
    """Return a collective from its launch and whether that depends on a gradient."""
    return Site(
        launch=launch,
        waits=tuple(_waits(launch)),
        kind=kind_of(launch),
        group=group_of(launch),
        payload=payload_of(launch),
        backward=backward,
        source=user_line(launch),
    )


def find_sites(graph: fx.Graph) -> list[Site]:
    """Return every collective, in graph order."""
    launches = [node for node in graph.nodes if is_launch(node)]
    backward = backward_nodes(graph) if launches else set()
    return [site_of(node, node in backward) for node in launches]


def _waits(launch: fx.Node) -> Iterator[fx.Node]:
    for user in launch.users:
        if is_wait(user):
            yield user
        elif user.op == "call_function" and getattr(user.target, "__name__", "") == "getitem":
            yield from _waits(user)
