"""Link tables: measured times of collectives, as data files with their sources.

>>> from domino_compile.links import load_link
>>> load_link("h200-nvlink-8").time_us("all_reduce", 32 << 20)
213.0

Conventions and formulas are in ``table.py``, the file format in ``README.md`` beside this file.
"""

from domino_compile.links.contention import Contention
from domino_compile.links.load import (
    LinkFile,
    link_files,
    list_links,
    load_link,
    parse_link,
    save_link,
)
from domino_compile.links.table import COLLECTIVES, Curve, LinkError, LinkTable, busbw_factor

__all__ = [
    "COLLECTIVES",
    "Contention",
    "Curve",
    "LinkError",
    "LinkFile",
    "LinkTable",
    "busbw_factor",
    "link_files",
    "list_links",
    "load_link",
    "parse_link",
    "save_link",
]
