"""A dump of a real compile, and the report made of it; shared by all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import domino_compile
from domino_compile import Explanation, explain, fake_ranks
from domino_compile.tools.html import (
    Curve,
    Dump,
    ReportData,
    Table,
    explained_tiles,
    page,
    read_dump,
)
from domino_compile.tools.timelines import predicted
from tests.emitted.harness import VOCAB, Model
from tests.paths import FAST_LINK


def dumped(folder: Path, layers: int) -> tuple[Explanation, Dump]:
    torch._dynamo.reset()
    domino_compile.reset_reports()
    with fake_ranks(4):
        tokens = torch.randint(0, VOCAB, (4, 8))
        options = {"dump_dir": str(folder), "link": FAST_LINK, "slices": 2}
        found = explain(Model(layers), tokens, tokens, options=options)
    domino_compile.reset_reports()
    return found, read_dump(folder)


@pytest.fixture(scope="session")
def dump_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="session")
def compiled(dump_folder: Path) -> Iterator[tuple[Explanation, Dump]]:
    yield dumped(dump_folder, layers=2)


@pytest.fixture(scope="session")
def data(compiled: tuple[Explanation, Dump]) -> ReportData:
    """A report with everything in it; rank 1 is rank 0 again, as if measured, twice as long."""
    explanation, dump = compiled
    told = {"status": "exposed", "reason": "nothing is left to compute", "advice": "more rows"}
    exposed = [replace(r, exposed_us=r.wire_us, **told) for r in explanation.rows[-2:]]  # type: ignore[arg-type]
    explanation = replace(explanation, rows=(*explanation.rows[:-2], *exposed))
    before, after = predicted(dump.reports)
    spans = tuple(
        replace(s, begin_us=2 * s.begin_us, end_us=2 * s.end_us, name=f"slow {s.name}")
        for s in after.spans
    )
    other = replace(after, rank=1, measured=True, emulated=True, spans=spans)
    losses, close = (3.0, 2.0, 1.5), (3.0, 2.0 + 4e-7, 1.5)
    return ReportData(
        title="a <report> & more",
        facts=(("command", "domino explain </script><b>train.py</b>"),),
        explanation=explanation,
        verdict=("Worth it.",),
        timelines=(before, after, other),
        graphs=dump.graphs,
        curves=(Curve("Inductor alone", losses, losses), Curve("with domino", close, losses)),
        tiles=explained_tiles(explanation, dump.reports),
        tables=(Table("Numbers", ("variant", "step ms"), (("uncut", "1.0"),)),),
    )


@pytest.fixture(scope="session")
def report(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(data), encoding="utf-8")
    return path
