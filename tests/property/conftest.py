"""The process groups of the generated programs."""

from collections.abc import Iterator

import pytest

from tests.property import lone_rank


@pytest.fixture(scope="module", autouse=True)
def _groups() -> Iterator[None]:
    lone_rank.start()
    yield
    lone_rank.stop()
