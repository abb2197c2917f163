"""``domino bench``: a small run on gloo ranks, and what is refused before anything is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Domino

CPU = ("bench", "--device", "cpu")


def test_a_run_on_two_ranks(tmp_path: Path) -> None:
    page, turn = tmp_path / "page.html", tmp_path / "turn"
    sizes = ["--layers", "1", "--batch", "2", "--seq", "8", "--rounds", "2", "--steps", "1"]
    asked = [*sizes, "--variants", "domino:1x2", "--html", str(page), "--json"]
    asked[:0] = ["--turn", str(turn)]
    done = subprocess.run(
        [sys.executable, "-m", "domino_compile", *CPU, *asked],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["emulated"] is True and found["link"] == "demo-2" and found["tp"] == 2
    inductor, domino = found["variants"]
    assert (inductor["variant"], domino["variant"]) == ("inductor", "domino:1x2")
    assert domino["status"] == "sliced" and domino["columns"] == 2
    assert domino["grad_error"] < 1e-5
    assert all(v["step_ms"] > 0 and v["wire_ms"] > 0 for v in (inductor, domino))
    assert "Emulated link" in page.read_text(encoding="utf-8")
    assert turn.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gpt3-6b"], "did you mean 'gpt3-6.7b'"),
        (["--tp", "3"], "heads=8 cannot be divided among --tp 3"),
        (["--link", "demo2"], "did you mean 'demo-2'"),
        (["--variants", "dominos"], "did you mean 'domino'"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--json", "/missing/x.json"], "no such folder"),
        (["--turn", "/missing/turn"], "no such folder"),
    ],
)
def test_bad_input_is_refused_at_once(domino: Domino, arguments: list[str], message: str) -> None:
    said = domino(*CPU, *arguments)
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and message in said.err and said.err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", [[], ["--device", "cuda"]])
def test_without_a_gpu_it_says_what_works(domino: Domino, device: list[str]) -> None:
    said = domino("bench", *device)
    assert said.code == 2 and "domino bench --device cpu" in said.err
