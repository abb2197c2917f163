"""What a user sees of a compile from outside: files, structured trace, log. Real processes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from domino_compile.report import CompileReport

PROGRAM = Path(__file__).parent / "program.py"
FILES = {
    "joint/01.normalise.after.py",
    "joint/01.normalise.before.py",
    "joint/01.normalise.ops.txt",
    "joint/03.materialise.after.py",
    "joint/03.materialise.before.py",
    "joint/03.materialise.ops.txt",
    "joint/05.slice.after.py",
    "joint/05.slice.before.py",
    "joint/05.slice.ops.txt",
    "joint/08.relayout.after.py",
    "joint/08.relayout.before.py",
    "joint/08.relayout.ops.txt",
    "certificate.json",
    "certificate.txt",
    "plan.json",
    "graphs.json",
    "report.txt",
} | {
    f"{phase}/{name}"
    for phase in ("forward", "backward")
    for name in (
        "09.schedule.after.py",
        "09.schedule.before.py",
        "09.schedule.ops.txt",
        "09.schedule.txt",
        "12.pin.after.py",
        "12.pin.before.py",
        "12.pin.ops.txt",
        "emitted.py",
        "order.json",
        "order.txt",
    )
}


@dataclass
class Run:
    folder: Path
    process: subprocess.Popen[str]

    def output(self) -> str:
        out, err = self.process.communicate(timeout=900)
        assert self.process.returncode == 0, err
        return out + err

    def dump(self) -> dict[str, str]:
        root = self.folder / "dump"
        return {
            path.relative_to(root).as_posix(): path.read_text()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


def start(folder: Path, options: dict[str, object], **environment: str) -> Run:
    folder.mkdir()
    command = [sys.executable, str(PROGRAM), json.dumps(options)]
    env = os.environ | {"DOMINO_COMPILE_STRICT": "1", "PYTHONWARNINGS": "ignore"} | environment
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return Run(folder, process)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str, Run, str]:
    """Two runs through Inductor that differ in folder, hash seed and what else is recorded."""
    base = tmp_path_factory.mktemp("runs")
    trace = base / "trace"
    options = {"dump_dir": "dump", "verify": "on"}
    first = start(base / "one", options, PYTHONHASHSEED="1", TORCH_TRACE=str(trace))
    second = start(base / "two", options, PYTHONHASHSEED="2", TORCH_LOGS="+domino_compile")
    first.output()
    log = second.output()
    return first, "".join(p.read_text() for p in trace.iterdir()), second, log


@pytest.mark.xdist_group("inspect")
def test_dumps_are_complete_and_the_same_bytes_in_every_run(
    runs: tuple[Run, str, Run, str],
) -> None:
    first, _, second, _ = runs
    dump = first.dump()
    assert dump == second.dump()
    assert {name.removeprefix("rank_0/graph_0/") for name in dump if "graph_0" in name} == FILES
    alone = {name.removeprefix("rank_0/graph_1/") for name in dump if "graph_1" in name}
    assert alone == {"plan.json", "report.txt"}
    assert not any(re.search(r"0x[0-9a-f]{6,}", text) for text in dump.values())


@pytest.mark.xdist_group("inspect")
def test_the_trace_holds_every_artefact(runs: tuple[Run, str, Run, str]) -> None:
    first, trace, _, _ = runs
    names = {
        record["artifact"]["name"]
        for line in trace.splitlines()
        if (match := re.search(r"(\{.*\})\s*$", line))
        and "artifact" in (record := json.loads(match.group(1)))
    }
    wanted = {f"domino_compile/{name.removeprefix('rank_0/')}" for name in first.dump()}
    assert wanted <= names
    assert "How each collective is hidden:" in trace


@pytest.mark.xdist_group("inspect")
def test_torch_logs_tells_what_was_done_and_why(runs: tuple[Run, str, Run, str]) -> None:
    log = runs[3]
    assert re.findall(r"\bI\d{4} .*\] graph \d+: (.*)", log) == [
        "sliced into rows 2+2; collectives: 4 sliced",
        "left to Inductor alone (no collective in this graph); collectives: none",
    ]
    for stage in ("joint: 05.slice", "forward: 09.schedule", "backward: 12.pin"):
        assert re.search(rf"graph 0 {stage} took [\d.]+ ms, \d+ -> \d+ nodes", log)


@pytest.mark.xdist_group("inspect")
def test_the_plan_reads_back(runs: tuple[Run, str, Run, str]) -> None:
    text = runs[0].dump()["rank_0/graph_0/plan.json"]
    report = CompileReport.from_dict(json.loads(text))
    assert report.to_json() == text
    assert report.axis == ["tokens[0]"]
    assert [entry.phase for entry in report.schedules] == ["forward", "backward"]
    with pytest.raises(ValueError, match="schema version 0"):
        CompileReport.from_dict(json.loads(text) | {"schema_version": 0})


@pytest.mark.xdist_group("inspect")
def test_nothing_is_printed_by_default(tmp_path: Path) -> None:
    run = start(tmp_path / "quiet", {"lowering": "eager"})
    assert run.output() == ""
    assert list(run.folder.iterdir()) == []


def _a_file(path: Path) -> str:
    path.write_text("")
    return str(path)


def _below_a_file(path: Path) -> str:
    path.write_text("")
    return str(path / "dump")


@pytest.mark.parametrize("make", [_a_file, _below_a_file])
def test_a_bad_dump_dir_is_an_option_error_before_any_compile(
    tmp_path: Path, make: Callable[[Path], str]
) -> None:
    import torch

    from domino_compile import OptionError

    model = torch.compile(
        torch.nn.Linear(2, 2), backend="domino", options={"dump_dir": make(tmp_path / "file")}
    )
    with pytest.raises(OptionError, match=r"^dump_dir: got '.*', which cannot be written to: "):
        model(torch.randn(2, 2))
    torch._dynamo.reset()
