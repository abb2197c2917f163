"""Decides whether the code that Inductor emitted for a scheduled graph may run.

The ranks agree on it, since they must not run different orders: if the order of one rank's code is
not established, or the orders differ, all ranks lower the graph once more without a schedule. Then
Inductor alone orders it, as it does after a fault in the passes.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import fx

from domino_compile import _compat
from domino_compile.agreement.votes import emitted_vote, groups_in_order
from domino_compile.errors import STRICT, InternalError
from domino_compile.pipeline import reporting
from domino_compile.verify.order import Names, OrderCertificate, check_emitted
from domino_compile.verify.order_promise import promise_of

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
    promise = promise_of(graph)
    if not promise.collectives or not pipeline.report.schedules:
        return
    entry, report = pipeline.report.schedules[-1], pipeline.report
    # Predicted, without what torch itself keeps on the device, which no code allocates.
    library = round(pipeline.facts.cost(graph).rates.library_mib * 2**20)
    peak = max(0, entry.step_peak_bytes - library)
    promise = replace(promise, peak_bytes=peak, held_bytes=report.input_bytes)

    def look(emitted: _compat.Emitted) -> None:
        names = Names(emitted.launches, emitted.bytes)
        _settle(pipeline, entry.phase, check_emitted(emitted.code, promise, names))

    _compat.look_at_code(graph, look)


def _settle(pipeline: Pipeline, phase: str, certificate: OrderCertificate) -> None:
    """Keep the certificate, or have the graph lowered again without an order.

    Raises:
        LowerAgain: The order is not established, here or on another rank.
        InternalError: Likewise, under the option ``verify='strict'``.
    """
    why = "" if certificate.established else str(certificate.findings[0])
    if pipeline.check is not None:
        groups = groups_in_order(pipeline.report)
        order = {group: list(certificate.order.get(group, ())) for group in groups}
        why = pipeline.check.agree(emitted_vote(phase, order, why)) or why
    written = json.dumps(certificate.as_dict(), indent=1, sort_keys=True) + "\n"
    pipeline.dump.write(f"{phase}/order.json", written)
    pipeline.dump.write(f"{phase}/order.txt", certificate.as_text())
    if not why:
        pipeline.keep()
        return
    pipeline.overlap = False
    reporting.not_established(pipeline.report, phase, why)
    pipeline.keep()
    said = f"the emitted order of the {phase} graph is not established: {why}"
    if pipeline.options.verify == "strict" or os.environ.get(STRICT) == "1":
        raise InternalError(said)
    log.error("%s; Inductor orders this graph alone", said)
    raise _compat.LowerAgain(said)
