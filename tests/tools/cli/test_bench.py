"""``domino bench``: a small run on gloo ranks, and what is refused before anything is measured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from domino_compile.tools.bench.shapes import BenchError
from tests.tools.bench.test_result import example
from tests.tools.cli.conftest import Domino

CPU = ("bench", "--device", "cpu")


def test_a_run_on_two_ranks(tmp_path: Path) -> None:
    page, turn = tmp_path / "page.html", tmp_path / "turn"
    sizes = ["--layers", "1", "--batch", "2", "--seq", "8", "--rounds", "2", "--steps", "1"]
    sizes += ["--dropout", "0"]
    asked = [*sizes, "--variants", "domino:1x2", "--html", str(page), "--json"]
    asked[:0] = ["--turn", str(turn)]
    done = subprocess.run(
        [sys.executable, "-m", "domino_compile", *CPU, *asked],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["emulated"] is True and found["link"] == "demo-2" and found["tp"] == 2
    inductor, domino = found["variants"]
    assert (inductor["variant"], domino["variant"]) == ("inductor", "domino:1x2")
    assert domino["status"] == "sliced" and domino["columns"] == 2
    assert domino["grad_error"] < 1e-5 and domino["grad_passes"] is True
    assert domino["grad_error_float64"] < 1e-5 and inductor["grad_error_ratio"] == 1
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
        (["--tp", "0"], "--tp must be at least 2, not 0"),
        (["--json", "/missing/x.json"], "/missing/x.json: cannot be written: no such folder"),
        (["--json", "/tmp"], "/tmp: cannot be written: it is a folder"),
        (["--html", "/proc/x.html"], "/proc/x.html: cannot be written: No such file"),
        (["--turn", "/missing/turn"], "/missing/turn: cannot be written: no such folder"),
    ],
)
def test_bad_input_is_refused_at_once(domino: Domino, arguments: list[str], message: str) -> None:
    said = domino(*CPU, *arguments)
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and message in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize("asked", ["--json", "--html"])
def test_the_result_is_printed_before_a_file_that_cannot_be_written(
    domino: Domino, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr("domino_compile.tools.cli.bench._run", lambda *_: example())
    said = domino(*CPU, asked, "/dev/full")
    assert said.code == 1 and "inductor" in said.out and "12.80" in said.out
    assert said.err.splitlines()[-1] == "error: No space left on device"
    assert "Traceback" not in said.err


def test_json_is_written_before_a_page_that_cannot_be(
    domino: Domino, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("domino_compile.tools.cli.bench._run", lambda *_: example())
    said = domino(*CPU, "--json", str(tmp_path / "x.json"), "--html", "/dev/full")
    assert said.code == 1 and len(json.loads((tmp_path / "x.json").read_text())["variants"]) == 4


def test_domino_alone_cannot_be_measured_where_it_is_switched_off(
    domino: Domino, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOMINO_COMPILE_DISABLE", "1")
    said = domino(*CPU, "--variants", "domino:2")
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("error: DOMINO_COMPILE_DISABLE=1") and "unset it" in said.err


RANKS = """
import os, signal, torch
from datetime import timedelta
from domino_compile.tools.bench import run, world as worlds
from domino_compile.tools.bench.result import VariantResult
from domino_compile.tools.cli import main

class Runner:
    first = {"loss": torch.ones(1)}
    def __init__(self, variant, workload, world, *_):
        self.variant, self.result = variant, VariantResult(variant.label)
        if variant.domino:
            if os.environ["RANK"] in os.environ["FAILING"]:
                raise RuntimeError("out of memory\\nand a stack")
            world.line_up()  # as in a collective of the step

signal.alarm(100)  # a rank that still waits is not left behind
run.Runner = Runner
worlds.OTHERS_TIMEOUT = timedelta(seconds=1)
main()
"""


@pytest.mark.parametrize("failing", ["0", "1"])
def test_a_variant_that_fails_on_one_rank_ends_all_of_them(tmp_path: Path, failing: str) -> None:
    script = tmp_path / "bench.py"
    script.write_text(RANKS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *torchrun, *CPU, "--variants", "domino,domino:2"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"FAILING": failing, "OMP_NUM_THREADS": "1"},
        timeout=450,
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    message = rf"error: rank {failing}: domino failed: RuntimeError: out of memory"
    assert re.fullmatch(message, errors[0])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError("no more\nand a stack"), 1, "rank 0: MemoryError: no more"),
        (BenchError("--tp 4 needs 4 ranks"), 2, "--tp 4 needs 4 ranks"),
    ],
)
def test_an_error_of_any_other_kind_on_a_rank_is_one_line(
    domino: Domino,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    said: str,
) -> None:
    def run(*_: object) -> None:
        raise error

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("domino_compile.tools.bench.run.run", run)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    ended = domino(*CPU)
    assert (ended.code, ended.err) == (code, f"error: {said}\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", [[], ["--device", "cuda"]])
def test_without_a_gpu_it_says_what_works(domino: Domino, device: list[str]) -> None:
    said = domino("bench", *device)
    assert said.code == 2 and "domino bench --device cpu" in said.err
