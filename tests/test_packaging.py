"""The package lists every folder it consists of, and the backend is found by its entry point."""

import os
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from domino_compile import _compat

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


@pytest.mark.xdist_group("packaging")
def test_tests_of_a_group_share_a_worker(request: pytest.FixtureRequest) -> None:
    """Else every worker makes the fixtures of every group, and the suite takes twice as long."""
    if "PYTEST_XDIST_WORKER" not in os.environ or not request.config.getoption("loadgroup"):
        pytest.skip("no groups are asked for")
    assert request.node.nodeid.endswith("@packaging"), "constraints.txt says what goes together"


def test_nobody_listens_to_the_structured_trace() -> None:
    """Else torch writes out every graph that any test compiles."""
    _compat.emit_artifact("a test", "text")  # torch looks for a listener when it has something
    assert not _compat.tracing_is_on(), "tests/conftest.py says who"
