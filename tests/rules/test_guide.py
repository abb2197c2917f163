"""The worked example of the guide, followed to the letter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from domino_compile.rules import Rule, all_rules, normalisation, registry
from tests.paths import ROOT
from tests.rules import samples_math
from tests.rules.harness import Sample
from tests.rules.test_rules import test_one_operand_cut as check_sample

GUIDE = (ROOT / "docs" / "adding_a_rule.md").read_text()
RULE, LINE, SAMPLE = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(autouse=True)
def _rules_are_found_anew() -> Iterator[None]:
    yield
    registry.rule_of.cache_clear()


def followed() -> tuple[Mapping[Any, Rule], Sample]:
    """The rules that the guide adds, and its sample."""
    code = dict(vars(normalisation))
    exec(RULE, code)
    rules = eval(f"{{{LINE}}}", code)
    (sample,) = eval(f"[{SAMPLE}]", dict(vars(samples_math)))
    return rules, sample


def test_the_guides_rule_is_new_and_its_sample_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, sample = followed()
    assert set(rules) == {sample.op}
    assert registry.rule_of(sample.op) is None, "the guide adds a rule that there is"
    merged = registry.merge((all_rules(), rules))
    monkeypatch.setattr(registry, "all_rules", lambda: merged)
    registry.rule_of.cache_clear()
    check_sample(sample)


def test_without_the_rule_the_sample_fails() -> None:
    _, sample = followed()
    with pytest.raises(AssertionError, match="no axis rule for this operation"):
        check_sample(sample)


def test_the_message_that_the_guide_shows_is_that_of_a_missing_sample() -> None:
    source = (ROOT / "tests" / "rules" / "test_rules.py").read_text()
    shown = re.search(r"(rules without a sample in \S+: )\[", GUIDE)
    assert shown is not None and shown[1] in source
