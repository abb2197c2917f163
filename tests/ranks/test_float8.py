"""Float8 training with torchao on real ranks: cut and uncut programs have the same numbers."""

import pytest
import torch

import domino_compile
from tests.ranks.conftest import Pools
from tests.ranks.float8 import ROWS, TOKENS, WIDTH, dtensors
from tests.ranks.test_training import only

pytest.importorskip("torchao")
pytestmark = pytest.mark.xdist_group("ranks")


scales_rows = pytest.mark.skipif(
    torch.__version__ < "2.12", reason="this torch cannot scale rows on a CPU, only whole tensors"
)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param("rowwise", marks=scales_rows),
        pytest.param("rowwise_with_gw_hp", marks=scales_rows),
        "tensorwise",
    ],
)
def test_cut_and_uncut_steps_are_equal(pools: Pools, recipe: str) -> None:
    """What is quantised is the same, bit by bit: products of it are equal."""
    options = {"lowering": "eager", "slices": 2, "batch": {"x": 0}, "verify": "strict"}
    cut = pools[2].run("tests.ranks.float8:step", recipe, options)
    uncut = pools[2].run("tests.ranks.float8:step", recipe, None)
    for ours, theirs in zip(cut, uncut, strict=True):
        report = only(ours.reports)
        assert report.status == "sliced"
        assert {c.action for c in report.collectives} == {"sliced"}
        assert ours.grads.keys() == theirs.grads.keys()
        for name, grad in theirs.grads.items():
            if "norm" in name or recipe == "rowwise_with_gw_hp":  # summed in another order
                error = (ours.grads[name] - grad).abs().max() / grad.abs().max()
                assert error < 2e-2, name
            else:
                assert torch.equal(ours.grads[name], grad), name
        torch.testing.assert_close(ours.loss, theirs.loss)


def test_gathers_in_float8_are_cut() -> None:
    """Captured only: gloo cannot send float8."""
    with domino_compile.fake_ranks(2):
        torch._dynamo.reset()
        domino_compile.reset_reports()
        made = dtensors(2)
        x = torch.randn(ROWS, TOKENS // 2, WIDTH).bfloat16()
        options = {"slices": 2, "batch": {"x": 0}, "lowering": "eager", "verify": "on"}
        domino_compile.explain(made, x, options=options)
        report = only(domino_compile.reports())
    gathers = [c for c in report.collectives if "gather" in c.kind]
    assert report.status == "sliced" and gathers
    large = [c for c in report.collectives if c.bytes > 64]  # the others carry scales' maxima
    assert {c.action for c in large} == {"sliced"}
