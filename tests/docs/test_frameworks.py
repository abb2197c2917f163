"""The page on frameworks says what its examples do, and its table what was measured."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import domino_compile
from benchmarks.frameworks import ACTIONS, BEGIN, CASES, END, PREDICTIONS, RESULTS, table
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "frameworks.md").read_text()
SNIPPET = re.compile(r"<!-- snippet of (\S+) -->\n```python\n(.*?)```", re.DOTALL)
SNIPPETS = SNIPPET.findall(PAGE)


@pytest.mark.parametrize(("example", "snippet"), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_a_snippet_is_part_of_an_example(example: str, snippet: str) -> None:
    """Its lines are lines of the example, in the example's order."""
    text = (ROOT / example).read_text()
    place = 0
    for line in filter(None, (line.strip() for line in snippet.splitlines())):
        place = text.find(line, place) + 1
        assert place, line


def test_every_example_that_was_measured_has_a_snippet() -> None:
    examples = {path.stem for path in (ROOT / "examples").glob("[a-z]*.py")}
    snippets = {name.split("/")[1].removesuffix(".py") for name, _ in SNIPPETS}
    assert snippets == {case.name for case in CASES} & examples


def test_the_table_is_that_of_the_measurements() -> None:
    results, predictions = (json.loads(path.read_text()) for path in (RESULTS, PREDICTIONS))
    names = [case.name for case in CASES]
    assert list(results) == names, "python -m benchmarks.frameworks"
    assert list(predictions) == names, "python -m benchmarks.frameworks_sizes"
    shown = PAGE.split(BEGIN)[1].split(END)[0]
    assert shown == table(results, predictions), "python -m benchmarks.frameworks --table"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_result_adds_up_and_names_its_versions(case: Any) -> None:
    found = json.loads(RESULTS.read_text())[case.name]
    assert set(found["versions"]) == {"torch", *case.packages}
    assert found["error"] or found["captured"] == sum(found[action] for action in ACTIONS) > 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_prediction_is_possible_or_has_a_reason(case: Any) -> None:
    found = json.loads(PREDICTIONS.read_text())[case.name]
    assert set(found["versions"]) == {"torch", *case.packages}
    assert found["reason"] or 0 < found["predicted_ms"] <= found["inductor_ms"]
    for who in () if found["reason"] else ("", "inductor_"):
        assert 0 <= found[f"{who}exposed_ms"] <= found[f"{who}wire_ms"]


class MLP(torch.nn.Module):
    """Four layers: with fewer, a collective in flight is too large a part of the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(64, 512)
        self.up = torch.nn.ModuleList(torch.nn.Linear(512, 2048) for _ in range(4))
        self.down = torch.nn.ModuleList(torch.nn.Linear(2048, 512) for _ in range(4))

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return torch.nn.functional.cross_entropy(x.flatten(0, 1), targets.flatten())


def build_tensor_parallel_model(mesh: DeviceMesh) -> torch.nn.Module:
    plan = {"up.*": ColwiseParallel(), "down.*": RowwiseParallel()}
    return parallelize_module(MLP(), mesh, plan)


def test_the_recipe_for_a_model_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """It runs as it stands on a model of DTensors."""
    text = (ROOT / "docs" / "reports.md").read_text()
    (recipe,) = re.findall(r"<!-- recipe:.*?-->\n```python\n(.*?)```", text, re.DOTALL)
    torch._dynamo.reset()
    domino_compile.reset_reports()
    names = {
        "torch": torch,
        "domino_compile": domino_compile,
        "init_device_mesh": init_device_mesh,
        "build_tensor_parallel_model": build_tensor_parallel_model,
    }
    exec(recipe, names)
    (report,) = domino_compile.reports()
    assert [entry.ranks for entry in report.collectives] == [8] * 8
    assert report.step_peak_bytes > 2 * 8 * 1024 * 512 * 4  # of shapes that were never filled
    assert "exposed" in capsys.readouterr().out
