"""The package lists every folder it consists of, and the backend is found by its entry point."""

import tomllib
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_sub_package_is_listed() -> None:
    found = {path.parent for path in (ROOT / "domino_compile").glob("**/__init__.py")}
    found.add(ROOT / "domino_compile" / "passes")  # glob does not follow the link
    names = {".".join(path.relative_to(ROOT).parts) for path in found}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names


def test_passes_is_one_folder_under_two_names() -> None:
    assert (ROOT / "domino_compile" / "passes").is_symlink()
    assert (ROOT / "domino_compile" / "passes").resolve() == ROOT / "passes"


def test_entry_point() -> None:
    (found,) = entry_points(group="torch_dynamo_backends", name="domino")
    assert found.value == "domino_compile.backend:domino"
