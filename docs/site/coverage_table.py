"""Publish the coverage of the suite: `make coverage` runs this behind the tests.

Reads what `coverage json` wrote and puts one row per package into docs/coverage.md, with the
versions and the device it was measured with. Nothing is rounded up.
"""

from __future__ import annotations

import json
import platform
import sys
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "coverage.md"
BEGIN, END = "<!-- begin: make coverage -->\n", "<!-- end -->\n"
COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def package(file: str) -> str:
    """The package of a source file: `rules`, `tools/bench`; the files at the top are one."""
    parts = Path(file).parts
    if parts[0] == "passes" or parts[:2] == ("domino_compile", "passes"):
        return "passes"
    return "/".join(parts[1 : 3 if parts[1] == "tools" else 2][: len(parts) - 2]) or "(top)"


def share(covered: int, of: int) -> str:
    """A percentage, rounded down."""
    return f"{int(1000 * covered / of) / 10:.1f} %" if of else "-"


def row(name: str, found: dict[str, int]) -> str:
    """One row of the table."""
    lines, branches = found["num_statements"], found["num_branches"]
    covered = (share(found["covered_lines"], lines), share(found["covered_branches"], branches))
    return f"| {name} | {lines} | {covered[0]} | {covered[1]} |"


def table(data: dict[str, Any], measured: str) -> str:
    """The Markdown of all packages.

    Args:
        data: what `coverage json` writes.
        measured: when and with what.
    """
    packages: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
    for file, found in data["files"].items():
        for count in COUNTS:
            packages[package(file)][count] += found["summary"][count]
    rows = [row(f"`{name}`", packages[name]) for name in sorted(packages)]
    total = {count: data["totals"][count] for count in COUNTS}
    head = ["| Package | Statements | Lines covered | Branches covered |", "|---|---|---|---|"]
    return "\n".join([measured, "", *head, row("**all**", total), *rows]) + "\n"


def main(report: str) -> None:
    """Write the table of a report into the page."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    measured = (
        f"Measured on {date.today()} with torch {torch.__version__}, "
        f"Python {platform.python_version()}, {device}:"
    )
    data = json.loads(Path(report).read_text(encoding="utf-8"))
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    text = before + BEGIN + table(data, measured) + END + rest.split(END, 1)[1]
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
