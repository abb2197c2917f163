"""Draw timelines as a picture (PNG or SVG) with matplotlib, from the extra ``report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domino_compile.tools.timelines.colours import (
    LATE,
    SLICES,
    WAIT,
    WHOLE,
    colour_of,
    strength_of,
)
from domino_compile.tools.timelines.spans import STILL, WIRE, Span, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(timelines: Sequence[Timeline], title: str, path: Path) -> None:
    """Draw timelines above each other on one axis of time.

    Args:
        timelines: The timelines, at least one.
        title: The title above them.
        path: The file, whose suffix selects the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    height = 1.2 + 1.5 * len(timelines)
    figure, axes = pyplot.subplots(
        len(timelines), 1, sharex=True, squeeze=False, figsize=(12, height), layout="constrained"
    )
    for axis, timeline in zip(axes[:, 0], timelines, strict=True):
        _draw(axis, timeline)
    axes[-1, 0].set_xlabel("ms from the start of the step")
    figure.suptitle(title, fontsize=12)
    spans = [span for timeline in timelines for span in timeline.spans]
    rows = sorted({s.slice for s in spans if s.slice is not None})
    looks = [(WHOLE, "not cut"), *((SLICES[r % len(SLICES)], f"slice {r}") for r in rows)]
    handles = [Patch(facecolor=colour, label=label) for colour, label in looks]
    still = (("wait", WAIT, "waiting for the wire"), ("late", LATE, "waiting for another rank"))
    for kind, colour, label in still:
        if any(span.kind == kind for span in spans):
            handles.append(Patch(facecolor="none", edgecolor=colour, hatch="////", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw(axis: Axes, timeline: Timeline) -> None:
    looks: dict[tuple[str, str, float], list[Span]] = {}
    for span in timeline.spans:
        looks.setdefault((span.lane, colour_of(span), strength_of(span)), []).append(span)
    for (lane, colour, strength), spans in looks.items():
        bars = [(s.begin_us / 1e3, (s.end_us - s.begin_us) / 1e3) for s in spans]
        below = 0.1 if lane == WIRE else 1.1
        look: dict[str, Any] = {"facecolor": colour, "alpha": strength, "linewidth": 0}
        if any(span.kind in STILL for span in spans):
            look = {"facecolor": "none", "edgecolor": colour, "hatch": "////", "linewidth": 1}
        axis.broken_barh(bars, (below, 0.8), **look)
    axis.set_title(timeline.summary(), loc="left", fontsize=10)
    axis.set_yticks([0.5, 1.5], ["wire", "compute"])
    axis.set_ylim(0, 2)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)
