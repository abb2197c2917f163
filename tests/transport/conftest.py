"""The ranks of these tests, started at the first test that needs them."""

from tests.ranks.conftest import pools

__all__ = ["pools"]
