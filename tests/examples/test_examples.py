"""Every example runs; a new file in examples/ is covered at once."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

from benchmarks import frameworks
from tests.paths import ROOT
from tests.ranks.pool import Pool

FOLDER = ROOT / "examples"
# `demo` measures time and has a test of its own.
EXAMPLES = sorted(p.stem for p in FOLDER.glob("[a-z]*.py") if p.stem != "demo")
OTHERS = [case for case in frameworks.CASES if case.module]

pytestmark = pytest.mark.xdist_group("examples")  # pools of their own, beside those of tests/ranks


def ranks_of(name: str) -> int:
    """The number of ranks an example says it starts."""
    return 4 if "(starts 4 ranks itself)" in (FOLDER / f"{name}.py").read_text() else 2


def needed(name: str) -> list[str]:
    """The packages an example says it needs besides torch."""
    found = re.search(r"It needs `pip install ([\w. -]+)`", (FOLDER / f"{name}.py").read_text())
    return found[1].split() if found else []


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def run_example(rank: int, world: int, name: str) -> None:
    """On a rank: what ``torchrun examples/name.py`` does there."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    case = next((case for case in frameworks.CASES if case.name == name), None)
    if case is None:
        module: Any = importlib.import_module(name)
        module.main(rank, world)
    else:
        run_case(case, rank, world)


def run_combination(rank: int, world: int, name: str) -> None:
    """On a rank: one case of the table."""
    sys.path.insert(0, str(FOLDER))
    run_case(next(case for case in OTHERS if case.name == name), rank, world)


def run_case(case: frameworks.Case, rank: int, world: int) -> None:
    """An example of a framework does what the table of docs/frameworks.md says of it.

    Its graphs run operation by operation, as when the table was measured: they are large, and
    Inductor does not know which framework a graph comes from.
    """
    found = frameworks.measured(case, rank, world)
    recorded = json.loads(frameworks.RESULTS.read_text())[case.name]
    assert bool(found["error"]) == bool(recorded["error"]), found["error"]
    if rank == 0 and recorded.pop("versions") == frameworks.versions(case):
        assert found == recorded, "python -m benchmarks.frameworks"


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, Pool]]:
    pools = {size: Pool(size) for size in (2, 4)}
    yield pools
    for pool in pools.values():
        pool.stop()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(pools: dict[int, Pool], name: str) -> None:
    missing = [package for package in needed(name) if not installed(package)]
    if missing:
        pytest.skip(f"pip install {' '.join(missing)}")
    pools[ranks_of(name)].run("tests.examples.test_examples:run_example", name, timeout=1200)


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_a_combination_does_what_the_table_says(
    pools: dict[int, Pool], case: frameworks.Case
) -> None:
    """Those rows of the table that are no examples; refused ones must still be refused."""
    if reason := frameworks.missing(case):
        pytest.skip(reason)
    pools[case.ranks].run("tests.examples.test_examples:run_combination", case.name, timeout=1200)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_how_to_run_it(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    command = f"torchrun --nproc-per-node {ranks_of(name)} examples/{name}.py"
    assert command in text
    assert f"python examples/{name}.py" in text
