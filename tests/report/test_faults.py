"""A pass that fails: the program stays right, one line says so, and the evidence is on disk."""

import importlib
import logging
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from domino_compile import InternalError, reports, reset_reports
from domino_compile.errors import STRICT
from domino_compile.graph.backup import Backup
from domino_compile.graph.tags import tag_slice
from domino_compile.report.graph_text import readable
from tests.passes import graphs
from tests.report.one_rank import one_of_two, train_once

PASSES = {"normalise": "joint", "slice": "joint", "schedule": "forward"}


@pytest.fixture(autouse=True)
def one_of_two_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(STRICT, raising=False)
    with one_of_two():
        yield


def train(**options: object) -> tuple[Tensor, list[Tensor]]:
    """The loss and the gradients of one step."""
    return train_once(options)


def break_pass(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a pass raise after it has rewritten half of the graph."""
    module = importlib.import_module(f"domino_compile.passes.{name}")
    real: Callable[..., Any] = getattr(module, f"{name}_graph")

    def half(graph: fx.Graph, *args: Any) -> None:
        real(graph, *args)
        last = [n for n in graph.nodes if n.op == "call_function"][-1]
        last.replace_all_uses_with(last.all_input_nodes[0])
        graph.erase_node(last)
        raise RuntimeError("half\nway")

    monkeypatch.setattr(module, f"{name}_graph", half)


def assert_equal(first: tuple[Tensor, list[Tensor]], second: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(first[0], second[0])
    torch.testing.assert_close(first[1], second[1])


@pytest.mark.parametrize("name", PASSES)
def test_the_program_stays_right(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = train(disable=True, lowering="inductor", inductor={"cpp_wrapper": False})
    reset_reports()
    torch._dynamo.reset()
    break_pass(monkeypatch, name)
    caplog.set_level(logging.ERROR, "domino_compile")
    assert_equal(train(dump_dir=str(tmp_path)), expected)
    phase = PASSES[name]
    [record] = [r for r in caplog.records if r.name.startswith("domino_compile")]
    assert "\n" not in record.getMessage()
    assert f"internal fault in the {phase} passes: RuntimeError: half way" in record.getMessage()
    folder = tmp_path / "rank_0" / "graph_0" / phase
    assert str(folder) in record.getMessage()
    written = {path.name for path in folder.glob("fault.*")}
    assert written == {"fault.before.py", "fault.after.py", "fault.txt", "fault.repro.py"}
    assert "RuntimeError: half\nway" in (folder / "fault.txt").read_text()
    [report] = reports()
    assert report.status == ("inductor" if phase == "joint" else "sliced")
    assert "internal fault" in report.summary()


def test_strict_mode_raises_and_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STRICT, "1")
    break_pass(monkeypatch, "slice")
    with pytest.raises(Exception, match="internal fault") as caught:
        train(dump_dir=str(tmp_path))
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, InternalError):
        error = error.__cause__ or error.__context__
    assert isinstance(error, InternalError)
    assert error.dump_folder == str(tmp_path / "rank_0" / "graph_0" / "joint")


@pytest.mark.parametrize("phase", ["joint", "forward"])
def test_the_repro_runs_the_same_passes_on_the_same_graph(
    phase: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        break_pass(patch, "slice" if phase == "joint" else "schedule")
        patch.setattr(logging.getLogger("domino_compile.report.faults"), "disabled", True)
        train(dump_dir=str(tmp_path / "fault"))
    torch._dynamo.reset()
    reset_reports()
    train(dump_dir=str(tmp_path / "good"))
    name = {"joint": "05.slice", "forward": "09.schedule"}[phase]
    good = tmp_path / "good" / "rank_0" / "graph_0" / phase / f"{name}.after.py"
    capsys.readouterr()
    repro = tmp_path / "fault" / "rank_0" / "graph_0" / phase / "fault.repro.py"
    runpy.run_path(str(repro), run_name="__main__")
    printed = capsys.readouterr().out
    assert "# no fault: graph" in printed
    assert statements(printed.rsplit("# no fault", 1)[0]) == statements(good.read_text())


def statements(text: str) -> list[str]:
    """A graph's statements without comments: the repro knows no user lines."""
    lines = (line.split("  #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "def "))]


@pytest.mark.parametrize("make", [graphs.mlp_joint, graphs.attention_forward])
def test_restore_is_exact(make: Callable[[], fx.Graph]) -> None:
    graph = make()
    for node in list(graph.nodes)[4:9]:
        tag_slice(node, 1, node.name)
    inputs, output = graph.find_nodes(op="placeholder"), graph.output_node()
    before = readable(graph), str(graph), [dict(n.meta) for n in graph.nodes]
    results = graphs.run(graph, values := graphs.random_inputs(graph))
    backup = Backup(graph)
    for node in list(graph.nodes)[5:]:
        if node.op == "call_function":
            node.replace_all_uses_with(inputs[0])
            graph.erase_node(node)
    with graph.inserting_before(output):
        graph.call_function(torch.ops.aten.mm.default, (inputs[0], inputs[0]))
    backup.restore(graph)
    graph.lint()
    assert before == (readable(graph), str(graph), [dict(n.meta) for n in graph.nodes])
    assert (graph.find_nodes(op="placeholder"), graph.output_node()) == (inputs, output)
    assert graphs.same(graphs.run(graph, values), results)
    with graph.inserting_before(output):  # new names do not collide with old ones
        names = {graph.call_function(torch.ops.aten.relu.default, (inputs[0],)).name}
    assert len(names | {n.name for n in graph.nodes}) == len(graph.nodes)
