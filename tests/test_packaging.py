"""The package lists every folder it consists of, and the backend is found by its entry point."""

import re
import tomllib
from importlib.metadata import entry_points

import yaml
from setuptools.config.pyprojecttoml import read_configuration

import domino_compile
from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


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


def test_the_version_is_written_once() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    built = read_configuration(ROOT / "pyproject.toml")["project"]["version"]
    assert built == domino_compile.__version__


def test_the_changelog_and_the_citation_name_the_last_release() -> None:
    """A development version stands between the last release and the next."""
    headings = re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", CHANGELOG, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    last, date = headings[1]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], str(citation["date-released"])) == (last, date)
    release, _, development = domino_compile.__version__.partition(".dev")
    assert development or release == last
    assert tuple(map(int, release.split("."))) >= tuple(map(int, last.split(".")))


def test_hooks_run_what_is_installed() -> None:
    """Commits are checked without a network, by the tools that CI uses."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert (
            hook["language"] == "system"
            and tool in PROJECT["project"]["optional-dependencies"]["dev"]
        )


def test_templates_can_be_read() -> None:
    """The forms have what GitHub demands of each: a name, a description, fields with labels."""
    forms = [p for p in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config"]
    assert len(forms) >= 3
    for form in map(yaml.safe_load, (path.read_text() for path in forms)):
        assert form["name"] and form["description"]
        assert all(field["attributes"]["label"] for field in form["body"])
    assert (ROOT / ".github" / "pull_request_template.md").exists()
