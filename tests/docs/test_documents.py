"""The guides say what is so: the options table, the excerpts, the links, the names of files."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import decision, will_it_help
from domino_compile.options import PASS_NAMES, markdown
from domino_compile.pipeline.order import title
from domino_compile.report import SCHEMA_VERSION, CompileReport
from tests.paths import ROOT

DOCUMENTS = sorted(
    path
    for folder in (".", ".github", "docs", "tests", "domino_compile/links")
    for path in (ROOT / folder).glob("*.md")
)
EXCERPT = re.compile(r"<!-- excerpt of (\S+) -->\n```\w*\n(.*?)\n```", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)]*))?\)")

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))


def test_the_options_table_is_that_of_the_options() -> None:
    begin = "<!-- begin: python -m domino_compile.options -->\n"
    table = (ROOT / "README.md").read_text().split(begin)[1].split("<!-- end -->")[0]
    assert table.strip() == markdown().strip(), "paste: python -m domino_compile.options"


def test_the_table_of_gains_is_that_of_the_results() -> None:
    page = (ROOT / "README.md").read_text()
    assert page == will_it_help.rendered(page), "python -m benchmarks.will_it_help"


def test_the_worked_example_is_that_of_a_measured_job() -> None:
    page = decision.PAGE.read_text()
    assert page == decision.rendered(page), "python -m benchmarks.decision"


def test_the_package_is_not_named_where_pip_would_look_for_it() -> None:
    """It is not on an index: `pip install domino-compile` would fetch nothing, or a stranger's."""
    for path in [*DOCUMENTS, *(ROOT / "domino_compile").rglob("*.py")]:
        assert not re.search(r"pip install '?domino-compile", path.read_text()), path


def test_the_first_commands_are_demo_and_test() -> None:
    block = (ROOT / "README.md").read_text().split("```")[1]
    assert [line.split("#")[0].strip() for line in block.strip().splitlines()] == [
        "make demo",
        "make test",
    ]


def test_the_guide_lists_the_passes_in_their_order() -> None:
    table = (ROOT / "docs" / "adding_a_pass.md").read_text().split("\n\n| Where |")[1]
    rows = table.split("\n\n")[0].splitlines()[2:]
    assert tuple(row.split("`")[1] for row in rows) == PASS_NAMES


def test_the_example_of_the_pass_guide_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pass and its tests do what the guide says when they are pasted as they stand."""
    text = (ROOT / "docs" / "adding_a_pass.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = next(block for block in blocks if block.startswith('"""``reuse``: a value'))
    tests = next(block for block in blocks if "def test_" in block)
    module = ModuleType("domino_compile.passes.reuse")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    pasted: dict[str, Any] = {}
    exec(tests, pasted)
    shown: list[str] = []
    pasted["test_the_second_is_not_needed"](lambda _name, text: shown.append(text))
    pasted["test_another_group_is_another_collective"]()
    assert shown[0].startswith("# 4 operations, 1 collective")


@each_document
def test_dumps_are_named_as_they_are_written(path: Path) -> None:
    for number, name in re.findall(r"\b(\d\d)\.([a-z]+)\b", path.read_text()):
        assert name not in PASS_NAMES or f"{number}.{name}" == title(name), path


@each_document
def test_excerpts_are_what_the_golden_files_say(path: Path) -> None:
    for name, text in EXCERPT.findall(path.read_text()):
        lines = (ROOT / name).read_text().splitlines()
        position = 0
        for part in text.split("\n...\n"):
            wanted = part.splitlines()
            starts = range(position, len(lines) - len(wanted) + 1)
            found = next((i for i in starts if lines[i : i + len(wanted)] == wanted), None)
            assert found is not None, f"{path.name}: not in {name} any more:\n{part}"
            position = found + len(wanted)


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text()):
        if target.startswith("http"):
            continue
        file = (path.parent / target) if target else path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}
            assert anchor in slugs


@each_document
def test_source_files_that_are_named_exist(path: Path) -> None:
    names = re.findall(
        r"`((?:domino_compile|passes|tests|examples|docs)/[\w/.]+)`", path.read_text()
    )
    for name in names:
        assert (ROOT / name).exists(), name


def test_the_schema_names_every_field() -> None:
    text = (ROOT / "docs" / "plan_schema.md").read_text()
    assert f"describes version {SCHEMA_VERSION}" in text
    sections = re.split(r"^##+ .*?`(\w+)`$", text, flags=re.MULTILINE)
    described = dict(zip(sections[1::2], sections[2::2], strict=True))
    from domino_compile import report

    for name, section in described.items():
        kind = getattr(report, name)
        documented = {
            field
            for line in section.splitlines()
            if line.startswith("| `")
            for field in re.findall(r"`(\w+)`", line.split("|")[1])
        }
        fields = set(kind.__dataclass_fields__)
        if kind is CompileReport:
            fields |= {"schema_version", "step_peak_bytes"}
        assert documented == fields, name
    assert len(described) == 8
