"""Code whose order is not established does not run: Inductor alone orders the graph instead."""

import functools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn
from torch._inductor.graph import GraphLowering
from torch._inductor.output_code import CompiledFxGraph

import domino_compile
from domino_compile import _compat
from domino_compile.agreement.votes import emitted_vote, order_vote
from domino_compile.errors import STRICT
from domino_compile.graph.collectives import Launch
from domino_compile.pipeline import emission
from domino_compile.tools.cli.main import run
from domino_compile.verify import order
from domino_compile.verify.order import check_emitted
from domino_compile.verify.order_certificate import Finding, OrderCertificate, Rule
from tests.agreement import threads
from tests.emitted.harness import fake_world
from tests.paths import FAST_LINK

pytestmark = pytest.mark.xdist_group("emitted")
WIDTH = 16


class Reduced(nn.Module):
    """Row-parallel products, each with an all-reduce; a lone rank's sum is its own part."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + funcol.all_reduce(layer(x).tanh(), "sum", dist.group.WORLD)
        return x


class Refusing:
    """Refuses the code of some graphs, by their place in the order of compiles."""

    def __init__(self, *places: int) -> None:
        self.places, self.seen = places, 0

    def __call__(self, *given: Any) -> OrderCertificate:
        found = check_emitted(*given)
        assert found.established, found.findings
        self.seen += 1
        refused = (Finding(Rule.USE_AFTER_WAIT, 7, "a kernel uses buf3"),)
        return OrderCertificate(found.order, findings=refused * (self.seen - 1 in self.places))


@pytest.fixture(autouse=True)
def _not_strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(STRICT, raising=False)
    torch._dynamo.reset()
    domino_compile.reset_reports()
    yield
    torch._dynamo.reset()


def step(refusing: Callable[..., OrderCertificate], **options: object) -> list[torch.Tensor]:
    """The results and gradients of one step."""
    fake_world()
    torch.manual_seed(0)
    model, x = Reduced(), torch.randn(6, WIDTH)
    chosen = {"slices": 2, "link": FAST_LINK, "columns": 1, "verify": "on", **options}
    with mock.patch.object(emission, "check_emitted", refusing):
        out = torch.compile(model, backend="domino", options=chosen)(x)
        out.square().sum().backward()
    expected = model(x)
    given = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    expected.square().sum().backward()
    wanted = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close([out, *given], [expected, *wanted])
    return given


def test_a_backward_that_is_not_established_is_ordered_by_inductor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusing = Refusing(1)
    with caplog.at_level(logging.ERROR, logger="domino_compile"):
        step(refusing)
    (report,) = domino_compile.reports()
    assert [entry.phase for entry in report.schedules] == ["forward"]
    assert report.code == "not_established" and refusing.seen == 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert "a kernel uses buf3" in line and "backward" in line and "Inductor" in line


def test_a_forward_that_is_not_established_leaves_backward_unordered_too() -> None:
    refusing = Refusing(0)
    step(refusing)
    assert domino_compile.reports()[-1].schedules == [] and refusing.seen == 1


def test_off_checks_nothing() -> None:
    refusing = Refusing(0, 1)
    with mock.patch.object(_compat, "copy_of", side_effect=AssertionError):
        step(refusing, verify="off")
    assert refusing.seen == 0
    assert len(domino_compile.reports()[-1].schedules) == 2


def test_strict_is_an_error() -> None:
    with pytest.raises(Exception, match="emitted order of the forward graph is not established"):
        step(Refusing(0), verify="strict")


@pytest.mark.parametrize("broken", ["check_emitted", "promise_of"])
def test_a_fault_of_the_check_leaves_the_order_to_inductor(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    where = order if broken == "check_emitted" else emission
    fault = mock.Mock(side_effect=KeyError("buf3"))
    monkeypatch.setattr(where, "read" if broken == "check_emitted" else broken, fault)
    caplog.set_level(logging.ERROR, logger="domino_compile")
    step(check_emitted)
    assert domino_compile.reports()[-1].schedules == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert "KeyError: 'buf3'" in line and "Inductor orders this graph alone" in line


def test_code_that_nobody_sees_is_not_run() -> None:
    _compat.install_code_hook()
    covered = GraphLowering.compile_to_module

    @functools.wraps(covered)
    def uncovered(self: GraphLowering) -> object:
        return covered.__wrapped__(self)  # type: ignore[attr-defined]

    with mock.patch.object(GraphLowering, "compile_to_module", uncovered):
        step(check_emitted)
    assert domino_compile.reports()[-1].schedules == []


def test_the_order_is_in_the_certificate_and_is_proved_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step(check_emitted, dump_dir=str(tmp_path))
    folder = tmp_path / "rank_0" / "graph_0"
    text = (folder / "certificate.txt").read_text()
    assert "every collective is waited for" in text and "2 tensors in flight" in text
    assert text.count("all_reduce sum all_reduce_s0") == 1, text
    (forward, _) = json.loads((folder / "certificate.json").read_text())["orders"]
    assert forward["established"]["launches"] == forward["established"]["waits"] == 4
    assert run(["verify", str(tmp_path)]) == 0
    assert "the order of the emitted code (forward, backward)" in capsys.readouterr().out
    code = folder / forward["code"]
    assert str(_compat.cache_folder()) not in code.read_text()
    lines = code.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "wait_tensor.default" in line)
    code.write_text("\n".join([*lines[:first], *lines[first + 1 :]]))
    assert run(["verify", str(tmp_path)]) == 1
    assert "the emitted order of the forward graph" in capsys.readouterr().out


def test_a_refused_order_is_in_the_certificate(tmp_path: Path) -> None:
    step(Refusing(1), dump_dir=str(tmp_path))
    text = (tmp_path / "rank_0" / "graph_0" / "certificate.txt").read_text()
    assert text.startswith("not established: the order of the backward code: line 7")
    assert run(["verify", str(tmp_path)]) == 1


def test_code_from_a_cache_counts_as_missing_if_its_order_is_not_established() -> None:
    """Inductor takes an OSError for a file that is gone, and compiles again."""
    _compat.install_code_hook()
    asked: list[str] = []

    def accepts(code: str) -> bool:
        asked.append(code)
        return emission.accepts(code)

    class Loaded:
        source_code = "def call(args):\n    torch.distributed.barrier()"

    looking = _compat.graph_pass(lambda graph: None, "looks", looks_at_code=True)
    _compat.accept_loaded(accepts)
    try:
        with (
            torch._inductor.config.patch(post_grad_custom_post_pass=looking),
            pytest.raises(OSError, match="not established"),
        ):
            CompiledFxGraph.after_deserialization(Loaded(), None)  # type: ignore[arg-type]
        with pytest.raises(AttributeError):  # of another compile: Inductor's own affair
            CompiledFxGraph.after_deserialization(Loaded(), None)  # type: ignore[arg-type]
    finally:
        _compat.accept_loaded(emission.accepts)
    assert asked == [Loaded.source_code]


def agreed(wanted: list[list[str]], missing: list[str]) -> list[str]:
    """What each of two ranks is told about the order of its code."""
    votes = [
        emitted_vote("forward", {"(0, 1)": order}, why)
        for order, why in zip(wanted, missing, strict=True)
    ]
    return threads.asked(lambda _, rank: votes[rank])


def test_ranks_agree_on_established_code_only() -> None:
    same = ["all_reduce sum a", "all_reduce sum b"]
    assert agreed([same, same], ["", ""]) == ["", ""]
    told, _ = agreed([same, same], ["", "uses buf3"])  # the other rank knows
    assert told == "rank 1: uses buf3"
    assert all(agreed([same, same[::-1]], ["", ""]))


def test_ranks_with_other_orders_of_alike_collectives_do_not_agree() -> None:
    """Slices of a size are alike but for their names: swapped, each would get the other's sum."""
    first, second = (Launch("all_reduce", 64, "(0, 1)", f"all_reduce_s{n}") for n in (0, 1))
    votes = [
        order_vote("forward", wanted, [first, second], ["(0, 1)"])
        for wanted in ([first, second], [second, first])
    ]
    assert all(threads.asked(lambda _, rank: votes[rank]))
    assert threads.asked(lambda *_: votes[1]) == ["", ""]
