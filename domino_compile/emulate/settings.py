"""The links of emulated groups: process-wide settings that every collective reads."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from domino_compile._compat.groups import PythonGroup
from domino_compile.errors import DominoError
from domino_compile.links import LinkTable, load_link

Link = str | os.PathLike[str] | LinkTable | None


class EmulateError(DominoError, RuntimeError):
    """An emulated link is used in a way that cannot work. The message says what to do."""


@dataclass(frozen=True)
class Settings:
    """The settings made by ``use_link``.

    Attributes:
        link: the table of all groups without one of their own; None if collectives take no time.
        groups: tables by mesh dimension name, group name or group description.
        device: ``cpu`` (numbers travel through gloo) or ``cuda`` (one rank alone).
        ctas: thread blocks that a collective holds on the GPU; None takes the table's number.
        local_share: share of an all-reduce's payload that is read and written in local memory.
        exclusive: on the GPU, keep matrix multiplications off the multiprocessors that are held.
        stream_priority: priority of a group's CUDA stream: 0 is NCCL's default in torch, -1 high.
    """

    link: LinkTable | None = None
    groups: Mapping[str, LinkTable | None] = field(default_factory=dict, hash=False)
    device: str = "cpu"
    ctas: int | None = None
    local_share: float = 1.0
    exclusive: bool = True
    stream_priority: int = 0

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise EmulateError(f"device must be 'cpu' or 'cuda', not {self.device!r}")
        if self.ctas is not None and self.ctas < 1:
            raise EmulateError(f"ctas must be at least 1, not {self.ctas}")
        if not 0 <= self.local_share <= 1:
            raise EmulateError(f"local_share must lie between 0 and 1, not {self.local_share}")


_current: Settings | None = None


def use_link(
    link: Link,
    *,
    groups: Mapping[str, Link] | None = None,
    device: str = "cpu",
    ctas: int | None = None,
    local_share: float = 1.0,
    exclusive: bool = True,
    stream_priority: int = 0,
) -> None:
    """Set the link of this process's emulated groups, existing and future ones.

    This takes effect with the next collective. Collectives that a CUDA graph has captured keep
    their times. Every rank must set the same link.

    Args:
        link: name, JSON file or table for all groups; with None collectives take no time.
        groups: other links for some groups. A key is a mesh dimension's name (``tp``), a group's
            name or the ``group_desc`` given to ``new_group``. A mesh dimension that spans the
            whole world is the default group and follows ``link``.
        device: see ``Settings``; like ``stream_priority``, it counts for groups made from now on.
        ctas: see ``Settings``.
        local_share: see ``Settings``.
        exclusive: see ``Settings``.
        stream_priority: see ``Settings``.

    Raises:
        LinkError: unknown link or malformed file.
        EmulateError: a value is out of range.
    """
    global _current
    tables = {name: _table(choice) for name, choice in (groups or {}).items()}
    _current = Settings(_table(link), tables, device, ctas, local_share, exclusive, stream_priority)


def _table(link: Link) -> LinkTable | None:
    return None if link is None else load_link(link)


def current() -> Settings:
    """Return the current settings.

    Raises:
        EmulateError: none were set.
    """
    if _current is None:
        raise EmulateError(
            "no emulated link chosen: call domino_compile.emulate.init(link=...) or use_link(...)"
        )
    return _current


@functools.lru_cache(maxsize=64)
def _scaled(table: LinkTable, ranks: int) -> LinkTable:
    return table.scaled_to(ranks)


def table_of(group: PythonGroup) -> LinkTable | None:
    """The table that ``group`` uses now, scaled to its size; None if its collectives are free."""
    settings, size = current(), group.size()
    names = (group.group_name, group.group_desc, group.group_desc.removeprefix("mesh_"))
    named = next((name for name in names if name in settings.groups), None)
    table = settings.link if named is None else settings.groups[named]
    return None if table is None or size < 2 else _scaled(table, size)
