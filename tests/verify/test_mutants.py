"""Faults of the rewriting are found: a few of those of ``benchmarks.mutants``."""

import pytest

from benchmarks.mutant_kinds import FAULTS, HARMLESS
from benchmarks.mutants import Case, mutant, table
from benchmarks.token_cases import exchanged, regrouped, relaid
from domino_compile.verify.check import Memory, check
from tests.passes.graphs import attention_forward, mlp_joint
from tests.verify.graphs import by_rows

#: Kinds that these graphs have no place for: no random numbers, nothing that is done whole.
ABSENT = {
    "an operation that couples the batch, done by each slice",
    "a mask's offset wrong",
    "a mask of another seed",
    "another constant",
    "operands exchanged",
}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    made = {"mlp": by_rows(mlp_joint(6)), "attention": by_rows(attention_forward())}
    made |= {"relaid": relaid(4, cut=False), "exchanged": exchanged(1, (3, 1))}
    made["regrouped"] = regrouped()
    return [Case(name, *rewriting) for name, rewriting in made.items()]


def test_every_kind_has_a_harmless_twin() -> None:
    assert FAULTS.keys() == HARMLESS.keys() and len(FAULTS) >= 20


def test_faults_are_refused(cases: list[Case]) -> None:
    rows = table(cases, each=2)
    assert {row.kind for row in rows if not row.mutants} <= ABSENT
    assert sum(row.mutants for row in rows) >= 40
    assert [row.missed for row in rows if row.missed] == []
    assert sum(row.rejected for row in rows) > 0.9 * sum(row.mutants for row in rows)


@pytest.mark.parametrize(
    "kind", ["two slices swapped", "a join in another order", "a partial sum added twice"]
)
def test_what_changes_nothing_is_accepted(kind: str, cases: list[Case]) -> None:
    found = [(case, made) for case in cases for made in [mutant(case, HARMLESS[kind], 0)] if made]
    assert found
    for case, made in found:
        check(case.before, *made, Memory())
