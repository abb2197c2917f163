"""The report as one self-contained HTML file: timelines, collectives, curves, graphs.

Needs the extra ``report`` (jinja2, bokeh). ``data`` says what is shown, ``dumps`` reads it from
``dump_dir``, ``plots`` draws it and ``page`` puts it together; what happens in the browser is in
``assets``.
"""

from domino_compile.tools.html.candidates import candidate_tables
from domino_compile.tools.html.data import Curve, GraphView, ReportData, Table
from domino_compile.tools.html.dumps import Dump, DumpError, read_dump
from domino_compile.tools.html.page import page

__all__ = [
    "Curve",
    "Dump",
    "DumpError",
    "GraphView",
    "ReportData",
    "Table",
    "candidate_tables",
    "page",
    "read_dump",
]
