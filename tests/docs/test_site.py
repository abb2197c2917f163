"""The site has every page and every public name, and its picture is that of the code."""

import re
import runpy
from typing import Any

import pytest

import domino_compile
from domino_compile import errors
from tests.paths import ROOT
from tests.test_packaging import PROJECT

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def architecture() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "site" / "architecture.py"))


def test_the_reference_names_all_that_is_public() -> None:
    text = (DOCS / "api.md").read_text()
    documented = {name.rpartition(".")[2] for name in re.findall(r":: (domino_compile\S+)", text)}
    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DominoError)
    }
    assert {*domino_compile.__all__, *ours} <= documented


def test_every_guide_is_in_the_table_of_contents() -> None:
    contents = (DOCS / "index.md").read_text()
    for guide in DOCS.glob("*.md"):
        assert guide.stem == "index" or re.search(rf"^{guide.stem}$", contents, re.MULTILINE), guide


def test_the_picture_is_that_of_the_code(architecture: dict[str, Any]) -> None:
    assert architecture["PICTURE"].read_text() == architecture["picture"](), "run: make picture"
    assert architecture["PAGE"].read_text() == architecture["page"](), "run: make picture"


def test_the_picture_shows_every_package(architecture: dict[str, Any]) -> None:
    drawn = set(re.findall(r"<g><title>(\S+)</title>", architecture["picture"]()))
    packages = PROJECT["tool"]["setuptools"]["packages"]
    names = {name.removeprefix("domino_compile.") for name in packages if "." in name}
    assert names - {"tools"} <= drawn


def test_arrows_that_follow_from_others_are_left_out(architecture: dict[str, Any]) -> None:
    edges = {name: frozenset(targets) for name, targets in {"a": "bc", "b": "c", "c": ""}.items()}
    assert architecture["reduced"](edges) == {**edges, "a": frozenset("b")}
    assert architecture["rows"](edges) == [["c"], ["b"], ["a"]]


def test_the_readme_of_the_tests_describes_each_folder() -> None:
    lines = (ROOT / "tests" / "README.md").read_text().splitlines()
    described = {line.split("`")[1].rstrip("/") for line in lines if line.startswith("| `")}
    folders = {"tests"}
    for path in (ROOT / "tests").rglob("*"):
        parts = path.relative_to(ROOT).parent.parts
        if path.is_file() and "__pycache__" not in parts and parts[1:2] != ("golden",):
            folders.update("/".join(parts[:end]) for end in range(1, len(parts) + 1))
    assert described == folders | {"tests/golden"}
