"""The timeline of one step of each variant, from the demo's own events, as data and as a picture.

Drawn with matplotlib (the extra ``report``). Everything is about an emulated link.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from _demo_config import VARIANTS
from _demo_display import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Span = tuple[float, float]  # start and length, ms from the start of the step
Timeline = dict[str, Any]

COMPUTE = {"forward": "#4878a8", "backward": "#2c4f74", "update": "#8fa9c4"}
WIRE = ("#e07b39", "#f3b562")  # slice 0 or whole; slice 1; in turns beyond
WAITS = {
    "exposed": ("#c0392b", "waiting for the wire"),
    "late": ("#999999", "waiting for the other rank"),
}
SHORTEST_WAIT_MS = 0.5  # that is drawn; a wait that finds its collective complete takes 0.05


def timelines(rank: dict[str, Any], result: dict[str, Any]) -> Timeline:
    """The measured step nearest to the median, per variant, of one rank."""
    wires = [w for r in rank["reports"] for s in _ordered(r["schedules"]) for w in s["wires"]]
    slices = {"domino": [w["slice"] for w in wires]}
    found = {
        name: _timeline(
            min(
                rank["steps"][name],
                key=lambda s: abs((s["end_s"] - s["start_s"]) * 1e3 - result[f"step_ms_{name}"]),
            ),
            slices.get(name, []),
        )
        for name in VARIANTS
    }
    return {"emulated": True, "link": result["link"], "variants": found}


def _ordered(schedules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(schedules, key=lambda s: s["phase"] == "backward")


def _timeline(step: dict[str, Any], slices: list[int | None]) -> Timeline:
    """Spans of computing, of waiting and of the wire."""
    start = step["start_s"]

    def ms(seconds: float) -> float:
        return (seconds - start) * 1e3

    exposed: list[Span] = []
    late: list[Span] = []
    for wire in step["wires"]:
        if wire["done_s"] is not None:
            begin_late = ms(wire["done_s"]) - wire["late_ms"]
            exposed.append((begin_late - wire["exposed_ms"], wire["exposed_ms"]))
            late.append((begin_late, wire["late_ms"]))
    phases = {
        "forward": (0.0, ms(step["backward_s"])),
        "backward": (ms(step["backward_s"]), ms(step["update_s"])),
        "update": (ms(step["update_s"]), ms(step["end_s"])),
    }
    known = len(slices) == len(step["wires"])
    return {
        "step_ms": ms(step["end_s"]),
        "wire_ms": step["wire_ms"],
        "exposed_ms": step["exposed_ms"],
        "phases": phases,
        "compute": {name: _without(span, [*exposed, *late]) for name, span in phases.items()},
        "exposed": exposed,
        "late": late,
        "wires": [
            {
                "start_ms": ms(w["start_s"]),
                "wire_ms": w["wire_ms"],
                "kind": w["name"],
                "slice": slices[i] if known else None,
            }
            for i, w in enumerate(step["wires"])
        ],
    }


def _without(phase: Span, waits: list[Span]) -> list[Span]:
    """A phase from begin to end, less the waits in it."""
    at, end = phase
    spans = []
    for begin, length in sorted(waits):
        if begin + length <= at or begin >= end:
            continue
        if begin > at:
            spans.append((at, begin - at))
        at = max(at, begin + length)
    if end > at:
        spans.append((at, end - at))
    return spans


def draw(timeline: Timeline, path: Path) -> None:
    """Two pictures above each other on one time axis, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    variants = timeline["variants"]
    longest = max(v["step_ms"] for v in variants.values())
    figure, axes = pyplot.subplots(
        len(variants), 1, sharex=True, figsize=(11, 4.4), layout="constrained"
    )
    for axis, (name, variant) in zip(axes, variants.items(), strict=True):
        _draw_variant(axis, TITLES[name], variant)
        axis.set_xlim(0, longest * 1.01)
    axes[-1].set_xlabel("ms from the start of the step")
    figure.suptitle(
        f"One training step of the demo, rank 0: emulated link {timeline['link']}", fontsize=12
    )
    figure.legend(
        handles=_legend(variants),
        loc="outside lower center",
        ncols=7,
        fontsize=9,
        columnspacing=1.2,
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_variant(axis: Axes, title: str, variant: Timeline) -> None:
    for phase, spans in variant["compute"].items():
        axis.broken_barh(spans, (1.1, 0.8), facecolor=COMPUTE[phase])
    for kind, (colour, _) in WAITS.items():
        waits = [span for span in variant[kind] if span[1] >= SHORTEST_WAIT_MS]
        axis.broken_barh(waits, (1.1, 0.8), facecolor="none", edgecolor=colour, hatch="////")
    for wire in variant["wires"]:
        colour = WIRE[(wire["slice"] or 0) % len(WIRE)]
        span = (wire["start_ms"], wire["wire_ms"])
        axis.broken_barh([span], (0.1, 0.8), facecolor=colour, edgecolor="white", linewidth=0.4)
    for _, end in list(variant["phases"].values())[:-1]:
        axis.axvline(end, color="black", linewidth=0.8, linestyle=":")
    hidden = 1 - variant["exposed_ms"] / variant["wire_ms"] if variant["wire_ms"] else 1
    axis.set_title(
        f"{title}: {variant['step_ms']:.0f} ms; {variant['wire_ms']:.0f} ms on the wire,"
        f" {max(hidden, 0):.0%} of it hidden",
        loc="left",
        fontsize=10,
    )
    axis.set_yticks([0.5, 1.5], ["wire", "compute"])
    axis.set_ylim(0, 2)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(left=False)


def _legend(variants: dict[str, Timeline]) -> list[Any]:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour, label=phase) for phase, colour in COMPUTE.items()]
    handles += [
        Patch(facecolor="none", edgecolor=colour, hatch="////", label=label)
        for colour, label in WAITS.values()
    ]
    cut = any(w["slice"] is not None for v in variants.values() for w in v["wires"])
    names = ("all-reduce (whole or slice 0)", "slice 1") if cut else ("all-reduce",)
    handles += [Patch(facecolor=c, label=n) for c, n in zip(WIRE, names, strict=False)]
    return handles
