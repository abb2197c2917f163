"""Reading dumps back, and saying what is wrong with a folder that is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from domino_compile.tools.html import Dump, DumpError, page, read_dump
from domino_compile.tools.html.data import ReportData


@pytest.fixture
def copy(compiled: object, dump_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dump_folder, tmp_path / "dump"))


def test_what_was_written_is_read(compiled: tuple[object, Dump], dump_folder: Path) -> None:
    dump = compiled[1]
    assert dump.rank == 0 and [report.status for report in dump.reports] == ["sliced"]
    (graph,) = dump.graphs
    assert set(graph.before) == set(graph.after) == {"forward", "backward"}
    assert {row[3] for row in graph.before["forward"]} == {None}
    assert {row[3] for row in graph.after["forward"]} >= {0, 1}
    launches = [row for row in graph.after["backward"] if row[6] == "launch"]
    assert {row[7] for row in launches} == {
        entry.name for entry in dump.reports[0].collectives if entry.phase == "backward"
    }
    for folder in (dump_folder / "rank_0", dump_folder / "rank_0" / "graph_0"):
        assert read_dump(folder) == dump


def test_a_rank_can_be_chosen(copy: Path) -> None:
    (copy / "rank_0").rename(copy / "rank_12")
    assert read_dump(copy).rank == read_dump(copy, 12).rank == 12
    with pytest.raises(DumpError, match="no dump of rank 3 in it; ranks: 12"):
        read_dump(copy, 3)


@pytest.mark.parametrize("name", ["plan.json", "graphs.json"])
def test_another_version_is_named(copy: Path, name: str) -> None:
    path = copy / "rank_0" / "graph_0" / name
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(DumpError, match=rf"{name}: not a dump of this version.*version 99"):
        read_dump(copy)
    path.write_text("{")
    with pytest.raises(DumpError, match="it has another form"):
        read_dump(copy)


def test_no_dump(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="no such folder"):
        read_dump(tmp_path / "missing")
    with pytest.raises(DumpError, match=r"no dump in it; set options=.*dump_dir"):
        read_dump(tmp_path)


def test_without_graphs_there_is_a_report_without_graphs(copy: Path) -> None:
    (copy / "rank_0" / "graph_0" / "graphs.json").unlink()
    assert read_dump(copy).graphs == ()


def test_a_report_of_nothing_is_a_page(compiled: tuple[object, Dump]) -> None:
    from domino_compile import Explanation

    text = page(ReportData("empty", (), Explanation((), ())))
    assert "<h1>empty</h1>" in text and 'id="timeline"' not in text and "bokeh" not in text
