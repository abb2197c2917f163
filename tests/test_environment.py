"""What the suite silently loses half of its speed without."""

import os

import pytest
import torch

from domino_compile import _compat
from tests.environment import TORCH


@pytest.mark.xdist_group("environment")
def test_tests_of_a_group_share_a_worker(request: pytest.FixtureRequest) -> None:
    """Else every worker makes the fixtures of every group, and the suite takes twice as long."""
    if "PYTEST_XDIST_WORKER" not in os.environ or not request.config.getoption("loadgroup"):
        pytest.skip("no groups are asked for")
    assert request.node.nodeid.endswith("@environment"), "constraints.txt says what goes together"


def test_nobody_listens_to_the_structured_trace() -> None:
    """Else torch writes out every graph that any test compiles."""
    _compat.emit_artifact("a test", "text")  # torch looks for a listener when it has something
    assert not _compat.tracing_is_on(), "tests/conftest.py says who"


@pytest.mark.skipif(not torch.__version__.startswith(TORCH), reason="kernels are built by Inductor")
def test_the_kernels_of_a_graph_are_built_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the compiler reads the same header for each, which takes ten times as long."""
    from tests import kernels

    built, build = [], kernels._build

    def watched(parts: list[kernels._Part]) -> None:
        build(parts)
        built.append([part.note.exists() for part in parts])

    def two_kernels(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x @ x).sum(0) * 1.25, x.cumsum(0) + 2.5

    monkeypatch.setattr(kernels, "_build", watched)
    torch._dynamo.reset()
    x = torch.randn(7, 7)
    for got, expected in zip(torch.compile(two_kernels)(x), two_kernels(x), strict=True):
        torch.testing.assert_close(got, expected)
    (together,) = built
    assert len(together) >= 2 and all(together)
