"""Every rule, cut in every way, against the operation on the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from domino_compile.rules import all_rules
from domino_compile.rules.registry import rule_of
from tests.rules import (
    samples_attention,
    samples_experts,
    samples_flex,
    samples_indexing,
    samples_math,
    samples_other,
    samples_pointwise,
    samples_scaled,
    samples_shape,
)
from tests.rules.harness import Case, Outcome, Sample, build, cases, check, joint_cases, pull_cases

aten = torch.ops.aten
SAMPLES = [
    *samples_pointwise.SAMPLES,
    *samples_shape.SAMPLES,
    *samples_math.SAMPLES,
    *samples_indexing.SAMPLES,
    *samples_attention.SAMPLES,
    *samples_flex.SAMPLES,
    *samples_experts.SAMPLES,
    *samples_scaled.SAMPLES,
    *samples_other.SAMPLES,
]
IDS = [f"{i}-{sample.op}" for i, sample in enumerate(SAMPLES)]


def without_shapes(sample: Sample) -> bool:
    """Whether this torch does not know the shapes of what an operation returns (2.11, of one)."""
    late = aten._scaled_dot_product_fused_attention_overrideable_backward.default
    known = torch._C._dispatch_has_kernel_for_dispatch_key(late.name(), "Meta")
    return sample.op is late and not known


skipped = pytest.mark.skip("this torch cannot capture it")
each_sample = pytest.mark.parametrize(
    "sample",
    [
        pytest.param(s, id=i, marks=skipped if without_shapes(s) else ())
        for i, s in zip(IDS, SAMPLES, strict=True)
    ],
)
#: A declared "reason" that says: runs whole, and there is nothing to say about it.
SILENT = "*"


def test_every_rule_has_a_sample() -> None:
    covered = {rule.op for s in SAMPLES if (rule := rule_of(s.op)) is not None}
    missing = sorted(str(op) for op in all_rules() if op not in covered)
    assert not missing, f"rules without a sample in tests/rules/samples_*.py: {missing}"


def test_every_pull_is_tried() -> None:
    covered = {rule.op for s in SAMPLES if (rule := rule_of(s.op)) is not None}
    assert {op for op, rule in all_rules().items() if rule.pull is not None} <= covered


@each_sample
def test_one_operand_cut(sample: Sample) -> None:
    refused: set[Any] = set()
    for case in cases(sample):
        if (case.seeds, case.chunks.total) in refused:
            continue  # refused whatever the chunks
        outcome = check(sample, case)
        if not outcome.was_cut:
            refused.add((case.seeds, case.chunks.total))
        index, state = case.seeds[0]
        alone = sample.tensors()[index].shape[state.dim] == case.chunks.total
        declared = sample.refused if alone else sample.blocks_refused
        judge(sample, case, outcome, declared.get((index, state.dim)))


@each_sample
def test_two_operands_cut(sample: Sample) -> None:
    for case in joint_cases(sample):
        check(sample, case)


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if (r := rule_of(s.op)) and r.pull], ids=lambda s: str(s.op)
)
def test_pull(sample: Sample) -> None:
    for case in pull_cases(sample):
        assert case.pull is not None
        outcome = check(sample, case)
        judge(sample, case, outcome, sample.pull_refused.get(case.pull.dim), pulled=True)


def judge(
    sample: Sample, case: Case, outcome: Outcome, declared: str | None, pulled: bool = False
) -> None:
    """What is not declared as refused must be cut; a refusal gives the declared reason.

    An empty declaration leaves the outcome open (numbers are compared all the same).
    """
    if declared == "":
        return
    if declared is None:
        assert outcome.was_cut, (str(sample), case, outcome.reason)
        return
    assert not outcome.was_cut, (str(sample), case)
    if not pulled and declared != SILENT:
        assert declared in outcome.reason, (str(sample), case, outcome.reason)


def tagged() -> list[Any]:
    """Every operation that torch tags as pointwise and that has a rule by that."""
    found = []
    for name in torch._C._dispatch_get_all_op_names():
        space, _, rest = name.partition("::")
        if space not in ("aten", "prims"):
            continue
        packet, _, overload = rest.partition(".")
        op = getattr(getattr(getattr(torch.ops, space), packet, None), overload or "default", None)
        rule = rule_of(op)
        if rule is not None and rule.op is op and op not in all_rules():
            found.append(op)
    return sorted(found, key=str)


@pytest.mark.parametrize("op", tagged(), ids=str)
def test_tagged_pointwise(op: Any) -> None:
    tried = 0
    for sample in generic_samples(op):
        try:
            op(*sample.args)
            build(sample)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            continue
        tried += 1
        for case in cases(sample):
            if case.chunks.sizes[0] == 1 and len(case.chunks) == 2:
                assert check(sample, case).was_cut
        if tried == 3:
            break
    if not tried:
        pytest.skip("takes no generic arguments")


def generic_samples(op: Any) -> list[Sample]:
    """Arguments by type, for floats, integers and booleans, with and without broadcasting."""
    real, count = samples_pointwise.real, samples_pointwise.count
    makers = [
        lambda *shape: real(*shape) * 0.8 + 0.1,
        lambda *shape: count(*shape) + 1,
        lambda *shape: real(*shape) > 0.5,
    ]
    made = []
    for maker in makers:
        for shapes in (((4, 3), (4, 3), (4, 3)), ((4, 3), (3,), (4, 1)), ((4, 3), (), ())):
            left = iter(shapes)
            args: list[Any] = []
            for argument in op._schema.arguments:
                kind = str(argument.type)
                if kind == "Tensor":
                    args.append(maker(*next(left)))
                elif argument.has_default_value():
                    break
                else:
                    args.append({"int": 1, "float": 0.5, "bool": False, "str": "none"}.get(kind, 2))
            made.append(Sample(op, tuple(args), exact=False))
            if sum(isinstance(a, torch.Tensor) for a in args) == 1:
                break
    return made
