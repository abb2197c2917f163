"""How a product is computed is the same on all ranks of a mesh."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from domino_compile.gemm.choices import Question, choose
from domino_compile.gemm.cublaslt import Problem
from domino_compile.gemm.tune import Way
from tests.ranks.conftest import Pools

pytestmark = pytest.mark.xdist_group("ranks")


def chosen(rank: int, world: int) -> list[float]:
    """What a rank of a mesh is told, asked twice, where each would decide something of its own."""
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("rows", "columns"))
    groups = [mesh.get_group(name).group_name for name in ("rows", "columns")]
    operand = torch.ones(64, 64, dtype=torch.bfloat16)
    problem = Problem.of(operand, operand)
    assert problem is not None
    question = Question(problem, 16, "a device", 1)
    decisions = ((Way(None, base + rank, 0.0),) for base in (10.0, 20.0))
    return [choose(question, groups, lambda own=own: own)[0].alone_us for own in decisions]


def test_all_ranks_of_a_mesh_are_told_what_its_first_decided(pools: Pools) -> None:
    assert pools[4].run("tests.ranks.test_choices:chosen") == [[10.0, 10.0]] * 4
