"""Remove what an earlier run of a command left in a folder.

The folder is the user's and may be a whole project. Only files whose names are ours at every level
are removed, and then folders that are empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: What the processes of a run write to its folder, besides their request.
RANK_FILES = r"rank_\d+\.(json|log)"
TIMELINES = r"timelines/(measured|inductor|domino)\.rank_\d+\.json"
#: The folder's only file that a program not ours may well write too: known by what is in it.
RESULT = "result.json"
_KINDS = ("profile", "poc")


def remove_files(folder: Path, *paths: str) -> None:
    """Remove our files, and the folders that are empty afterwards.

    Args:
        folder: The folder to look in; it stays itself.
        paths: Paths of the files in it: a regular expression for every level, a slash between two.
    """
    for path in paths:
        for file in list(_matching(folder, path.split("/"))):
            file.unlink()
            for parent in file.relative_to(folder).parents[:-1]:
                with suppress(OSError):  # it is not empty
                    (folder / parent).rmdir()


def _matching(folder: Path, names: list[str]) -> Iterator[Path]:
    first, *others = names
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if re.fullmatch(first, path.name) is None:
            continue
        if others:
            yield from _matching(path, others)
        elif path.is_file():
            yield path


def remove_result(folder: Path) -> None:
    """Remove the result of an earlier run, so that a run that fails leaves none."""
    path = folder / RESULT
    with suppress(OSError, ValueError):  # there is none, or it is no JSON and so not ours
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("kind") in _KINDS and "schema_version" in data:
            path.unlink()
