"""Inductor's caches: a second process takes our result from them; a change of ours misses them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.environment import CACHES
from tests.paths import ROOT

pytestmark = pytest.mark.xdist_group("cache")

PROGRAM = """
import json, sys
import torch, torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn
from torch._dynamo.utils import counters
from domino_compile import _compat

_compat.start_fake_group(2)
torch.manual_seed(0)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        h = nn.functional.dropout(torch.relu(self.up(x)), 0.5)
        return x + funcol.all_reduce(self.down(h), "sum", dist.group.WORLD)


import domino_compile
from domino_compile.backend import domino
layer = Layer()
program = torch.compile(layer, backend=domino, options=json.loads(sys.argv[1]))
x = torch.randn(6, 16, requires_grad=True)
torch.manual_seed(1)
loss = program(x).square().sum()
if "forward only" not in sys.argv:
    loss.backward()
(report,) = domino_compile.reports()
print(json.dumps({
    "where": domino_compile.__file__,
    "loss": float(loss),
    "grad": 0.0 if layer.up.weight.grad is None else float(layer.up.weight.grad.double().norm()),
    "hit": counters["inductor"]["fxgraph_cache_hit"],
    "miss": counters["inductor"]["fxgraph_cache_miss"],
    "bypass": counters["inductor"]["fxgraph_cache_bypass"],
    "status": report.status,
    "slices": report.slices,
    "phases": sorted(s.phase for s in report.schedules),
}))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that a test may change."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "domino_compile", folder / "domino_compile", symlinks=False)
    return folder


@pytest.fixture(scope="module")
def first(package: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The cache folder and the first process's result."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, run(package, cache, {"slices": 2})


def run(
    package: Path, cache: Path, options: dict[str, Any], *more: str, joint_cached: bool = True
) -> dict[str, Any]:
    """Compile and run one step in a process of its own."""
    env = {k: v for k, v in os.environ.items() if k not in CACHES}
    path = os.pathsep.join([str(package), env["PYTHONPATH"]])
    env |= {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": path}
    env |= {"TORCHINDUCTOR_AUTOGRAD_CACHE": str(int(joint_cached))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(options), *more],
        env=env,
        cwd=package,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result.pop("where").startswith(str(package))
    return result


def test_a_first_process_compiles(first: tuple[Path, dict[str, Any]]) -> None:
    _, result = first
    assert (result["hit"], result["miss"], result["bypass"]) == (0, 2, 0)
    assert (result["status"], result["slices"]) == ("sliced", ["3", "3"])


def test_a_second_process_hits(package: Path, first: tuple[Path, dict[str, Any]]) -> None:
    """The same numbers and the same report, nothing compiled."""
    cache, before = first
    result = run(package, cache, {"slices": 2})
    assert (result["hit"], result["miss"]) == (2, 0)
    for name in ("loss", "grad", "status", "slices", "phases"):
        assert result[name] == before[name], name
    assert result["phases"] == ["backward", "forward"]


def test_a_program_without_a_plan_is_compiled_anew(
    package: Path, first: tuple[Path, dict[str, Any]]
) -> None:
    """A cache that came from another machine has no plans, which ranks must compare."""
    cache, before = first
    plans = list((cache / "domino_compile").glob("*.json"))
    assert plans
    for path in plans:
        path.unlink()
    for _ in range(2):
        result = run(package, cache, {"slices": 2})
        for name in ("loss", "grad", "status", "slices", "phases"):
            assert result[name] == before[name], name
    assert (result["hit"], result["miss"]) == (2, 0)


def test_backward_is_reported_whoever_compiled_it(package: Path, tmp_path: Path) -> None:
    """One process compiles forward, one has it from the cache and compiles backward, one neither.

    The joint graph is never cached: its passes run in each.
    """
    for number, more in enumerate((["forward only"], [], [])):
        result = run(package, tmp_path, {"slices": 2}, *more, joint_cached=False)
        assert (result["hit"], result["miss"]) == ((0, 1), (1, 1), (2, 0))[number]
        assert result["phases"] == ["backward", "forward"][number == 0 :]


def test_another_option_misses(package: Path, first: tuple[Path, dict[str, Any]]) -> None:
    result = run(package, first[0], {"slices": 3})
    assert (result["hit"], result["miss"]) == (0, 2)
    assert result["slices"] == ["2", "2", "2"]


def test_what_shows_graphs_is_compiled_anew(
    package: Path, first: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """A dump has graphs to show, also the second time; kernels come from the cache."""
    cache, before = first
    kernels, dump, dumps = set(cache.rglob("*.so")), tmp_path / "dump", []
    for _ in range(2):
        result = run(package, cache, {"slices": 2, "dump_dir": str(dump)})
        assert (result["hit"], result["loss"]) == (0, before["loss"])
        files = [p for p in dump.rglob("*") if p.is_file()]
        dumps.append({str(p.relative_to(dump)): p.read_text() for p in files})
        shutil.rmtree(dump)
    assert dumps[0] == dumps[1]
    assert "rank_0/graph_0/joint/05.slice.after.py" in dumps[1]
    assert kernels == set(cache.rglob("*.so"))


def test_a_changed_pass_misses(package: Path, first: tuple[Path, dict[str, Any]]) -> None:
    source = package / "domino_compile" / "passes" / "slice.py"
    text = source.read_text()
    source.write_text(text + "\n# changed\n")
    try:
        result = run(package, first[0], {"slices": 2})
    finally:
        source.write_text(text)
    assert (result["hit"], result["miss"]) == (0, 2)
    assert result["loss"] == first[1]["loss"]
