"""Check whether the default choices are ever slower than Inductor's, and how good predictions are.

Usage: ``python -m benchmarks.grid [--seconds 480] [--out benchmarks/results/grid.json]`` on a
machine with one or more GPUs; ``--list`` shows the configurations, ``--only 3,17`` or ``--limit 8``
selects some of them, ``--resume`` those that the results lack. ``--summary FILE`` only summarises
results. ``--device cpu`` is a dry run of tiny models, whose times mean nothing.

Each configuration (``grid_cells``) compiles a model's step with plain Inductor and with this
package, with no option but the link's name, and times both in turn, acting as one rank on the
*emulated* link as ``domino bench`` does: CUDA graphs, medians, device events. With ``--no-link``
the planner is not told which link is emulated and plans with the one it assumes for the device;
with ``--slices 2`` it cuts without choosing, which shows the value of cuts that it refuses.

Configurations compile side by side and measure one at a time (``side_by_side``).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from benchmarks.grid_cells import cells, dry_cells
from benchmarks.grid_summary import line, summary
from benchmarks.lane import work
from benchmarks.side_by_side import add_common, complete, parse_common, run, select, show


def main() -> int:
    """Measure and summarise; return 1 if a configuration failed or was left out."""
    asked = parse()
    if asked.summary:
        print("\n".join(summary(json.loads(asked.summary.read_text()))))
        return 0
    chosen, kept = select(asked, cells() if asked.device == "cuda" else dry_cells())
    if asked.list:
        show(chosen)
        return 0
    rows = run(
        asked, chosen, kept, work, line,
        measure_s=asked.measure_seconds, link_known=not asked.no_link, slices=asked.slices,
    )  # fmt: skip
    print("\n".join(summary(rows)))
    return 0 if complete(rows, chosen) else 1


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    add = parser.add_argument
    add_common(parser)
    add("--measure-seconds", type=float, default=1.2, help="of a configuration, about")
    add("--no-link", action="store_true", help="do not tell the planner the link")
    add("--slices", type=int, metavar="N", help="cut rows into N, whatever is predicted of that")
    add("--summary", type=Path, metavar="FILE", help="sum up results, measure nothing")
    return parse_common(parser, "grid.json")


if __name__ == "__main__":
    sys.exit(main())
