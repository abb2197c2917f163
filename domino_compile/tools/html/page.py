"""Render the report from data and a template into one self-contained file."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from domino_compile.report.explanation import Explanation
from domino_compile.report.graph_rows import COLUMNS
from domino_compile.report.origin import bytes_text, short_line, time_text
from domino_compile.tools.html.data import GraphView, ReportData
from domino_compile.tools.timelines import colours
from domino_compile.tools.timelines.spans import STILL

#: Cells that are aligned to the right.
_NUMBER = re.compile(r"[\d.,%+x -]*")
ASSETS = Path(__file__).with_name("assets")
#: Rows of the table that stand there at once; the others follow when the timelines are drawn.
FIRST_ROWS = 30


def page(data: ReportData) -> str:
    """Return the HTML of a report, which needs no network and no other file.

    Raises:
        ImportError: The extra ``report`` is not installed.
    """
    import jinja2
    from bokeh.embed import components
    from bokeh.resources import Resources

    from domino_compile.tools.html import plots

    figures: dict[str, Any] = {}
    drawn = None
    if any(timeline.spans for timeline in data.timelines):
        drawn = plots.timeline_figure(data.timelines)
        figures["timeline"] = drawn.plot
    for what, label in (("losses", "loss"), ("gradient_norms", "gradient norm")):
        if any(getattr(curve, what) for curve in data.curves):
            figures[what] = plots.curve_figure(data.curves, what, label)
    script, divs = components(figures) if figures else ("", {})
    library = Resources(mode="inline", components=["bokeh"]).render_js() if figures else ""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"time": time_text, "bytes": bytes_text, "json": _embedded}
    environment.filters["line"] = short_line
    environment.tests["numeric"] = lambda text: _NUMBER.fullmatch(text) is not None
    environment.globals["asset"] = lambda name: (ASSETS / name).read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        data=data,
        ranks=sorted({timeline.rank for timeline in data.timelines}),
        still=[kind for kind in STILL if kind in _seen(data, "kind")],
        reasons=shared_reasons(data.explanation),
        longest=max((row.wire_us for row in data.explanation.rows), default=0.0) or 1.0,
        worst=worst_key(data.explanation),
        first_rows=FIRST_ROWS,
        kinds=_seen(data, "kind"),
        phases=_seen(data, "phase"),
        slices=sorted({s.slice for t in data.timelines for s in t.spans if s.slice is not None}),
        colours={"slices": colours.SLICES, "whole": colours.WHOLE},
        hatches={"wait": colours.WAIT, "late": colours.LATE},
        graphs={"columns": COLUMNS, "views": [v for g in data.graphs for v in _views(g)]},
        plot_px=drawn.plot.height if drawn else 0,
        pieces=_packed({"spans": drawn.spans, "strips": drawn.strips}) if drawn else "",
        library=library,
        script=script,
        divs=divs,
    )


def shared_reasons(explanation: Explanation) -> dict[tuple[str, str], int]:
    """Return the reasons, with advice, that hold for several collectives, and for how many."""
    told = ((row.reason, row.advice) for row in explanation.rows if row.reason)
    return {reason: count for reason, count in Counter(told).items() if count > 1}


def worst_key(explanation: Explanation) -> str:
    """Return the key of the most exposed collective, or of the longest; empty without any."""
    rows = explanation.rows
    worst = max(rows, key=lambda row: (row.exposed_us, row.wire_us), default=None)
    return worst.key if worst is not None else ""


def _seen(data: ReportData, field: str) -> list[str]:
    """Return the values of a field of spans of compute, most frequent first."""
    counts: dict[str, int] = {}
    for timeline in data.timelines:
        for span in timeline.spans:
            if span.lane == "compute" and (value := getattr(span, field)):
                counts[value] = counts.get(value, 0) + 1
    return sorted(counts, key=lambda value: -counts[value])


def _views(graph: GraphView) -> Iterator[dict[str, Any]]:
    """Yield each planned phase of a graph, with what it was before; as captured if none was.

    The operations are packed, because most readers never look at them: the browser expands those
    of one phase when it is shown. ``collectives`` names those that it holds.
    """
    origin = COLUMNS.index("origin")
    for phase in graph.after or graph.before:
        before = graph.before.get("forward" if phase == "inference" else phase, [])
        after = graph.after.get(phase, [])
        yield {
            "number": graph.number,
            "phase": phase,
            "summary": graph.summary,
            "collectives": list(dict.fromkeys(r[origin] for r in (*before, *after) if r[origin])),
            "packed": _packed({"before": before, "after": after}),
        }


def _packed(value: Any) -> str:
    """Return JSON, compressed with gzip, as text; equal values give equal texts."""
    text = json.dumps(value, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _embedded(value: Any) -> str:
    """Return JSON that can stand inside a script element."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028"))
