"""The first lines of a report: what it found, as a few large numbers."""

from __future__ import annotations

from collections.abc import Sequence

from domino_compile.ratio import factor_text, ms_text, times_text
from domino_compile.report import CompileReport
from domino_compile.report.explanation import Explanation
from domino_compile.report.origin import bytes_text
from domino_compile.tools.html.data import Tile
from domino_compile.tools.poc.result import BASELINE, DOMINO, PocResult
from domino_compile.tools.profiling.result import ProfileResult

#: Less exposed time than this is none.
NOTHING_MS = 1e-3
#: The graphs whose summary stands on the first screen.
FIRST_GRAPHS = 4
PREDICTED = Tile("predicted", "nothing was measured", "by the cost model", "fair")


def explained_tiles(
    explanation: Explanation, compiled: Sequence[CompileReport]
) -> tuple[Tile, ...]:
    """Return the tiles of what is predicted for compiled graphs; none if there is no prediction."""
    if not any(graph.times for graph in explanation.graphs):
        return ()
    times = explanation.times
    before, after = times.inductor, times.planned
    basis = "; ".join(dict.fromkeys(graph.basis for graph in explanation.graphs if graph.basis))
    tiles = [_step(before.step_us / 1e3, after.step_us / 1e3, "a step, predicted")]
    if before.hidden is not None and after.hidden is not None:
        tiles.append(_hidden(before.hidden, after.hidden, after.exposed_us / 1e3))
    if before.wire_us and after.wire_us:
        merged = sum(row.status == "merged" for row in explanation.rows)
        note = f"{merged} collectives merged" if merged else "of communication, predicted"
        tiles.append(
            Tile(times_text(before.wire_us / 1e3, after.wire_us / 1e3), "on the wire", note)
        )
    if peak := max((report.step_peak_bytes for report in compiled), default=0):
        tiles.append(Tile(bytes_text(peak), "peak memory", "of the planned step, estimated"))
    return (*tiles, Tile(PREDICTED.value, PREDICTED.label, basis, PREDICTED.tone))


def explained_verdict(explanation: Explanation) -> tuple[str, ...]:
    """Return the verdict in sentences, and what was done with each graph that communicates."""
    numbers = {row.graph for row in explanation.rows}
    graphs = [graph.summary for graph in explanation.graphs if graph.number in numbers]
    more = len(graphs) - FIRST_GRAPHS
    rest = [f"{more} more graphs: see Graphs below."] if more > 0 else []
    return (*explanation.verdict(), *graphs[:FIRST_GRAPHS], *rest)


def poc_tiles(result: PocResult) -> tuple[Tile, ...]:
    """Return the tiles of a comparison."""
    before, after = (result.variants[name].numbers for name in (BASELINE, DOMINO))
    tiles = [_step(before.median_ms, after.median_ms, "a step, domino against Inductor")]
    tiles.append(_hidden(before.account.hidden, after.account.hidden, after.account.exposed_ms))
    for quality in result.qualities[:1]:
        same = "equal within noise and rounding" if quality.equal else "more than noise allows"
        name = {"loss": "losses", "grad_norm": "gradient norms", "output": "outputs"}[quality.name]
        value = "bit for bit" if quality.difference == 0 else f"{quality.difference:.0e}"
        label = f"{name} agree" if quality.difference == 0 else f"largest difference of {name}"
        tiles.append(Tile(value, label, same, "good" if quality.equal else "bad"))
    if before.peak_mib and after.peak_mib:
        more = f"{after.peak_mib / before.peak_mib - 1:+.0%} against Inductor alone"
        tiles.append(Tile(bytes_text(after.peak_mib * 2**20), "peak memory", more))
    return (*tiles, _origin(result.first.link, result.first.ranks, result.first.device))


def profile_tiles(result: ProfileResult) -> tuple[Tile, ...]:
    """Return the tiles of a profile."""
    advice, account = result.recommendation, result.numbers.account
    step = result.numbers.median_ms
    tiles = [
        Tile(ms_text(step), "a step", f"median of {len(result.numbers.step_ms)}"),
        Tile(
            f"{advice.share:.0%}",
            "of it is exposed communication",
            f"{account.exposed_ms:.1f} of {account.wire_ms:.1f} ms on the wire",
            "bad" if advice.worth else "",
        ),
        Tile(
            factor_text(step, advice.predicted_ms),
            "expected with domino" if advice.speedup != 1 else "nothing to gain is expected",
            times_text(step, advice.predicted_ms),
            "good" if advice.worth else "",
        ),
    ]
    return (*tiles, _origin(result.link, result.ranks, result.device))


def origin_text(link: str) -> str:
    """Return whether a measurement is of an emulated or a real link."""
    return f"measured, emulated link {link}" if link else "measured, real link"


def _origin(link: str, ranks: int, device: str) -> Tile:
    where = f"{ranks} ranks, {device}"
    if link:
        return Tile("emulated", f"link {link}", where, "fair")
    return Tile("real", "link", where, "good")


def measured_tiles(
    step_ms: tuple[float, float], hidden: tuple[float, float], exposed_ms: float, loss: float
) -> tuple[Tile, ...]:
    """Return the tiles of two measured programs, Inductor alone and domino.

    Args:
        step_ms: The steps of both.
        hidden: The hidden shares of their communication.
        exposed_ms: What is left exposed with domino.
        loss: The largest relative difference of their losses.
    """
    return (
        _step(*step_ms, "a step, domino against Inductor"),
        _hidden(*hidden, exposed_ms),
        Tile(f"{loss:.0e}", "largest difference of losses"),
    )


def emulated_tile(link: str, ranks: int, device: str) -> Tile:
    """Return the tile that says that a link is emulated."""
    return _origin(link, ranks, device)


def _step(before_ms: float, after_ms: float, label: str) -> Tile:
    value = factor_text(before_ms, after_ms)
    tone = "good" if value.endswith("faster") else "bad" if value.endswith("slower") else ""
    return Tile(value, label, times_text(before_ms, after_ms), tone)


def _hidden(before: float, after: float, exposed_ms: float) -> Tile:
    left = "none is exposed" if exposed_ms < NOTHING_MS else f"{ms_text(exposed_ms)} exposed"
    note = f"{before:.0%} with Inductor alone; {left}"
    return Tile(f"{after:.0%}", "of communication hidden", note, "good" if after > before else "")
