"""The report's figures, drawn by Bokeh: timelines on one axis, curves of training.

Colours distinguish slices and are the same in the listing of graphs. ``assets/report.js`` finds
models by the names that they get here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    CustomJS,
    FixedTicker,
    HoverTool,
    PanTool,
    Range1d,
    ResetTool,
    SaveTool,
    TapTool,
    WheelZoomTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.models.annotations import Label
from bokeh.plotting import figure

from domino_compile.tools.html.data import Curve
from domino_compile.tools.timelines import Span, Timeline
from domino_compile.tools.timelines.colours import SLICES, colour_of, strength_of
from domino_compile.tools.timelines.spans import COMPUTE, STILL, WIRE

_LANE, _GAP = 1.0, 0.9
_ROW_PX = 30

_TIP = """
<div class="tip"><b>@name</b><br>@what<br>@begin{0,0.0} us, for @length{0,0.0} us<br>
@source</div>
"""


def timeline_figure(timelines: Sequence[Timeline]) -> Any:
    """One figure: each timeline has a lane of compute and one for every group's wire.

    The timelines of each rank share the lanes; the page shows one rank at a time.
    """
    columns = _Columns()
    ticks: dict[float, str] = {}
    labels: list[Label] = []
    ranks: dict[int, list[Timeline]] = {}
    for timeline in timelines:
        ranks.setdefault(timeline.rank, []).append(timeline)
    depth = 0.0
    for rank, own in ranks.items():
        y = 0.0
        for number, timeline in enumerate(own):
            y -= _GAP
            labels.append(_label(y, timeline.summary(), rank, shown=rank == timelines[0].rank))
            groups = list(dict.fromkeys(s.group for s in timeline.spans if s.lane == WIRE))
            lanes = [(COMPUTE, ""), *((WIRE, group) for group in groups)]
            for lane, group in lanes:
                y -= _LANE
                many = lane == WIRE and len(groups) > 1
                ticks.setdefault(y + _LANE / 2, f"wire, group {group}" if many else lane)
                chosen = (s for s in timeline.spans if (s.lane, s.group) == (lane, group))
                columns.add(chosen, number, rank, y)
        depth = min(depth, y)
    longest = max((t.step_us for t in timelines), default=1.0)
    plot = _timeline_axes(longest, depth - 0.2)
    _paint(plot, columns.data)
    for label in labels:
        plot.add_layout(label)
    plot.yaxis.ticker = FixedTicker(ticks=list(ticks))
    plot.yaxis.major_label_overrides = ticks
    return plot


class _Columns:
    """What the figure knows of each span, column by column."""

    NAMES = (
        *("left", "right", "bottom", "top", "colour", "alpha", "line"),
        *("name", "what", "source", "begin", "length"),
        *("kind", "lane", "phase", "slice", "collective", "rank", "timeline"),
    )

    def __init__(self) -> None:
        self.data: dict[str, list[Any]] = {name: [] for name in self.NAMES}

    def add(self, spans: Iterable[Span], timeline: int, rank: int, y: float) -> None:
        """Spans of one lane, whose lower edge is at ``y``."""
        for span in spans:
            colour, still = colour_of(span), span.kind in STILL
            values: dict[str, Any] = {
                "left": span.begin_us,
                "right": span.end_us,
                "bottom": y + 0.08,
                "top": y + _LANE - 0.08,
                "colour": colour,
                "alpha": strength_of(span),
                "line": colour if still else "#ffffff00" if span.lane == COMPUTE else "#00000055",
                "name": span.name,
                "what": _what(span),
                "source": span.source,
                "begin": span.begin_us,
                "length": span.end_us - span.begin_us,
                "kind": span.kind if span.lane == COMPUTE else "wire",
                "lane": span.lane,
                "phase": span.phase,
                "slice": -1 if span.slice is None else span.slice,
                "collective": span.collective,
                "rank": rank,
                "timeline": timeline,
            }
            for name, value in values.items():
                self.data[name].append(value)


def _what(span: Span) -> str:
    """The kind, phase, slice and collective of a span, for its tooltip."""
    kind = f"stands still for {span.collective}" if span.kind in STILL else span.kind
    cut = "" if span.slice is None else f"slice {span.slice}"
    of = span.collective if span.lane == WIRE else ""
    return ", ".join(part for part in (kind, span.phase, cut, of) if part)


def _timeline_axes(longest: float, depth: float) -> Any:
    plot = figure(
        name="timeline",
        x_range=Range1d(start=0, end=longest * 1.01, bounds=(-longest * 0.02, longest * 1.05)),
        y_range=Range1d(start=depth, end=0.2),
        height=int(90 - depth * _ROW_PX),
        sizing_mode="stretch_width",
        x_axis_label="microseconds from the start of the step",
        tools="",
        toolbar_location="above",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0,
        output_backend="canvas",
    )
    plot.ygrid.visible = False
    plot.yaxis.axis_line_alpha = 0
    plot.yaxis.major_tick_line_alpha = 0
    wheel = WheelZoomTool(dimensions="width", modifiers={"ctrl": True})
    pan = PanTool(dimensions="width")
    plot.add_tools(
        pan,
        wheel,
        BoxZoomTool(dimensions="width"),
        ZoomInTool(dimensions="width"),
        ZoomOutTool(dimensions="width"),
        ResetTool(),
        SaveTool(filename="timeline"),
    )
    plot.toolbar.active_drag = pan
    plot.toolbar.active_scroll = wheel
    plot.toolbar.logo = None
    return plot


def _paint(plot: Any, data: dict[str, list[Any]]) -> None:
    source = ColumnDataSource(data, name="spans")
    drawn = plot.quad(
        left="left",
        right="right",
        bottom="bottom",
        top="top",
        fill_color="colour",
        fill_alpha="alpha",
        line_color="line",
        line_width=0.6,
        nonselection_fill_alpha="alpha",
        source=source,
    )
    chosen = ColumnDataSource({k: [] for k in ("left", "right", "bottom", "top")}, name="chosen")
    plot.quad(
        left="left",
        right="right",
        bottom="bottom",
        top="top",
        fill_alpha=0,
        line_color="#ff00aa",
        line_width=3,
        source=chosen,
    )
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=_TIP))
    tell = CustomJS(args={"source": source}, code="domino.tapped(source)")
    plot.add_tools(TapTool(renderers=[drawn], behavior="inspect", callback=tell))


def _label(y: float, text: str, rank: int, shown: bool) -> Label:
    """A timeline's title; the page shows those whose tag is the rank that is looked at."""
    return Label(
        x=0,
        x_units="screen",
        y=y,
        y_offset=3,
        text=text,
        text_font_style="bold",
        text_font_size="13px",
        tags=[rank],
        visible=shown,
    )


def curve_figure(curves: Sequence[Curve], what: str, label: str) -> Any:
    """Lines over steps.

    Args:
        curves: the runs.
        what: the attribute of a curve to draw, ``losses`` or ``gradient_norms``.
        label: the label of the y axis.
    """
    plot = figure(
        name=f"curve_{what}",
        height=300,
        sizing_mode="stretch_width",
        x_axis_label="step",
        y_axis_label=label,
        tools="pan,box_zoom,reset,save,hover",
        tooltips=[("run", "$name"), ("step", "@x"), (label, "@y{0.000000}")],
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0,
    )
    plot.toolbar.logo = None
    dashes = ("solid", "dashed", "dotted", "dotdash")
    for number, curve in enumerate(curves):
        values = list(getattr(curve, what))
        plot.line(
            list(range(1, len(values) + 1)),
            values,
            name=curve.name,
            legend_label=curve.name,
            color=SLICES[number % len(SLICES)],
            line_dash=dashes[number % len(dashes)],
            line_width=2,
        )
    plot.legend.background_fill_alpha = 0
    plot.legend.border_line_alpha = 0
    plot.legend.click_policy = "hide"
    return plot
