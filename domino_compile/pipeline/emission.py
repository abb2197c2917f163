"""Decides whether the code that Inductor emitted for a scheduled graph may run.

The ranks agree on it, since they must not run different orders: if the order of one rank's code is
not established, or the orders differ, all ranks lower the graph once more without a schedule. Then
Inductor alone orders it, as it does after a fault in the passes.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import fx

from domino_compile import _compat
from domino_compile.agreement.votes import emitted_vote, groups_in_order
from domino_compile.errors import InternalError
from domino_compile.pipeline import artefacts, reporting
from domino_compile.report import ScheduleReport
from domino_compile.report.faults import raises
from domino_compile.verify.order import check_emitted, refused
from domino_compile.verify.order_certificate import Names, Promise
from domino_compile.verify.order_promise import promise_of
from domino_compile.verify.order_record import OrderRecord

if TYPE_CHECKING:
    from domino_compile.pipeline.pipeline import Pipeline

log = logging.getLogger(__name__)


def accepts(code: str) -> bool:
    """Return whether code from a cache may run; its order was established when it was compiled."""
    return check_emitted(code).established


def examine(pipeline: Pipeline, graph: fx.Graph) -> None:
    """Have the code of a graph checked that has just been scheduled, before it is kept or run.

    Args:
        pipeline: Of the joint graph that the graph is part of.
        graph: The graph, as it is given to Inductor.
    """
    if not pipeline.report.schedules:
        return
    entry = pipeline.report.schedules[-1]
    promise, problem = _promise(pipeline, graph, entry)
    if not problem and not promise.collectives:
        return

    def look(emitted: _compat.Emitted) -> None:
        code, names = emitted.code, Names(emitted.launches, emitted.bytes)
        if why := problem or emitted.problem:
            record = OrderRecord(entry.phase, refused(why))
        else:
            record = OrderRecord(entry.phase, check_emitted(code, promise, names), promise, names)
        if pipeline.dump.wanted:
            pipeline.dump.write(record.code, code.replace(_compat.cache_folder(), "cache"))
        _settle(pipeline, record)

    _compat.look_at_code(graph, look)


def _promise(pipeline: Pipeline, graph: fx.Graph, entry: ScheduleReport) -> tuple[Promise, str]:
    """Return what the code must do, and why that is not known (empty if it is)."""
    try:
        promise = promise_of(graph)
    except Exception as error:  # whatever the graph has: it is refused, not broken
        return Promise(()), f"the graph cannot be read ({type(error).__name__}: {error})"
    # Predicted, without what torch itself keeps on the device, which no code allocates.
    library = round(pipeline.facts.cost(graph).rates.library_mib * 2**20)
    peak = max(0, entry.step_peak_bytes - library)
    return replace(promise, peak_bytes=peak, held_bytes=pipeline.report.input_bytes), ""


def _settle(pipeline: Pipeline, record: OrderRecord) -> None:
    """Keep the record, or have the graph lowered again without an order.

    Raises:
        LowerAgain: The order is not established, here or on another rank.
        InternalError: Likewise, where a fault is an error (``report.faults.raises``).
    """
    certificate, phase = record.certificate, record.phase
    why = "" if certificate.established else str(certificate.findings[0])
    if pipeline.check is not None:
        groups = groups_in_order(pipeline.report)
        order = {group: list(certificate.order.get(group, ())) for group in groups}
        why = pipeline.check.agree(emitted_vote(phase, order, why)) or why
    if (verifier := pipeline.runner.verifier) is not None:
        verifier.orders.append(replace(record, problem=why))
    artefacts.write_order(pipeline.dump, record)
    if not why:
        pipeline.keep()
        return
    pipeline.overlap = False
    reporting.not_established(pipeline.report, phase, why)
    pipeline.keep()
    said = f"the emitted order of the {phase} graph is not established: {why}"
    if raises(pipeline.options, of_verify=True):
        raise InternalError(said)
    log.error("%s; Inductor orders this graph alone", said)
    raise _compat.LowerAgain(said)
