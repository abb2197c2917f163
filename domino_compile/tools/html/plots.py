"""The report's figures, drawn by Bokeh: timelines on one axis, curves of training.

Colours distinguish slices and are the same in the listing of graphs. ``assets/report.js`` finds
models by the names that they get here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bokeh.layouts import column
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    CustomJS,
    CustomJSTickFormatter,
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
from bokeh.models.annotations import Label, Title
from bokeh.models.annotations import Span as Line
from bokeh.plotting import figure

from domino_compile.tools.html.data import Curve
from domino_compile.tools.timelines import Span, Timeline
from domino_compile.tools.timelines.colours import LATE, SLICES, WAIT, colour_of, strength_of
from domino_compile.tools.timelines.spans import COMPUTE, STILL, WIRE

_LANE, _GAP, _STRIP = 1.0, 1.0, 0.22
#: The room between the first timeline and the second, for the slider.
_SLIDER = 1.25
_ROW_PX = 30
_US = 1e-3  # the axis is in milliseconds


@dataclass(frozen=True)
class TimelineFigure:
    """The timelines, drawn by the page.

    Attributes:
        plot: The figure, whose sources of pieces are empty.
        spans: What to fill them with, column by column. The page does so for one rank at a time;
            a figure that held the pieces itself would be drawn twice.
        strips: The same for the phases.
    """

    plot: Any
    spans: dict[str, list[Any]]
    strips: dict[str, list[Any]]


def timeline_figure(timelines: Sequence[Timeline]) -> TimelineFigure:
    """Draw each timeline with a lane of compute and one for every group's wire, on one axis.

    The timelines of each rank share the lanes; the page shows one rank at a time.
    """
    columns, strips = _Columns(), _Strips()
    ticks: dict[float, str] = {}
    labels: list[Label] = []
    ranks: dict[int, list[Timeline]] = {}
    for timeline in timelines:
        ranks.setdefault(timeline.rank, []).append(timeline)
    depth, slider = 0.0, 0.0
    for rank, rank_timelines in ranks.items():
        y = 0.0
        for number, timeline in enumerate(rank_timelines):
            y -= _GAP
            labels.append(_label(y, timeline.summary(), rank, shown=rank == timelines[0].rank))
            y -= _STRIP
            strips.add(timeline, rank, y)
            for lane, group, name in _lanes(timeline):
                y -= _LANE
                ticks.setdefault(y + _LANE / 2, name)
                chosen = (s for s in timeline.spans if (s.lane, s.group) == (lane, group))
                columns.add(chosen, number, rank, y)
            if number == 0 and len(rank_timelines) > 1:
                slider = y - _SLIDER / 2
                y -= _SLIDER - 0.3
        depth = min(depth, y)
    longest = max((t.step_us for t in timelines), default=1.0) * _US
    plot = _timeline_axes(longest, depth - 0.2)
    titles = [timeline.title for timeline in ranks.get(timelines[0].rank, [])]
    plot.tags = [slider, *titles]
    _paint(plot)
    for label in labels:
        plot.add_layout(label)
    plot.add_layout(Line(location=0, dimension="height", name="playhead", line_width=1.5))
    plot.yaxis.ticker = FixedTicker(ticks=list(ticks))
    plot.yaxis.major_label_overrides = ticks
    return TimelineFigure(plot, columns.data, strips.data)


def _lanes(timeline: Timeline) -> list[tuple[str, str, str]]:
    """Return the lanes of a timeline: lane, group and name."""
    groups = list(dict.fromkeys(s.group for s in timeline.spans if s.lane == WIRE))
    many = len(groups) > 1
    wires = [(WIRE, group, f"wire, group {group}" if many else WIRE) for group in groups]
    return [(COMPUTE, "", COMPUTE), *wires]


class _Columns:
    """What the figure knows of each span, column by column; times in milliseconds."""

    NAMES = (
        *("left", "right", "bottom", "top", "colour", "alpha", "line"),
        *(
            "name",
            "source",
            "what",
            "kind",
            "lane",
            "phase",
            "slice",
            "collective",
            "rank",
            "timeline",
        ),
    )

    def __init__(self) -> None:
        self.data: dict[str, list[Any]] = {name: [] for name in self.NAMES}

    def add(self, spans: Iterable[Span], timeline: int, rank: int, y: float) -> None:
        """Add the spans of one lane, whose lower edge is at ``y``."""
        for span in spans:
            colour, still = colour_of(span), span.kind in STILL
            values: dict[str, Any] = {
                "left": round(span.begin_us * _US, 6),
                "right": round(span.end_us * _US, 6),
                "bottom": y + 0.08,
                "top": y + _LANE - 0.08,
                "colour": colour,
                "alpha": strength_of(span),
                "line": colour if still else "#ffffff00" if span.lane == COMPUTE else "#00000055",
                "name": span.name,
                "source": span.source,
                "kind": span.kind if span.lane == COMPUTE else "wire",
                "what": span.kind,
                "lane": span.lane,
                "phase": span.phase,
                "slice": -1 if span.slice is None else span.slice,
                "collective": span.collective,
                "rank": rank,
                "timeline": timeline,
            }
            for name, value in values.items():
                self.data[name].append(value)


class _Strips:
    """Where each phase lies in a timeline, as a thin strip above it."""

    NAMES = ("left", "right", "bottom", "top", "phase", "rank", "alpha")

    def __init__(self) -> None:
        self.data: dict[str, list[Any]] = {name: [] for name in self.NAMES}

    def add(self, timeline: Timeline, rank: int, y: float) -> None:
        """Add the strips of a timeline, whose lower edge is at ``y``."""
        for phase, alpha in (("forward", 0.35), ("inference", 0.35), ("backward", 0.75)):
            spans = [s for s in timeline.spans if s.phase == phase and s.lane == COMPUTE]
            if not spans:
                continue
            begin, end = min(s.begin_us for s in spans), max(s.end_us for s in spans)
            values = (begin * _US, end * _US, y + 0.04, y + _STRIP - 0.04, phase, rank, alpha)
            for name, value in zip(self.NAMES, values, strict=True):
                self.data[name].append(value)


def _timeline_axes(longest: float, depth: float) -> Any:
    plot = figure(
        name="timeline",
        x_range=Range1d(start=0, end=longest * 1.01, bounds=(-longest * 0.02, longest * 1.05)),
        y_range=Range1d(start=depth, end=0.0),
        height=int(72 - depth * _ROW_PX),
        sizing_mode="stretch_width",
        x_axis_label="ms from the start of the step",
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
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.major_label_text_font_size = "12px"
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


def _paint(plot: Any) -> None:
    plot.quad(
        *("left", "right", "top", "bottom"),
        fill_color="#8a8f98",
        fill_alpha="alpha",
        line_alpha=0,
        source=ColumnDataSource({name: [] for name in _Strips.NAMES}, name="strips"),
    )
    source = ColumnDataSource({name: [] for name in _Columns.NAMES}, name="spans")
    drawn = plot.quad(
        *("left", "right", "top", "bottom"),
        fill_color="colour",
        fill_alpha="alpha",
        line_color="line",
        line_width=0.6,
        nonselection_fill_alpha="alpha",
        source=source,
    )
    for kind, colour in (("wait", WAIT), ("late", LATE)):
        _hatch(plot, kind, colour)
    _outline(plot, "lit", "#1b1f24", 2)
    _outline(plot, "chosen", "#ff00aa", 3)
    hover = CustomJS(args={"source": source}, code="domino.hovered(source)")
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=None, callback=hover))
    tell = CustomJS(args={"source": source}, code="domino.tapped(source)")
    plot.add_tools(TapTool(renderers=[drawn], behavior="inspect", callback=tell))


def _hatch(plot: Any, kind: str, colour: str) -> None:
    """Add an empty source of hatched pieces, which the page fills; few pieces have a hatch."""
    empty = ColumnDataSource({k: [] for k in ("left", "right", "bottom", "top")}, name=kind)
    plot.quad(
        *("left", "right", "top", "bottom"),
        fill_alpha=0,
        line_color=colour,
        line_width=1,
        hatch_pattern="right_diagonal_line",
        hatch_color=colour,
        hatch_alpha=0.9,
        hatch_scale=8,
        hatch_weight=1.3,
        source=empty,
    )


def _outline(plot: Any, name: str, colour: str, width: float) -> None:
    """Add an empty source of outlines, which the page fills."""
    empty = ColumnDataSource({k: [] for k in ("left", "right", "bottom", "top")}, name=name)
    plot.quad(
        *("left", "right", "top", "bottom"),
        fill_alpha=0,
        line_color=colour,
        line_width=width,
        source=empty,
        name=name,
    )


def _label(y: float, text: str, rank: int, shown: bool) -> Label:
    """Return a timeline's title; the page shows those whose tag is the current rank."""
    return Label(
        x=0,
        x_units="screen",
        y=y,
        y_offset=4,
        text=text,
        text_font_style="bold",
        text_font_size="13px",
        tags=[rank],
        visible=shown,
    )


def curve_figure(curves: Sequence[Curve], what: str, label: str) -> Any:
    """Draw lines over steps, and below them how far each is from the first.

    Args:
        curves: The runs.
        what: The attribute of a curve to draw, ``losses`` or ``gradient_norms``.
        label: The label of the y axis.
    """
    runs = [(curve.name, list(getattr(curve, what))) for curve in curves if getattr(curve, what)]
    plot = _curve_axes(f"curve_{what}", label, 260, "{0.000000}")
    dashes = ("solid", "dashed", "dotted", "dotdash")
    for number, (name, values) in enumerate(runs):
        plot.line(
            list(range(1, len(values) + 1)),
            values,
            name=name,
            legend_label=name,
            color=SLICES[number % len(SLICES)],
            line_dash=dashes[number % len(dashes)],
            # Curves that coincide are seen as one inside the other.
            line_width=6 if number == 0 else 2,
            line_alpha=0.45 if number == 0 else 1,
        )
    plot.legend.background_fill_alpha = 0
    plot.legend.border_line_alpha = 0
    plot.legend.click_policy = "hide"
    if len(runs) < 2:
        return plot
    return column(plot, _difference_figure(runs, what, plot), sizing_mode="stretch_width")


def _difference_figure(runs: Sequence[tuple[str, list[float]]], what: str, above: Any) -> Any:
    """Draw the relative difference of each run from the first."""
    plot = _curve_axes(f"difference_{what}", "relative difference", 150, "{0.0e+0}")
    plot.x_range = above.x_range
    (_, first), *others = runs
    largest = 0.0
    for number, (name, values) in enumerate(others, start=1):
        pairs = zip(first, values, strict=False)
        apart = [abs(b - a) / abs(a) if a else abs(b) for a, b in pairs]
        largest = max([largest, *apart])
        steps = list(range(1, len(apart) + 1))
        colour = SLICES[number % len(SLICES)]
        plot.vbar(steps, 0.6, apart, color=colour, alpha=0.8, name=name)
    said = "identical, bit for bit" if largest == 0 else f"largest difference {largest:.1e}"
    plot.title = Title(text=said, text_font_style="normal", text_font_size="13px")
    plot.y_range.start = 0
    plot.yaxis.formatter = CustomJSTickFormatter(code="return tick ? tick.toExponential(0) : '0'")
    return plot


def _curve_axes(name: str, label: str, height: int, digits: str) -> Any:
    value = "@y" if name.startswith("curve") else "@top"
    plot = figure(
        name=name,
        height=height,
        sizing_mode="stretch_width",
        x_axis_label="step",
        y_axis_label=label,
        tools="pan,box_zoom,reset,save,hover",
        tooltips=[("run", "$name"), ("step", "@x"), (label, value + digits)],
        min_border_left=80,
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0,
    )
    plot.axis.axis_label_text_font_style = "normal"
    plot.toolbar.logo = None
    return plot
