"""Two real gloo ranks through the emulated backend; what they check is in ranks.py."""

import pytest

from tests.emulate.ranks import CHECKS, SIZE
from tests.ranks.pool import Pool

Results = list[dict[str, str]]
pytestmark = pytest.mark.xdist_group("examples")  # where a pool's parent has torch loaded already


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Per rank, what each check said."""
    rendezvous = tmp_path_factory.mktemp("ranks") / "rendezvous"
    with Pool(SIZE) as pool:
        return pool.run("tests.emulate.ranks:run_checks", str(rendezvous), timeout=720)


@pytest.mark.parametrize("name", CHECKS)
def test_on_two_ranks(results: Results, name: str) -> None:
    said = [rank.get(name, "did not run") for rank in results]
    assert said == ["ok"] * SIZE, "\n".join(said)
