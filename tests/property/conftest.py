"""The process groups of the generated programs."""

import importlib
from collections.abc import Iterator
from unittest import mock

import pytest

from tests.property import lone_rank

#: The module, whose name in the package is that of its function.
PROPAGATE = importlib.import_module("domino_compile.analysis.propagate")


@pytest.fixture(scope="module", autouse=True)
def _groups() -> Iterator[None]:
    """Start the groups of the lone rank, and keep tokens with the ranks that have them.

    Slices that deal their tokens to the ranks themselves give this rank other tokens, and what the
    others would make of theirs no single process knows. ``tests/rules/test_dealt.py`` runs such
    programs on all ranks in step.
    """
    lone_rank.start()
    with mock.patch.object(PROPAGATE, "begin", lambda node, call: None):
        yield
    lone_rank.stop()
