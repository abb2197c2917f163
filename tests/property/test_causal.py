"""Random programs with causal attention, tokens cut and uncut: the same in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import event, given, settings

import domino_compile
from tests.profiles import examples
from tests.property.causal import OTHERS, causal_programs
from tests.property.programs import Program, run
from tests.property.test_eager_lowering import PHASES, check


def what(program: Program) -> str:
    """What became of the last graph: cut into tokens or rows, or its status."""
    report = domino_compile.reports()[-1]
    for feature in sorted(program.features):
        event(f"feature: {feature}")
    return "tokens" if report.tokens else "rows" if report.slices else report.status


@pytest.fixture(scope="module")
def seen() -> Iterator[Counter[str]]:
    """Of the programs of one sequence, what became of them."""
    yield Counter()


@settings(examples(18), phases=PHASES)
@given(program=causal_programs())
def test_cut_program_computes_what_the_uncut_one_does(seen: Counter[str], program: Program) -> None:
    check(program, run(program))
    outcome = what(program)
    event(f"outcome: {outcome}")
    if "batch 1" in program.features:
        seen[outcome] += 1
    else:
        assert outcome != "tokens", program


def test_most_programs_of_one_sequence_were_cut(seen: Counter[str]) -> None:
    if sum(seen.values()) < 10:
        pytest.skip("needs the programs of the test above")
    assert seen["tokens"] > 0.6 * sum(seen.values()), seen


@settings(examples(6), phases=PHASES)
@given(program=causal_programs())
def test_tokens_of_any_batch_are_cut_where_they_are_named(program: Program) -> None:
    name = program.inputs[0].name
    at = next(d for d in (0, 1) if program.inputs[0].shape[d] >= 4)
    check(program, run(program), batch={name: at})
    event(f"outcome: {what(program)}")


@settings(examples(6), phases=PHASES)
@given(program=causal_programs(others=True))
def test_other_attention_is_joined_and_right(program: Program) -> None:
    check(program, run(program))
    outcome = what(program)
    event(f"outcome: {outcome}, causal only: {program.features.isdisjoint(OTHERS)}")
