"""``domino report`` and the files that ``domino explain`` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domino_compile.tools.timelines import Timeline
from tests.tools.cli.conftest import Domino

SCRIPT = """
import torch, torch.distributed as dist
from tests.emitted.harness import Model, VOCAB

dist.init_process_group("gloo")
model = torch.compile(Model(1))
tokens = torch.randint(0, VOCAB, (4, 8))
model(tokens, tokens).backward()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def test_explain_writes_page_picture_and_trace(
    domino: Domino, script: Path, tmp_path: Path
) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("html", "png", "trace")}
    arguments = [part for kind, path in files.items() for part in (f"--{kind}", str(path))]
    said = domino("explain", "--ranks", "4", "--json", *arguments, str(script))
    assert said.code == 0, said.err
    assert len(said.data()["collectives"]) == 4
    assert all(f"written: {path}\n" in said.err for path in files.values())
    text = files["html"].read_text()
    assert "domino explain: train.py" in text and all(
        f'data-key="0:{row["name"]}"' in text for row in said.data()["collectives"]
    )
    assert "Candidates for graph" in text and "chosen" in text
    assert "predicted, not measured" in text and 'class="tile ' in text
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    events = json.loads(files["trace"].read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["name"] == "thread_name"} == {
        "compute", "wire, group 0"
    }  # fmt: skip


def test_a_dump_is_shown_as_explain_shows_it(
    domino: Domino, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = tmp_path / "dump"
    monkeypatch.setenv("DOMINO_COMPILE_DUMP_DIR", str(dump))
    told = domino("explain", "--ranks", "4", "--slices", "2", "--json", str(script))
    explained = told.data()
    told = domino("report", str(dump), "--json", "--html", str(tmp_path / "r.html"))
    assert told.code == 0, told.err
    assert told.data()["collectives"] == explained["collectives"]
    assert (tmp_path / "r.html").is_file()
    shown = domino("report", str(dump / "rank_0"))
    assert "blocks.0" in shown.out and ": sliced into rows 2+2" in shown.out


def test_options_behind_the_script_are_the_scripts(
    domino: Domino, script: Path, tmp_path: Path
) -> None:
    script.write_text(SCRIPT + "import sys\nprint(sys.argv[1:], dist.get_world_size())\n")
    said = domino("explain", "--ranks", "4", "--json", str(script), "--epochs", "1", "--ranks", "9")
    assert said.code == 0, said.err
    assert "['--epochs', '1', '--ranks', '9'] 4\n" in said.err
    assert f"{script} gets: --epochs 1 --ranks 9\nwarning: --ranks went to the script" in said.err
    assert len(said.data()["collectives"]) == 4


def test_bad_options_are_refused_before_the_script_runs(domino: Domino, script: Path) -> None:
    script.write_text("raise RuntimeError('it ran')")
    for option in (["--device", "H300"], ["--link", "h200-nvlnk-8"]):
        said = domino("explain", *option, str(script))
        assert (
            said.code == 2
            and said.err.count("\n") == 1
            and "did you mean 'H200" in (said.err.replace("h200", "H200"))
        )


def test_dumps_are_identical_wherever_they_and_the_script_are(
    domino: Domino, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for name in ("here", "somewhere/else"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "train.py").write_text(SCRIPT)
        monkeypatch.setenv("DOMINO_COMPILE_DUMP_DIR", str(folder / "dump"))
        assert domino("explain", "--ranks", "4", str(folder / "train.py")).code == 0
        files = [path for path in (folder / "dump").rglob("*") if path.is_file()]
        written.append({str(p.relative_to(folder)): p.read_bytes() for p in files})
    assert written[0] == written[1] and len(written[0]) > 5
    assert not any(str(tmp_path).encode() in content for content in written[0].values())


def test_nothing_is_explained_where_domino_is_switched_off(
    domino: Domino, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOMINO_COMPILE_DISABLE", "1")
    said = domino("explain", "--ranks", "4", str(script))
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert "DOMINO_COMPILE_DISABLE=1" in said.err and "unset it" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: nowhere: no such folder; dump_dir of a compile is expected\n"),
        ([".", "--html", "no/such/folder.html"], "error: no/such/folder.html: cannot be written"),
        ([".", "--html", "/proc/x.html"], "error: /proc/x.html: cannot be written: No such file"),
        ([".", "--png", "."], "error: .: cannot be written: it is a folder"),
    ],
)
def test_bad_input(
    domino: Domino, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said = domino("report", *arguments)
    assert said.code == 2 and said.err.startswith(message) and said.out == ""


def test_an_old_dump_is_named(domino: Domino, tmp_path: Path) -> None:
    folder = tmp_path / "graph_0"
    folder.mkdir()
    (folder / "plan.json").write_text('{"schema_version": 0}')
    said = domino("report", str(tmp_path))
    assert said.code == 2 and said.err.count("\n") == 1
    assert "plan.json: not a dump of this version of domino_compile (plan of schema version 0" in (
        said.err
    )


def test_timelines_of_another_version_are_refused() -> None:
    with pytest.raises(ValueError, match="schema version None"):
        Timeline.from_dict({})
