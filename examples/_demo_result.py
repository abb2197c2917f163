"""Turns the ranks' measurements into ``result.json`` and the printed tables. Times are in ms."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from _demo_config import VARIANTS, Config

Rank = dict[str, Any]
Result = dict[str, Any]


def make_result(ranks: list[Rank], config: Config, command: str) -> Result:
    """Medians over the measured steps; of each step the slowest rank counts."""
    result: Result = {"emulated": True, "link": config.link, "command": command}
    for name in VARIANTS:
        # keys about communication without a suffix are domino's
        ending = "" if name == "domino" else f"_{name}"
        result.update(_times_of(ranks, name))
        result.update({f"{k}{ending}": v for k, v in _communication_of(ranks, name).items()})
        result[f"loss_{name}"] = ranks[0]["losses"][name][: config.warm_up + config.steps]
    first, second = result["loss_inductor"], result["loss_domino"]
    result["loss_difference"] = max(abs(a - b) / abs(a) for a, b in zip(first, second, strict=True))
    result["step_ratio"] = result["step_ms_domino"] / result["step_ms_inductor"]
    free = zip(*(rank["free_ms"] for rank in ranks), strict=True)
    result["step_ms_inductor_free_link"] = statistics.median(max(same) for same in free)
    result.update(_compile_reports(ranks[0]["reports"]))
    result["config"] = config.as_dict() | {"ranks": len(ranks)}
    result["versions"] = {
        "torch": ranks[0]["torch"],
        "domino_compile": version("domino-compile"),
        "python": platform.python_version(),
    }
    result["machine"] = {"cpus": os.cpu_count(), "system": platform.system(), "cpu": cpu_name()}
    return result


def _times_of(ranks: list[Rank], name: str) -> Result:
    """A variant's times, by the keys of the result."""

    def between(first: str, last: str) -> list[float]:
        return _per_step(ranks, name, lambda s: (s[last] - s[first]) * 1e3)

    step_ms = between("start_s", "end_s")
    return {
        f"step_ms_{name}": statistics.median(step_ms),
        f"step_ms_quartiles_{name}": quartiles(step_ms),
        f"forward_ms_{name}": statistics.median(between("start_s", "backward_s")),
        f"backward_ms_{name}": statistics.median(between("backward_s", "update_s")),
        f"cpu_ms_{name}": _median(ranks, name, lambda s: s["cpu_s"] * 1e3),
        f"compile_s_{name}": max(rank["compile_s"][name] for rank in ranks),
        f"launches_{name}": ranks[0]["steps"][name][0]["collectives"],
    }


def _communication_of(ranks: list[Rank], name: str) -> Result:
    wire, exposed, late = (
        _median(ranks, name, lambda s, key=key: s[key])
        for key in ("wire_ms", "exposed_ms", "late_ms")
    )
    hidden = max(0.0, 1 - exposed / wire) if wire else 1.0
    return {"wire_ms": wire, "exposed_ms": exposed, "hidden_fraction": hidden, "late_ms": late}


def _per_step(
    ranks: list[Rank], name: str, value: Callable[[dict[str, Any]], float]
) -> list[float]:
    steps = zip(*(rank["steps"][name] for rank in ranks), strict=True)
    return [max(value(step) for step in same) for same in steps]


def _median(ranks: list[Rank], name: str, value: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(_per_step(ranks, name, value))


def _compile_reports(reports: list[dict[str, Any]]) -> Result:
    """Return domino's reports of all graphs."""
    schedules = [s for report in reports for s in report["schedules"]]
    return {
        "collectives": [c for report in reports for c in report["collectives"]],
        "status": [
            f"{r['status']}: {r['reason']}" if r["reason"] else r["status"] for r in reports
        ],
        "slices_rows": [rows for report in reports for rows in report["slices"]],
        "predicted_ms": {s["phase"]: s["predicted_us"] / 1e3 for s in schedules},
        "predicted_exposed_ms": {
            s["phase"]: sum(w["exposed_us"] for w in s["wires"]) / 1e3 for s in schedules
        },
    }


def quartiles(values: Sequence[float]) -> list[float]:
    """The first and the third quartile."""
    if len(values) < 2:
        return [values[0], values[0]]
    cuts = statistics.quantiles(values, n=4, method="inclusive")
    return [cuts[0], cuts[2]]


def cpu_name() -> str:
    """Return the processor's name, if the system reports it."""
    try:
        with open("/proc/cpuinfo") as info:
            names = [line.split(":", 1)[1].strip() for line in info if "model name" in line]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()


Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def tables(result: Result) -> list[Table]:
    """Title, header and rows of each table."""
    return [_losses(result), _times(result), _collectives(result)]


def _losses(result: Result) -> Table:
    pairs = list(zip(result["loss_inductor"], result["loss_domino"], strict=True))
    shown = sorted({round(i * (len(pairs) - 1) / 5) for i in range(6)})
    rows = [(str(i + 1), *(f"{x:.6f}" for x in pairs[i])) for i in shown]
    title = f"Loss (largest relative difference of all {len(pairs)} steps:"
    return f"{title} {result['loss_difference']:.1e})", ("step", "Inductor", "domino"), rows


def _times(result: Result) -> Table:
    def row(label: str, key: str, domino_key: str, form: str = ".1f") -> tuple[str, ...]:
        first, second = result[key], result[domino_key]
        change = f"{second / first - 1:+.0%}" if first else ""
        return label, format(first, form), format(second, form), change

    def spread(name: str) -> str:
        low, high = result[f"step_ms_quartiles_{name}"]
        return f"{low:.1f} - {high:.1f}"

    from domino_compile.ratio import factor_text

    step = row("step, ms (median)", "step_ms_inductor", "step_ms_domino")
    rows = [
        (*step[:-1], factor_text(result["step_ms_inductor"], result["step_ms_domino"])),
        ("  middle half of the steps", spread("inductor"), spread("domino"), ""),
        row("  forward, ms", "forward_ms_inductor", "forward_ms_domino"),
        row("  backward, ms", "backward_ms_inductor", "backward_ms_domino"),
        row("  CPU time of a rank, ms", "cpu_ms_inductor", "cpu_ms_domino"),
        (
            "step at the real transport's speed, ms",
            f"{result['step_ms_inductor_free_link']:.1f}",
            "",
            "",
        ),
        row("collectives in a step", "launches_inductor", "launches_domino", "d"),
        row("communication on the wire, ms", "wire_ms_inductor", "wire_ms"),
        row("  exposed, ms", "exposed_ms_inductor", "exposed_ms"),
        (
            "  hidden",
            f"{result['hidden_fraction_inductor']:.0%}",
            f"{result['hidden_fraction']:.0%}",
            "",
        ),
        row("  late ranks or transport, ms", "late_ms_inductor", "late_ms"),
        row("compiling and first step, s", "compile_s_inductor", "compile_s_domino"),
    ]
    title = f"One training step under the emulated link {result['link']}"
    return title, ("", "Inductor", "domino", "change"), rows


def _collectives(result: Result) -> Table:
    counts = Counter(
        (c["kind"], c["phase"], c["bytes"], c["action"], _line(c["source"]))
        for c in result["collectives"]
    )
    rows = [(str(n), *map(str, key)) for key, n in counts.items()]
    title = f"Collectives found: {len(result['collectives'])} ({'; '.join(result['status'])})"
    return title, ("count", "kind", "phase", "bytes", "what was done", "line"), rows


def _line(source: str) -> str:
    """``file:line`` without the folders and the code."""
    head = source.split(", in ", maxsplit=1)[0]
    return os.path.basename(head)


def print_tables(result: Result) -> None:
    """With rich where it is installed, else as aligned text."""
    try:
        _print_rich(tables(result))
    except ImportError:
        _print_plain(tables(result))


def _print_rich(found: list[Table]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    for title, header, rows in found:
        console.print(f"\n[bold]{title}")
        table = RichTable(box=box.SIMPLE_HEAD)
        for i, name in enumerate(header):
            table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _print_plain(found: list[Table]) -> None:
    for title, header, rows in found:
        print(f"\n{title}")
        lines = [header, *rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        for line in lines:
            print("  " + "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)))
