"""What an earlier run left is removed, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from domino_compile.tools.profiling.earlier import (
    RANK_FILES,
    TIMELINES,
    remove_files,
    remove_result,
)


def files(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("{}")


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_our_names_are_removed(tmp_path: Path) -> None:
    ours = ["timelines/measured.rank_0.json", "timelines/domino.rank_12.json", "rank_0.json"]
    users = ["timelines/mine.json", "timelines/domino.rank_0.json.bak", "rank_0.py", "a/rank_0.log"]
    files(tmp_path, *ours, *users)
    (tmp_path / "rank_1.log").mkdir()
    remove_files(tmp_path, RANK_FILES, TIMELINES)
    assert left(tmp_path) == set(users) and (tmp_path / "rank_1.log").is_dir()


def test_folders_that_get_empty_go_as_well(tmp_path: Path) -> None:
    files(tmp_path, "timelines/measured.rank_0.json")
    remove_files(tmp_path, TIMELINES)
    assert list(tmp_path.iterdir()) == []
    remove_files(tmp_path / "missing", TIMELINES)


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ('{"schema_version": 1, "kind": "poc"}', True),
        ('{"schema_version": 1, "kind": "profile"}', True),
        ('{"accuracy": 0.9}', False),
        ('["poc"]', False),
        ("accuracy 0.9", False),
    ],
)
def test_a_result_is_known_by_its_content(tmp_path: Path, text: str, ours: bool) -> None:
    (tmp_path / "result.json").write_text(text)
    remove_result(tmp_path)
    assert (tmp_path / "result.json").exists() != ours
    remove_result(tmp_path / "missing")
