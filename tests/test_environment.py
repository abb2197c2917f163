"""What the suite silently loses half of its speed without."""

import os

import pytest

from domino_compile import _compat


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
