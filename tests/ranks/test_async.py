"""``async_op=True`` collectives on ranks: captured, cut, and equal to eager code to the bit."""

import pytest

from tests.ranks.async_programs import PROGRAMS
from tests.ranks.conftest import Pools

pytestmark = pytest.mark.xdist_group("ranks")
RUN = "tests.ranks.async_programs:run"


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", PROGRAMS)
def test_equal_to_eager_code(pools: Pools, name: str, grad: bool) -> None:
    for found in pools[2].run(RUN, name, "eager", grad):
        assert all(found["equal"]), found
        assert found["breaks"] == 0
        assert bool(found["actions"]) == (grad or name != "megatron")


def test_a_column_parallel_backward_is_cut_and_emitted(pools: Pools) -> None:
    for found in pools[2].run(RUN, "megatron", "inductor", True):
        assert all(found["equal"]), found
        assert found["breaks"] == 0
        assert "sliced" in found["actions"], found["summaries"]
