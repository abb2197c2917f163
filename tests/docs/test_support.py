"""The page on support claims only what a test proves or a result file holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.paths import ROOT

PAGE = ROOT / "docs" / "support.md"
LINK = re.compile(r"\]\(([^)#\s]+)\)")
QUOTE = re.compile(r"`([^`]+)`")
#: The words of the page's first table, and the folders one of which must hold the evidence.
EVIDENCE = {
    "tested": ("tests",),
    "measured": ("benchmarks/results", "docs/frameworks.json"),
    "by hand": (),
    "untested": (),
    "no": (),
}


class Claim(NamedTuple):
    """One row of the page."""

    what: str
    status: str
    evidence: str

    @property
    def files(self) -> list[Path]:
        return [(PAGE.parent / link).resolve() for link in LINK.findall(self.evidence)]


def claims() -> list[Claim]:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    return [Claim(*row) for row in rows if len(row) == 3 and row[1] != "Status"]


each_claim = pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim.what)


def test_the_page_has_claims_of_every_kind() -> None:
    assert {claim.status for claim in claims()} == set(EVIDENCE)


def test_words_are_explained() -> None:
    assert re.findall(r"^\| \*\*([^*]+)\*\*", PAGE.read_text(), re.MULTILINE) == list(EVIDENCE)


@each_claim
def test_the_evidence_is_of_the_right_kind(claim: Claim) -> None:
    folders = EVIDENCE[claim.status]
    paths = [path.relative_to(ROOT).as_posix() for path in claim.files]
    assert not folders or any(path.startswith(folder) for path in paths for folder in folders)


@each_claim
def test_what_is_quoted_is_in_the_evidence(claim: Claim) -> None:
    """A quoted test exists, a quoted device was measured, a quoted version is pinned."""
    text = "\n".join(path.read_text() for path in claim.files)
    if EVIDENCE[claim.status]:
        for quote in QUOTE.findall(claim.evidence):
            assert quote in text, quote
