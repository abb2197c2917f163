"""A variant that fails: listed if it does on all ranks, else the end of them; and the rounds.

What needs several ranks is in ``tests/ranks/test_bench.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from domino_compile.tools.bench.world import Place, open_world
from domino_compile.tools.quartiles import middle_half
from tests.tools.bench.failing import FAILING, Uncompiled, compile_in

BASE, OTHER = Uncompiled("inductor"), Uncompiled("domino", 3)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The only rank of a real group."""
    yield Place("cpu", None, rank=0, rendezvous=f"file://{tmp_path}/meeting")
    if dist.is_initialized():
        dist.destroy_process_group()


def test_what_fails_everywhere_is_listed(place: Place) -> None:
    with open_world(place, 1) as world:
        result = compile_in(world, BASE, FAILING, OTHER)
    assert [v.variant for v in result.variants] == ["inductor", "domino:2", "domino:3"]
    assert [v.error for v in result.variants] == ["", "RuntimeError: out of memory", ""]
    assert [v.grad_error for v in result.variants] == [0.0, None, 0.0]


def test_without_the_base_there_is_nothing_to_compare_with(place: Place) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), open_world(place, 1) as world:
        compile_in(world, FAILING, OTHER)


def test_groups_that_other_ranks_may_wait_in_are_left_to_the_end_of_the_process(
    place: Place,
) -> None:
    with pytest.raises(ValueError, match="mine"), open_world(place, 1):
        raise ValueError("mine")
    assert dist.is_initialized()


def test_groups_are_closed_at_the_end(place: Place) -> None:
    with open_world(place, 1):
        assert dist.is_initialized()
    assert not dist.is_initialized()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.cuda
def test_a_rank_without_others_closes_its_group_also_if_it_fails() -> None:
    with pytest.raises(ValueError, match="mine"), open_world(Place("cuda", "h200-nvlink-8"), 2):
        raise ValueError("mine")
    assert not dist.is_initialized()


def test_quartiles_lie_between_the_rounds() -> None:
    assert middle_half([3.0]) == (3.0, 3.0)
    assert middle_half([2.0, 1.0]) == (1.25, 1.75)
    assert middle_half([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
