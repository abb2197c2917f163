"""Two real gloo ranks: they agree on every number, and end together when one fails."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from domino_compile.cost.rates_file import USED, load_rates
from domino_compile.links import list_links, load_link
from tests.paths import ROOT
from tests.tools.calibrate.ranks import SCENARIOS, SIZES

pytestmark = pytest.mark.xdist_group("calibrate")


@dataclass(frozen=True)
class Ended:
    """How one rank ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of SCENARIOS, with what its ranks left."""
    folder = tmp_path_factory.mktemp("calibrate")
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.calibrate.ranks", str(folder)],
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return folder


def ended(folder: Path) -> list[Ended]:
    def text(rank: int, kind: str) -> str:
        return (folder / f"rank_{rank}.{kind}").read_text()

    ranks = range(SCENARIOS[folder.name][0])
    return [Ended(int(text(r, "code")), text(r, "out"), text(r, "err")) for r in ranks]


def notes(folder: Path) -> list[Any]:
    """What each rank of a scenario got, all of which ended well and in silence."""
    ranks = ended(folder)
    assert all(rank == Ended(0, "", "") for rank in ranks), ranks
    return [ast.literal_eval((folder / f"rank_{r}.txt").read_text()) for r in range(len(ranks))]


@pytest.fixture
def measured(scenarios: Path) -> Path:
    return scenarios / "measure"


def test_ranks_agree(measured: Path) -> None:
    """On what each of them measured, which differs: no two clocks show the same."""
    first, second = notes(measured)
    (table,), rates, _ = first
    times = [us for curve in table["curves"].values() for _, us in curve["points"]]
    assert len(times) == 3 * len(SIZES) and all(us > 0 for us in times)
    assert rates["rates"] and all(rate > 0 for rate in rates["rates"].values())
    assert first == second


def test_the_table_is_read_by_name(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(measured / "config"))
    table = load_link("cpu-gloo-2")
    assert table in list_links() and table.kind == "measured"
    assert (table.ranks, table.nodes) == (2, 1) and "gloo" in table.source
    assert set(table.curves) == {"all_reduce", "reduce_scatter", "all_gather"}
    for curve in table.curves.values():
        assert [size for size, _ in curve.points] == list(SIZES)
        assert all(a[1] <= b[1] for a, b in pairwise(curve.points))
        assert 0 < curve.floor_us <= curve.points[0][1]
    data = json.loads((measured / "config/domino_compile/links/cpu-gloo-2.json").read_text())
    assert data["schema"] == 1
    (noted, _, raised), _ = notes(measured)
    assert noted[0]["curves"]["all_reduce"]["points"] == table.curves["all_reduce"].points
    for name, at in raised["cpu-gloo-2"].items():
        assert f"{name}: raised to the time of a smaller payload at {at[0]}" in table.note


def test_the_rates_are_read(measured: Path) -> None:
    rates = load_rates(measured / "rates.json")
    assert rates.device_type == "cpu" and set(USED) <= set(rates.rates)
    (_, noted, _), _ = notes(measured)
    assert rates.as_json() == noted
    largest = [m for m in rates.measured if m["what"] == "matmul" and m["dtype"] == "float32"]
    best = max(float(str(m["amount"])) / float(str(m["time_us"])) for m in largest) / 1e6
    assert rates.rates["single_tflops"] == pytest.approx(best)


def test_groups_of_two_in_four_ranks(scenarios: Path) -> None:
    found = notes(scenarios / "pairs")
    assert len(found) == 4 and all(rank == found[0] for rank in found)
    table = load_link(scenarios / "pairs/config/domino_compile/links/pairs.json")
    assert table.ranks == 2 and "2 groups at once" in table.note


def test_a_missing_collective_is_left_out_with_a_note(scenarios: Path) -> None:
    first, second = notes(scenarios / "without_reduce_scatter")
    assert first[0][0]["curves"] == second[0][0]["curves"]
    folder = scenarios / "without_reduce_scatter/config"
    table = load_link(folder / "domino_compile/links/cpu-gloo-2.json")
    assert set(table.curves) == {"all_reduce", "all_gather"}
    assert "reduce_scatter left out, the backend cannot run it" in table.note


def test_what_no_rank_can_do_is_told_to_all_before_measuring(scenarios: Path) -> None:
    for rank in ended(scenarios / "bad_group"):
        assert rank.code == 99
        assert "CalibrateError: group size: 2 ranks cannot be cut into groups of 3" in rank.err


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("command", 1, "error: rank 1: RuntimeError: out of luck\n"),
        ("die", 9, "error: rank 0: "),
    ],
)
def test_a_failure_on_one_rank_ends_all_with_one_line(
    scenarios: Path, what: str, code: int, message: str
) -> None:
    ranks = ended(scenarios / what)
    assert [rank.code for rank in ranks] == [1, code]
    assert all(rank.out == "" for rank in ranks)
    lines = "".join(rank.err for rank in ranks)
    assert lines.startswith(message) and lines.count("\n") == 1
    assert not (scenarios / what / "rates.json").exists()
