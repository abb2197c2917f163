"""Plans of the graphs that a script compiles with Inductor: what domino would do with them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from domino_compile import _compat
from domino_compile.report import CompileReport, reports, take_reports
from domino_compile.switch import compile_with_domino
from domino_compile.tools.scripts import Asked

log = logging.getLogger(__name__)


def plan_graph(
    gm: torch.fx.GraphModule, inputs: list[Any], options: Mapping[str, Any], number: int
) -> list[CompileReport]:
    """Plan a captured graph as domino would, without running the plan or talking to other ranks.

    Args:
        gm: The captured graph, which stays as it is.
        inputs: Its example inputs.
        options: The options of domino.
        number: The number of the first graph in its report.

    Returns:
        The reports; none if the graph cannot be planned.
    """
    known = len(reports())
    asked = Asked("domino", {})
    chosen = {**options, "lowering": "eager", "check_ranks": False}
    try:
        with _compat.backward_at_once():
            compile_with_domino(asked, chosen, _compat.copy_of(gm), inputs)
    except Exception as error:  # a profile needs no plan
        log.debug("no plan of a graph: %s: %s", type(error).__name__, error)
        take_reports(known)
        return []
    return [replace(r, graph=number + n) for n, r in enumerate(take_reports(known))]
