"""A few of the random runs with faults on real ranks; ``benchmarks/ranks_fuzz.py`` runs many."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ranks.fuzzed import COMPILE_S, TIMEOUT_S, Case, Runs, described, drawn, judged

pytestmark = pytest.mark.xdist_group("rank check")
#: The one that kills a rank is last: the others share their ranks.
FAULTS = ("none", "other package", "half a rates file", "killed while compiling")


@pytest.fixture(scope="module")
def pool() -> Iterator[Runs]:
    with Runs(2) as pool:
        yield pool


@pytest.mark.parametrize("fault", FAULTS)
def test_ranks_end_in_time_and_right(pool: Runs, fault: str, tmp_path: Path) -> None:
    case = replace(drawn(7, ranks=2), fault=fault)
    name, given = "tests.ranks.fuzzed:run", described(case, tmp_path)
    answers = pool.collect(name, given, timeout=TIMEOUT_S + COMPILE_S)
    assert not judged(case, answers), answers


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (["sliced", "wrong"], "a wrong number"),
        (["sliced", "hangs"], "a rank hangs"),
        (["sliced", "inductor"], "ranks do different things"),
        (["sliced", "died"], "died"),
        (["refused", "refused"], "refused without a fault"),
    ],
)
def test_what_is_wrong_is_found(outcomes: list[str], said: str) -> None:
    case: Case = replace(drawn(7, ranks=2), fault="none")
    assert said in judged(case, [{"outcome": x, "why": ""} for x in outcomes])
