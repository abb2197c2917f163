"""The checker in a compile: what is not established is not run, and a dump can be checked again."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from domino_compile import reports
from domino_compile.errors import STRICT
from domino_compile.passes import slice as slicing
from domino_compile.passes.schedule import reorder
from domino_compile.tools.cli.main import run
from domino_compile.verify.certificate import certificate_json
from domino_compile.verify.order import check_emitted
from domino_compile.verify.order_certificate import Collective, Names, Promise
from domino_compile.verify.order_record import OrderRecord
from tests.report.one_rank import one_of_two, train_once

Step = tuple[torch.Tensor, list[torch.Tensor]]


@pytest.fixture(autouse=True)
def one_of_two_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(STRICT, raising=False)
    with one_of_two():
        yield


def train(**options: object) -> Step:
    return train_once({"verify": "on", **options})


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the slicer swap the first two slices of a product."""
    real = slicing.slice_graph

    def swapped(graph: fx.Graph, *given: Any) -> Any:
        made = real(graph, *given)
        pieces = [n for n in graph.nodes if n.name in ("mm_s0", "mm_s1")]
        users = [list(piece.users) for piece in pieces]
        for piece, other, own in zip(pieces, reversed(pieces), users, strict=True):
            for user in own:
                user.replace_input_with(piece, other)
        reorder(graph, [])
        return made

    monkeypatch.setattr(slicing, "slice_graph", swapped)


def test_what_is_not_established_is_not_run(
    wrong: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "domino_compile")
    found = train(dump_dir=str(tmp_path))
    report = reports()[-1]
    assert report.status == "inductor" and report.code == "not_established"
    assert report.reason.startswith("the joint graph is not established to compute the same: slice")
    assert {c.reason for c in report.collectives if c.tensor_parallel} == {
        "the joint graph is not established to compute the same"
    }
    [record] = [r for r in caplog.records if r.name.startswith("domino_compile")]
    assert "slice is not shown to keep" in record.message and "program.py" in record.message
    assert (tmp_path / "rank_0" / "graph_0" / "joint" / "fault.repro.py").exists()
    assert (
        (tmp_path / "rank_0" / "graph_0" / "certificate.txt")
        .read_text()
        .startswith("not established: ")
    )
    torch._dynamo.reset()
    torch.testing.assert_close(found, train(slices=1))


def test_strict_is_an_error(wrong: None) -> None:
    with pytest.raises(Exception, match="InternalError: in the joint graph, slice is not shown"):
        train(verify="strict")


def test_nothing_is_checked_if_that_is_off(wrong: None) -> None:
    train(verify="off")
    assert reports()[-1].status == "sliced"


def test_a_dump_is_checked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(dump_dir=str(tmp_path))
    text = (tmp_path / "rank_0" / "graph_0" / "certificate.txt").read_text()
    assert text.startswith("established: every result of every pass (")
    assert "joint slice" in text and "backward schedule" in text
    assert run(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("rank_0/graph_0: established: ")
    path = tmp_path / "rank_0" / "graph_0" / "certificate.json"
    data = json.loads(path.read_text())
    [cut] = [one for one in data["passes"] if one["pass"] == "slice"]
    cut["claims"]["relu"][1]["start"] -= 1
    path.write_text(json.dumps(data))
    assert run(["verify", str(tmp_path)]) == 1
    assert "not established" in capsys.readouterr().out


def test_a_fault_of_the_checker_leaves_the_graph_to_inductor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("domino_compile.verify.verifier.check", broken)
    caplog.set_level(logging.WARNING, "domino_compile")
    found = train()
    assert reports()[-1].status == "inductor"
    [record] = [r for r in caplog.records if r.name.startswith("domino_compile")]
    assert "it cannot be checked (RecursionError: too deep)" in record.message
    torch._dynamo.reset()
    torch.testing.assert_close(found, train(slices=1))


def test_a_folder_without_certificates(tmp_path: Path) -> None:
    assert run(["verify", str(tmp_path)]) == 2


def test_a_dump_is_checked_where_nothing_was_compiled(tmp_path: Path) -> None:
    """A rank's part is a copy: what all ranks had is reused while the part is being sent."""
    code = """
class Runner:
    def call(self, args):
        x, = args
        args.clear()
        buf0 = torch.ops.aten.relu.default(x)
        buf1 = torch.ops.domino_compile.own_part.default(buf0, 0, 2, '0')
        buf2 = torch.ops._c10d_functional.all_gather_into_tensor.default(buf1, 2, '0')
        buf3 = buf0; del buf0  # reuse
        torch.ops._c10d_functional.wait_tensor.default(buf2)
        return (buf2, buf3)
"""
    promise = Promise((Collective("gather", "all_gather_into_tensor", (2, "0")),))
    certificate = check_emitted(code, promise, Names())
    assert certificate.established, certificate.findings
    record = OrderRecord("forward", certificate, promise, Names())
    (tmp_path / "forward").mkdir()
    (tmp_path / record.code).write_text(code)
    (tmp_path / "certificate.json").write_text(certificate_json([], orders=[record]))
    command = [sys.executable, "-m", "domino_compile", "verify", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "the order of" in done.stdout, done
