"""Draw the packages and their imports: `make picture` writes docs/architecture.svg.

The only source is the code. A box is a sub-package or a module at the top of `domino_compile`; an
arrow is an import. An arrow that follows from others is left out (a transitive reduction), and a
box stands one row above the highest box that it imports. The picture has a light and a dark
palette and follows the reader's setting. `make picture` also writes the table of packages in
docs/architecture.md, from the first paragraph of each docstring.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = "domino_compile"
BEGIN, END = "<!-- begin: make picture -->\n", "<!-- end -->\n"

#: Not drawn: the package itself, which only hands on what others have, and helpers of all tools.
HIDDEN = {"__init__", "__main__", "tools"}
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 132, 32, 18, 44, 24
#: How often the rows are sorted, upwards and downwards; more change nothing.
SWEEPS = 30

Edges = Mapping[str, frozenset[str]]
Point = tuple[float, float]


def modules() -> dict[str, Path]:
    """Every module of the package by its import path."""
    files = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "passes").rglob("*.py")]
    found = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[0] == "passes":  # imported through a link
            parts = (PACKAGE, *parts)
        elif parts[1] == "passes":
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def room(module: str) -> str:
    """The box that a module is drawn in: `rules`, `backend`, `tools.bench`, ..."""
    _, *parts = module.split(".")
    if parts[:1] == ["tools"]:
        package = len(parts) > 1 and (ROOT / PACKAGE / "tools" / parts[1]).is_dir()
        return f"tools.{parts[1]}" if package else "tools"
    return parts[0] if parts else "__init__"


def imported(tree: ast.AST, known: Mapping[str, Path]) -> Iterator[str]:
    """The package's modules that a module imports, at its top or in a function.

    Imports for type checkers alone are left out: they do not run.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == PACKAGE)
        yield from imported(node, known)


def imports() -> dict[str, frozenset[str]]:
    """Which boxes each box imports."""
    known = modules()
    found: dict[str, set[str]] = {room(name): set() for name in known}
    for name, file in known.items():
        for other in imported(ast.parse(file.read_text(encoding="utf-8")), known):
            found[room(name)].add(room(other))
    boxes = found.keys() - HIDDEN
    return {a: frozenset(found[a] & boxes - {a}) for a in sorted(boxes)}


def reachable(edges: Edges, start: str) -> frozenset[str]:
    """All boxes that a box imports, directly or not; itself only if it is in a cycle."""
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        if (box := waiting.pop()) not in seen:
            seen.add(box)
            waiting.extend(edges[box])
    return frozenset(seen)


def reduced(edges: Edges) -> dict[str, frozenset[str]]:
    """The arrows that do not follow from others; what is in one cycle does not stand for itself."""
    below = {box: reachable(edges, box) for box in edges}

    def follows(a: str, b: str, by: str) -> bool:
        return b in below[by] and a not in below[by] and by not in below[b]

    return {
        a: frozenset(b for b in targets if not any(follows(a, b, by) for by in targets - {b}))
        for a, targets in edges.items()
    }


def rows(edges: Edges) -> list[list[str]]:
    """The boxes by row, from the bottom; those of a cycle share a row."""
    below = {box: reachable(edges, box) for box in edges}
    height: dict[str, int] = {}
    while len(height) < len(edges):
        for box in edges.keys() - height.keys():
            cycle = {box} | {other for other in below[box] if box in below[other]}
            outside = frozenset[str]().union(*(edges[member] for member in cycle)) - cycle
            if outside <= height.keys():
                height |= dict.fromkeys(cycle, 1 + max((height[b] for b in outside), default=-1))
    found: list[list[str]] = [[] for _ in range(1 + max(height.values()))]
    for box in sorted(edges):
        found[height[box]].append(box)
    return found


@dataclass
class Place:
    """Where something of a row is drawn: a box, or a bend of an arrow that passes the row."""

    x: float
    width: float
    near: list[Place] = field(default_factory=list)

    def wanted(self) -> float:
        """The place nearest to what it is connected with."""
        return fmean(other.x for other in self.near) if self.near else self.x


def spread(row: list[Place]) -> None:
    """Move a row's places as near to where they are wanted as their widths allow.

    Least squares under minimal distances: places that would overlap are pooled around their mean.
    """
    pools: list[tuple[float, int]] = []  # (wanted left end less what stands before, places)
    before, offsets = 0.0, []
    for place in row:
        offsets.append(before + place.width / 2)
        mean, count = place.wanted() - offsets[-1], 1
        while pools and pools[-1][0] > mean:
            other, more = pools.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        pools.append((mean, count))
        before += place.width + GAP_X
    shifts = [mean for mean, count in pools for _ in range(count)]
    for place, offset, shift in zip(row, offsets, shifts, strict=True):
        place.x = offset + shift


def arranged(
    levels: list[list[str]], edges: Edges
) -> tuple[dict[str, Place], dict[tuple[str, str], list[Place]]]:
    """The places of boxes, and of each arrow's bends on the rows that it passes, from its start."""
    level = {box: i for i, row in enumerate(levels) for box in row}
    boxes = {box: Place(0.0, BOX_WIDTH) for box in level}
    grid = [[boxes[box] for box in row] for row in levels]
    bends: dict[tuple[str, str], list[Place]] = {}
    for a, b in sorted((a, b) for a, targets in edges.items() for b in targets):
        bends[a, b] = [Place(0.0, 0.0) for _ in range(level[b] + 1, level[a])]
        for bend, i in zip(bends[a, b], range(level[a] - 1, level[b], -1), strict=True):
            grid[i].append(bend)
        for one, other in pairwise([boxes[a], *bends[a, b], boxes[b]]):
            one.near.append(other)
            other.near.append(one)
    for row in grid:
        spread(row)
    for _ in range(SWEEPS):
        for row in (*grid, *reversed(grid)):
            row.sort(key=Place.wanted)
            spread(row)
    left = min(place.x - place.width / 2 for row in grid for place in row)
    for row in grid:
        for place in row:
            place.x += MARGIN - left
    return boxes, bends


STYLE = """
  .back { fill: #ffffff } .arrow { stroke: #8c959f; stroke-width: 1.1; fill: none }
  .head { fill: #8c959f } text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328;
    text-anchor: middle; dominant-baseline: central }
  .core { fill: #ddf4ff; stroke: #54aeff } .tools { fill: #fff8c5; stroke: #d4a72c }
  .entry { fill: #dafbe1; stroke: #4ac26b }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } .arrow { stroke: #6e7681 } .head { fill: #6e7681 }
    text { fill: #e6edf3 } .core { fill: #0c2d6b; stroke: #388bfd }
    .tools { fill: #4b2900; stroke: #bb8009 } .entry { fill: #033a16; stroke: #2ea043 }
  }
"""


def kind(box: str) -> str:
    """The colour class of a box: a tool, a module at the top, or a package of the compiler."""
    if box.startswith("tools"):
        return "tools"
    return "entry" if (ROOT / PACKAGE / f"{box}.py").exists() else "core"


def arrow(points: list[tuple[float, float]]) -> str:
    """A curve from the bottom of a box through the bends to the top of another."""
    (x, y), *others = points
    parts = [f"M{x:.0f},{y:.0f}"]
    for x2, y2 in others:
        bend = (y2 - y) / 2
        parts.append(f"C{x:.0f},{y + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}")
        x, y = x2, y2
    return " ".join(parts)


def drawn_arrows(levels: list[list[str]], edges: Edges) -> tuple[list[str], dict[str, Point]]:
    """The SVG of all arrows, and the centre of each box."""
    boxes, bends = arranged(levels, edges)
    level = {box: i for i, row in enumerate(levels) for box in row}

    def height(i: int) -> float:
        return MARGIN + (len(levels) - 1 - i) * (BOX_HEIGHT + GAP_Y) + BOX_HEIGHT / 2

    lines = []
    for (a, b), passed in bends.items():
        between = [(bend.x, height(level[a] - 1 - i)) for i, bend in enumerate(passed)]
        start = (boxes[a].x, height(level[a]) + BOX_HEIGHT / 2)
        end = (boxes[b].x, height(level[b]) - BOX_HEIGHT / 2 - 5)
        lines.append(
            f'<path class="arrow" marker-end="url(#head)" d="{arrow([start, *between, end])}">'
            f"<title>{a} imports {b}</title></path>"
        )
    return lines, {box: (place.x, height(level[box])) for box, place in boxes.items()}


def picture() -> str:
    """The SVG text; the same code gives the same text."""
    edges = reduced(imports())
    arrows, centre = drawn_arrows(rows(edges), edges)
    width = max(x for x, _ in centre.values()) + BOX_WIDTH / 2 + MARGIN
    height = max(y for _, y in centre.values()) + BOX_HEIGHT / 2 + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">',
        "<title>The packages of domino_compile and which of them import which</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="3" refY="4" markerWidth="6" '
        'markerHeight="6" orient="auto"><path class="head" d="M0,0 L8,4 L0,8 z"/></marker></defs>',
        '<rect class="back" width="100%" height="100%"/>',
        *arrows,
    ]
    for box, (x, y) in sorted(centre.items()):
        lines.append(
            f'<g><title>{box}</title><rect class="{kind(box)}" x="{x - BOX_WIDTH / 2:.0f}" '
            f'y="{y - BOX_HEIGHT / 2:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
            f'<text x="{x:.0f}" y="{y:.0f}">{box}</text></g>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def purpose(box: str) -> str:
    """The first sentence of a package's or module's docstring."""
    tree = ast.parse(modules()[f"{PACKAGE}.{box}"].read_text(encoding="utf-8"))
    return " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())


def table() -> str:
    """The boxes from top to bottom as a Markdown table."""
    lines = ["| Package | Holds |", "|---|---|"]
    for row in reversed(rows(imports())):
        lines += [f"| `{box}` | {purpose(box)} |" for box in row]
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/architecture.md with the table as it is now."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}", file=sys.stderr)
