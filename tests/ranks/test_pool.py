"""A rank that fails makes its test fail, with the reason and in time."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.ranks.pool import Pool, RankError

pytestmark = pytest.mark.xdist_group("ranks")


def raise_on_one(rank: int, world: int) -> None:
    if rank == 1:
        raise ValueError("wrong on rank 1")
    dist.all_reduce(torch.ones(2))


def die_on_one(rank: int, world: int) -> None:
    if rank == 1:
        os._exit(7)


def hang_on_one(rank: int, world: int) -> None:
    if rank == 1:
        time.sleep(600)


def hang_at_first(rank: int, world: int, mark: str) -> int:
    if rank == 1 and not os.path.exists(mark):
        open(mark, "w").close()
        time.sleep(600)
    return number(rank, world, 10)


def number(rank: int, world: int, base: int) -> int:
    total = torch.tensor(base + rank)
    dist.all_reduce(total)
    return int(total)


@pytest.mark.filterwarnings("ignore:.* is asked again")
@pytest.mark.parametrize(
    ("function", "timeout", "said"),
    [
        ("raise_on_one", 60, "wrong on rank 1"),
        ("die_on_one", 60, "rank 1: died with exit code 7"),
        ("hang_on_one", 3, "in hang_on_one"),
    ],
)
def test_a_failure_is_told_and_the_next_run_works(function: str, timeout: float, said: str) -> None:
    with Pool(2) as pool:
        with pytest.raises(RankError, match=said):
            pool.run(f"tests.ranks.test_pool:{function}", timeout=timeout)
        assert pool.run("tests.ranks.test_pool:number", 10) == [21, 21]


def test_a_question_that_hung_is_asked_again_with_a_warning(tmp_path: Path) -> None:
    with Pool(2) as pool, pytest.warns(UserWarning, match="in hang_at_first"):
        mark = str(tmp_path / "mark")
        assert pool.run("tests.ranks.test_pool:hang_at_first", mark, timeout=3) == [21, 21]
