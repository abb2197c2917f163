"""``columns``: cut matrix products in front of collectives by columns.

The analysis (``analysis.columns``) decides which products to cut, how far each cut extends and
where the parts are joined. The slicer then rewrites the graph as it does for rows.

Contract: The pass takes a functional joint or inference graph, whose rows may already be cut.
Afterwards the products in front of the given collectives, and these collectives, exist once per
part.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import fx

from domino_compile.analysis import CutPlan, NoCut, cut_columns
from domino_compile.graph.collectives import Replaced, Site
from domino_compile.passes.slice import slice_graph


@dataclass(frozen=True)
class Columns(Replaced):
    """The launches of the parts, and the cut that made them.

    Attributes:
        plan: The cut, or the reason why no columns were cut.
    """

    plan: CutPlan | NoCut | None = None


def slice_columns(
    graph: fx.Graph, parts: int, sites: Sequence[Site], at: Collection[str]
) -> Columns:
    """Cut columns in place, if possible.

    Args:
        graph: A functional joint or inference graph.
        parts: The requested number of parts.
        sites: The collectives in front of which to cut.
        at: The names that some of these collectives have in the captured graph, to cut in front of
            these only; empty for all.
    """
    plan = cut_columns(graph, parts, sites, at)
    if isinstance(plan, NoCut):
        return Columns({}, plan=plan)
    cut = slice_graph(graph, plan)
    return Columns(cut.launches, cut.witness, plan)
