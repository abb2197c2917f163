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
        link: The table of all groups that are not in ``groups``; ``None`` if collectives take no
            time.
        groups: Tables by mesh dimension name, group name or group description.
        device: ``cpu`` (numbers travel through gloo) or ``cuda`` (one process acts as one rank).
        ctas: The thread blocks that a collective holds on the GPU: 0 if copy engines carry it;
            ``None`` takes the table's number.
        local_share: The share of an all-reduce's payload that is read and written in local memory.
        exclusive: Whether to keep matrix products off the multiprocessors that are held on the GPU.
        stream_priority: The priority of a group's CUDA stream: 0 is NCCL's default in torch, and -1
            is high.
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
        if self.ctas is not None and self.ctas < 0:
            raise EmulateError(f"ctas must be at least 0, not {self.ctas}")
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
    """Set the link of this process's emulated groups, both existing and future ones.

    This takes effect with the next collective. Collectives that a CUDA graph has captured keep
    their times. Every rank must set the same link.

    Args:
        link: The name, JSON file or table for all groups; with ``None`` collectives take no time.
        groups: Other links for some groups. A key is a mesh dimension's name (``tp``), a group's
            name or the ``group_desc`` given to ``new_group``. A mesh dimension that spans the
            whole world is the default group and follows ``link``.
        device: See ``Settings``; like ``stream_priority``, it only affects new groups.
        ctas: See ``Settings``.
        local_share: See ``Settings``.
        exclusive: See ``Settings``.
        stream_priority: See ``Settings``.

    Raises:
        LinkError: The link is unknown, or its file is malformed.
        EmulateError: A value is out of range.
    """
    global _current
    tables = {name: _table(choice) for name, choice in (groups or {}).items()}
    _current = Settings(_table(link), tables, device, ctas, local_share, exclusive, stream_priority)


def _table(link: Link) -> LinkTable | None:
    return None if link is None else load_link(link)


def current() -> Settings:
    """Return the current settings.

    Raises:
        EmulateError: No settings were made.
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
    """Return the table that a group uses now, scaled to its size; ``None`` if it takes no time."""
    settings, size = current(), group.size()
    names = (group.group_name, group.group_desc, group.group_desc.removeprefix("mesh_"))
    named = next((name for name in names if name in settings.groups), None)
    table = settings.link if named is None else settings.groups[named]
    return None if table is None or size < 2 else _scaled(table, size)
