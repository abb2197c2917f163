"""Ranks that planned different collectives get an error within seconds, never a hang."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("rank check")

PROGRAM = """
import json, sys
import torch, torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from domino_compile.backend import domino
from domino_compile.errors import RankMismatchError

rank, path, case = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(path, 2))
torch.manual_seed(0)
layer = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8))


def forward(x):
    h = funcol.all_reduce(layer(x), "sum", dist.group.WORLD)
    return layer[1](layer[0](h))


options = {"lowering": "eager", **case[rank]}
absent = options.pop("absent", False)
x = torch.randn(12, 8)
try:
    if absent:
        import time
        time.sleep(20)
    else:
        torch.compile(forward, backend=domino, options=options)(x).sum().backward()
    print("RAN")
except RankMismatchError as error:
    print("REFUSED", error)
sys.stdout.flush()
import os
os._exit(0)  # without the farewell of the process group: the other rank may be gone
"""


def run(folder: Path, case: list[dict[str, Any]]) -> tuple[list[str], float]:
    """Both ranks' last lines, and how long it took."""
    began = time.monotonic()
    store = str(folder / "store")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), store, json.dumps(case)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=240) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(out for out, _ in outputs), [err for _, err in outputs]
    return [out.splitlines()[-1] for out, _ in outputs], time.monotonic() - began


def test_equal_plans_run(tmp_path: Path) -> None:
    outcomes, _ = run(tmp_path, [{"slices": 2}, {"slices": 2}])
    assert outcomes == ["RAN", "RAN"]


def test_different_plans_are_refused_on_every_rank(tmp_path: Path) -> None:
    outcomes, _ = run(tmp_path, [{"slices": 2}, {"slices": 3}])
    for own, outcome in enumerate(outcomes):
        assert outcome.startswith("REFUSED"), outcomes
        assert f"ranks {own} and {1 - own}" in outcome
        assert "slices=3" in outcome  # the option that differs is named
        assert "collective" in outcome


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    outcomes, _ = run(tmp_path, [{"check_timeout_s": 2, "slices": 2}, {"absent": True}])
    assert outcomes[0].startswith("REFUSED")
    assert "rank 1 has not compiled" in outcomes[0]
    assert "check_timeout_s" in outcomes[0]


def test_the_check_can_be_left_out(tmp_path: Path) -> None:
    outcomes, _ = run(tmp_path, [{"check_ranks": False, "slices": 2}] * 2)
    assert outcomes == ["RAN", "RAN"]


def test_a_graph_that_only_one_rank_leaves_alone_is_refused(tmp_path: Path) -> None:
    outcomes, took = run(tmp_path, [{}, {"slices": 2}])
    assert all(outcome.startswith("REFUSED") for outcome in outcomes), outcomes
    assert took < 60
