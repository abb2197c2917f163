"""``domino links``: the available link tables, and the contents of one of them."""

from __future__ import annotations

from collections.abc import Iterable

import click

from domino_compile.links import COLLECTIVES, LinkFile, LinkTable, link_files, load_link
from domino_compile.links.user import links_folder
from domino_compile.tools.cli.show import (
    digits,
    examples,
    json_option,
    print_json,
    say,
    show_table,
    size_text,
    warn,
)

MIB = 1 << 20
#: Payloads for which the list gives the time of an all-reduce.
SIZES = (1 * MIB, 8 * MIB, 32 * MIB, 128 * MIB)
_DERIVED = tuple(name for name in COLLECTIVES if name != "barrier")


@click.command(
    epilog=examples(
        "domino links",
        "domino links h200-nvlink-8",
        "domino links ./mine.json --json",
    )
)
@click.argument("name", required=False, metavar="[NAME|FILE]")
@json_option
def links(name: str | None, as_json: bool) -> None:
    """List the link tables, or show all curves and notes of one.

    A link table says how long a collective takes in a group of ranks. Emulated groups keep to its
    times, and the cost model plans with them. Put your own tables into the folder
    ~/.config/domino_compile/links (domino calibrate measures them), or name them by their file.
    """
    if name is None:
        _show_all(link_files(), as_json)
    else:
        _show_one(load_link(name), as_json)


def _show_all(files: list[LinkFile], as_json: bool) -> None:
    good = [(file, file.table) for file in files if file.table is not None]
    broken = [file for file in files if file.table is None]
    if as_json:
        print_json(
            {
                "emulated": True,
                "user_folder": str(links_folder()),
                "links": [_summary(file, link) for file, link in good],
                "broken": [{"file": str(f.path), "error": f.problem} for f in broken],
            }
        )
        return
    for file in broken:
        warn(file.problem)
    columns = ["link", "ranks", "nodes", "CTAs", "numbers", "from"]
    rows = [
        [link.name, str(link.ranks), str(link.nodes), str(link.ctas), link.kind, _owner(file)]
        for file, link in good
    ]
    show_table(columns, rows, title="Link tables")
    show_table(
        ["link", *map(size_text, SIZES), "GB/s"],
        [_times(link) for _, link in good],
        title="All-reduce, emulated: milliseconds by payload; bus bandwidth at the largest",
    )
    sources = [[link.name, link.source] for _, link in good]
    show_table(["link", "source"], sources, title="Sources", wrap=True)
    say(
        "CTAs: thread blocks that a collective holds on a GPU. A whole table: domino links NAME."
        f" Your own tables: {links_folder()}"
    )


def _owner(file: LinkFile) -> str:
    return "user" if file.user else "package"


def _times(link: LinkTable) -> list[str]:
    return [link.name, *_ms(link, "all_reduce"), digits(link.busbw_gb_s("all_reduce", SIZES[-1]))]


def _head(link: LinkTable) -> dict[str, object]:
    return {
        "name": link.name,
        "ranks": link.ranks,
        "nodes": link.nodes,
        "ctas": link.ctas,
        "numbers": link.kind,
        "source": link.source,
    }


def _summary(file: LinkFile, link: LinkTable) -> dict[str, object]:
    points = _points(link, "all_reduce", SIZES)
    return _head(link) | {"from": _owner(file), "file": str(file.path), "all_reduce": points}


def _points(link: LinkTable, collective: str, sizes: Iterable[int]) -> list[dict[str, object]]:
    """Return the table's predictions for some payloads."""
    return [_point(link, collective, size, link.time_us(collective, size)) for size in sizes]


def _point(link: LinkTable, collective: str, size: int, time_us: float) -> dict[str, object]:
    busbw = link.busbw_gb_s(collective, size)
    return {"size_bytes": size, "time_us": time_us, "busbw_gb_s": busbw}


def _show_one(link: LinkTable, as_json: bool) -> None:
    derived = {
        name: {
            "busbw_over_all_reduce": link.busbw_ratio.get(name, 1.0),
            "points": _points(link, name, SIZES),
        }
        for name in _DERIVED
        if name not in link.curves
    }
    if as_json:
        curves = {
            name: {
                "floor_us": curve.floor_us,
                "points": [_point(link, name, size, time_us) for size, time_us in curve.points],
            }
            for name, curve in link.curves.items()
        }
        head = _head(link) | {"note": link.note, "nccl": link.nccl, "emulated": True}
        print_json(head | {"curves": curves, "derived": derived})
        return
    facts = _head(link) | {"NCCL": link.nccl, "note": link.note}
    rows = [[key, str(value)] for key, value in facts.items() if value]
    show_table(["", "link table"], rows, wrap=True)
    for name in link.curves:
        _show_curve(link, name)
    rows = [[name, digits(link.busbw_ratio.get(name, 1.0)), *_ms(link, name)] for name in derived]
    show_table(
        ["collective", "factor", *map(size_text, SIZES)],
        rows,
        title="Without a curve: emulated from all_reduce at its bus bandwidth times a factor; ms",
    )
    say(
        "Times between and beyond the points are emulated: interpolated between them, and at the"
        " last point's bus bandwidth above it."
    )


def _ms(link: LinkTable, collective: str) -> list[str]:
    return [digits(link.time_us(collective, size) / 1e3) for size in SIZES]


def _show_curve(link: LinkTable, collective: str) -> None:
    curve = link.curves[collective]
    rows = [["(empty)", digits(curve.floor_us / 1e3), ""]]
    for size, time_us in curve.points:
        busbw = digits(link.busbw_gb_s(collective, size))
        rows.append([size_text(size), digits(time_us / 1e3), busbw])
    label = link.kind if link.kind == "measured" else f"{link.kind}, emulated"
    show_table(["payload", "ms", "GB/s"], rows, title=f"{collective}, {label}")
