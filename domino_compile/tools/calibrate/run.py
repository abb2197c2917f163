"""Runs a calibration: the ranks meet, measure, and write the files."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from domino_compile.cost.rates_file import RatesFile, save_rates
from domino_compile.links import LinkTable, save_link
from domino_compile.tools.calibrate import beside, collectives, device
from domino_compile.tools.calibrate.clock import clock_for
from domino_compile.tools.calibrate.ranks import Ranks
from domino_compile.tools.calibrate.settings import (
    CalibrateError,
    Settings,
    check_group_sizes,
    check_name,
    check_writable,
)

#: The thread blocks of a collective if the profiler does not know: NCCL's channels within a node.
ASSUMED_CTAS = 16
#: A function that is told the next measurement, and the share that is done (0 to 1).
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration, equal on all ranks.

    Attributes:
        tables: A link table and its file for each group size; empty with a single rank.
        rates: The device's rates.
        rates_file: The file that holds the rates.
        raised: The payloads in bytes whose times were raised, so that none takes less time than a
            smaller one, by table name and collective.
    """

    tables: list[tuple[LinkTable, Path]]
    rates: RatesFile
    rates_file: Path
    raised: Mapping[str, Mapping[str, tuple[int, ...]]]


def calibrate(ranks: Ranks, settings: Settings, progress: Progress) -> Calibration:
    """Measure on all ranks; rank 0 writes the files.

    Args:
        ranks: All ranks; each must call this with the same settings.
        settings: The measurements to make.
        progress: A function that is called on every rank before each step.

    Raises:
        CalibrateError: A rank cannot take part, or a file cannot be written.
    """
    place = ranks.place
    problem, name = _ready(ranks, settings)
    facts = ranks.meet({"device": name}, problem)
    different = sorted({rank["device"] for rank in facts})
    if len(different) > 1:
        raise CalibrateError(f"the ranks have different devices: {', '.join(different)}")
    sizes = settings.group_sizes or ((place.world,) if place.world > 1 else ())
    steps = len(sizes) * len(collectives.COLLECTIVES) * (len(settings.sizes) + 1)
    if ranks.device.type == "cuda":
        steps += len(sizes) * (len(collectives.COLLECTIVES) + 1)  # also beside compute
    tick = _ticker(progress, steps + len(device.probes(ranks.device)))
    if place.world > 1:
        ranks.join()
    tables, raised = [], {}
    for size in sizes:
        table, moved = _link(ranks, settings, name, size, tick)
        tables.append((table, settings.table_file(table.name)))
        raised[table.name] = moved
    rates, measured = device.measure(ranks, clock_for(ranks.device), settings, tick)
    source = _source(ranks, f"{name}, {place.world} rank(s) at once")
    rates_file = RatesFile(ranks.device.type, name, source, rates, measured)
    result = Calibration(tables, rates_file, settings.rates_file(name), raised)
    if place.rank == 0:
        _write(result)
    ranks.barrier()
    ranks.leave()
    return result


def _ready(ranks: Ranks, settings: Settings) -> tuple[CalibrateError | None, str]:
    """Return the problem that keeps this rank from taking part, and its device's name."""
    place, name = ranks.place, ""
    try:
        name = _device_name(ranks)
        check_group_sizes(settings.group_sizes, place.world)
        names = [settings.table_name(name, size) for size in settings.group_sizes or (place.world,)]
        for table in names:
            check_name(table)
        if place.rank == 0:
            files = [settings.table_file(table) for table in names] if place.world > 1 else []
            for path in (*files, settings.rates_file(name)):
                check_writable(path)
    except CalibrateError as error:
        return error, name
    return None, name


def _device_name(ranks: Ranks) -> str:
    if ranks.device.type == "cuda":
        count = torch.cuda.device_count()
        if ranks.place.local_rank >= count:
            raise CalibrateError(
                f"there are {count} GPUs here for {ranks.place.local_world} ranks; start as many"
                " ranks as there are GPUs, or measure gloo with --device cpu"
            )
    return device.device_name(ranks.device)


def _ticker(progress: Progress, steps: int) -> Callable[[str], None]:
    done = 0

    def tick(text: str) -> None:
        nonlocal done
        progress(text, done / steps)
        done += 1

    return tick


def _link(
    ranks: Ranks, settings: Settings, name: str, size: int, tick: Callable[[str], None]
) -> tuple[LinkTable, dict[str, tuple[int, ...]]]:
    """Measure the table for groups of ``size`` ranks, and return it with the raised payloads."""
    group, clock = ranks.group_of(size), clock_for(ranks.device)
    dtype = torch.bfloat16 if ranks.device.type == "cuda" else torch.float32
    curves, raised, notes = {}, {}, [f"payload {str(dtype).removeprefix('torch.')}"]
    groups = ranks.place.world // size
    if groups > 1:
        notes.append(f"{groups} groups at once, the slowest counts")
    for collective in collectives.COLLECTIVES:
        reason = collectives.unsupported(ranks, collective, group, dtype)
        if reason and collective == "all_reduce":
            raise CalibrateError(f"the group cannot run all_reduce: {reason}", code=1)
        if reason:
            notes.append(f"{collective} left out, the backend cannot run it: {reason}")
            for _ in (0, *settings.sizes):
                tick(f"{collective} is left out")
            continue
        measured = collectives.measure(ranks, clock, settings, collective, group, dtype, tick)
        curves[collective] = measured.curve
        if measured.raised:
            raised[collective] = measured.raised
            at = ", ".join(map(str, measured.raised))
            notes.append(f"{collective}: raised to the time of a smaller payload at {at} bytes")
    ctas = settings.ctas or collectives.blocks_held(ranks, settings, group, dtype)
    if settings.ctas or ctas is None:
        notes.append("ctas not measured")
    contention = None
    if ranks.device.type == "cuda":
        contention = beside.measure(ranks, settings, tuple(curves), group, tick)
    nodes = ranks.place.nodes(size)
    table = LinkTable(
        name=settings.table_name(name, size),
        ranks=size,
        nodes=nodes,
        source=_source(ranks, f"{name}, {size} ranks on {nodes} node(s)"),
        curves=curves,
        ctas=ctas or ASSUMED_CTAS,
        note="; ".join(notes),
        nccl=_nccl() if ranks.device.type == "cuda" else "",
        contention=contention,
    )
    return table, raised


def _nccl() -> str:
    version: Any = torch.cuda.nccl.version()
    return ".".join(map(str, version)) if isinstance(version, tuple) else str(version)


def _source(ranks: Ranks, where: str) -> str:
    if ranks.device.type == "cpu":
        backend = "gloo"
    else:
        backend = f"{'NCCL' if torch.version.hip is None else 'RCCL'} {_nccl()}"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"domino calibrate: {where}, {backend}, torch {torch.__version__}, {today}"


def _write(result: Calibration) -> None:
    for table, path in result.tables:
        save_link(table, path)
    save_rates(result.rates, result.rates_file)
