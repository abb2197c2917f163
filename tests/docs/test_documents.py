"""The guides say what is so: the options table, the excerpts, the links, the names of files."""

import re
from pathlib import Path

import pytest

from domino_compile.options import markdown
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


def test_the_first_commands_are_demo_and_test() -> None:
    block = (ROOT / "README.md").read_text().split("```")[1]
    assert [line.split("#")[0].strip() for line in block.strip().splitlines()] == [
        "make demo",
        "make test",
    ]


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
