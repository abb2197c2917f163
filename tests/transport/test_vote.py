"""Ranks that would carry collectives in different ways all use NCCL, and none hangs."""

import time
from collections.abc import Mapping, Sequence

import pytest

from domino_compile.agreement.votes import Vote, groups_in_order, transport_vote
from domino_compile.graph.collectives import Launch
from domino_compile.report import CompileReport
from tests.agreement.threads import asked

SLOT, OTHER, NCCL = "gathered slot 0 of 1024 bytes", "inbox slot 0 of 1024 bytes", ""


def told(ways: Sequence[str], mesh: Sequence[Mapping[str, tuple[int, ...]]] = ()) -> list[str]:
    """What the ranks are told, given how each carries one gather of every group of its own."""

    def vote(report: CompileReport, rank: int) -> Vote:
        groups = groups_in_order(report)
        sent = [Launch("all_gather_into_tensor", 64, group, "gather") for group in groups]
        return transport_vote("forward", [(launch, ways[rank]) for launch in sent], groups)

    began = time.monotonic()
    answers = asked(vote, len(ways), mesh)
    assert time.monotonic() - began < 10
    return answers


@pytest.mark.parametrize("way", [SLOT, NCCL])
def test_ranks_that_do_the_same_do_it(way: str) -> None:
    assert told([way, way, way]) == ["", "", ""]


@pytest.mark.parametrize("other", [OTHER, NCCL])
def test_ranks_that_differ_use_nccl(other: str) -> None:
    """Also if one rank's GPUs or launcher leave it no choice."""
    first, second = told([SLOT, other])
    assert first
    # A rank without any copies uses NCCL anyway and need not be told.
    assert bool(second) == bool(other)


def test_a_difference_in_one_group_of_a_mesh_reaches_the_others() -> None:
    """Rank 1 differs from rank 0. Ranks 2 and 3 learn it from the groups that they share."""
    rows, columns = ((0, 1), (2, 3)), ((0, 2), (1, 3))
    mesh = [{"row": rows[rank // 2], "column": columns[rank % 2]} for rank in range(4)]
    assert all(told([SLOT, OTHER, SLOT, SLOT], mesh))
    assert told([SLOT] * 4, mesh) == [""] * 4
