"""The report as one self-contained HTML file: timelines, collectives, curves, graphs.

This needs the extra ``report`` (jinja2, bokeh). ``data`` defines what is shown, ``dumps`` reads it
from ``dump_dir``, ``plots`` draws it and ``page`` assembles it. ``assets`` holds the code that runs
in the browser.
"""

from domino_compile.tools.html.candidates import candidate_tables
from domino_compile.tools.html.data import Curve, GraphView, ReportData, Table, Tile
from domino_compile.tools.html.dumps import Dump, DumpError, read_dump
from domino_compile.tools.html.page import page
from domino_compile.tools.html.tiles import explained_tiles, explained_verdict

__all__ = [
    "Curve",
    "Dump",
    "DumpError",
    "GraphView",
    "ReportData",
    "Table",
    "Tile",
    "candidate_tables",
    "explained_tiles",
    "explained_verdict",
    "page",
    "read_dump",
]
