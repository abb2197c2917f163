"""`domino calibrate`: what it refuses, how it says how to start it, what it prints."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from domino_compile.links import LinkTable, load_link, save_link
from domino_compile.links.table import Curve
from domino_compile.tools.cli.calibrate import _show
from tests.tools.cli.conftest import Domino


def test_without_torchrun_it_says_how_to_start_it(domino: Domino) -> None:
    said = domino("calibrate", "--sizes", "1M", "--group-size", "2,4", "--device", "cpu", "--json")
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1
    line = "torchrun --nproc-per-node 4 -m domino_compile calibrate"
    arguments = "--sizes 1M --group-size 2,4 --device cpu --json"
    assert f"{line} {arguments} (or, gloo on the CPU alone, add: --ranks 4)" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sizes 3x", "sizes: cannot read '3x'"),
        ("--group-size 1", "group size: must be a whole number of at least 2"),
        ("--ranks 3 --group-size 2", "3 ranks cannot be cut into groups of 2"),
        ("--ranks 2 --device cuda", "--ranks is for the CPU"),
        ("--ranks 0", "--ranks"),
        ("--rounds 0", "--rounds"),
        ("--timeout 0", "--timeout"),
        ("--round-ms 0", "--round-ms"),
        ("--timeout nan", "'--timeout': 'nan' is not a number"),
        ("--timeout inf", "'--timeout': inf is not in the range"),
        ("--timeout 1e300", "'--timeout': 1e+300 is not in the range"),
        ("--round-ms nan", "'--round-ms': 'nan' is not a number"),
        ("--round-ms inf", "'--round-ms': inf is not in the range"),
        ("--name demo-2", "the package has a table called 'demo-2'"),
        ("--name ../x", "name: use letters"),
        ("--ranks 2 --out /proc/nowhere/x.json", "cannot write /proc/nowhere/x.json"),
        ("--ranks 2 --rates-out /proc/nowhere/x.json", "cannot write /proc/nowhere/x.json"),
        ("--ranks 2 --out /tmp", "is a directory"),
        ("--group-size 2,4 --out x.json", "--out names one file"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    domino: Domino, arguments: str, message: str
) -> None:
    said = domino("calibrate", "--device", "cpu", *arguments.split())
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and message in said.err and said.err.count("\n") == 1


def test_ranks_cannot_be_started_by_ranks(domino: Domino, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    said = domino("calibrate", "--ranks", "2")
    assert said.code == 2 and "leave it out under torchrun" in said.err


@pytest.mark.skipif("CUDA_VISIBLE_DEVICES" in os.environ, reason="there may be a GPU")
def test_a_gpu_that_is_not_there(domino: Domino) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    said = domino("calibrate", "--device", "cuda")
    assert said.code == 2 and "no GPU here; measure gloo on the CPU" in said.err


def result(folder: Path) -> dict[str, Any]:
    curve = {"floor_us": 1.0, "size_bytes": [65536], "time_us": [100.0], "raised_bytes": []}
    link = {
        "name": "mine",
        "file": str(folder / "links" / "mine.json"),
        "ranks": 2,
        "nodes": 1,
        "source": "a test " * 20,
        "note": "a note",
        "collectives": dict.fromkeys(("all_reduce", "reduce_scatter", "all_gather"), curve),
    }
    rates = {"device": "a processor", "rates": {"half_tflops": 0.5}, "file": "/x/rates file.json"}
    return {"emulated": False, "links": [link], "rates": rates}


@pytest.mark.parametrize("width", [60, 120])
def test_what_is_printed_fits_and_names_the_files(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    user_folder: Path,
    tmp_path: Path,
    width: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    found = result(user_folder)
    _show(found)
    out = capsys.readouterr().out
    tables = out.partition("link table: ")[0]
    assert max(map(len, tables.splitlines())) <= width
    assert "64 KiB" in tables and "0.100" in tables and "0.655" in tables
    assert f"link table: {user_folder}/links/mine.json\n" in out
    assert 'options={"link": "mine"}' in out
    assert "DOMINO_COMPILE_RATES='/x/rates file.json'" in out
    found["links"][0]["file"] = "/elsewhere/mine.json"
    _show(found)
    assert 'options={"link": "/elsewhere/mine.json"}' in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    table = LinkTable("mine", 2, 1, "a test", {"all_reduce": Curve(((1024, 2.0),), 1.0)})
    save_link(table, "mine.txt")
    found["links"][0]["file"] = "mine.txt"
    _show(found)
    named = re.search(r'options={"link": "(.*)"}', capsys.readouterr().out)
    assert named is not None and load_link(named[1]) == table
    monkeypatch.chdir("/")
    assert load_link(named[1]) == table
    found["links"] = []
    _show(found)
    assert "One rank has no link to measure" in " ".join(capsys.readouterr().out.split())
