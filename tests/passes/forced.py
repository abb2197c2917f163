"""Passes that run where they would not be wanted, so that a CPU tests what is made for a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from domino_compile.pipeline import pipeline
from domino_compile.pipeline.contract import Pass


@contextmanager
def wanted_always(forced: Pass[Any]) -> Iterator[None]:
    """Run a pass on every graph of its stage."""
    always = replace(forced, wanted=lambda at: True)
    stages = {
        name: tuple(always if made is forced else made for made in getattr(pipeline, name))
        for name in ("PREPARE", "CUT", "GRAPH")
    }
    with mock.patch.multiple(pipeline, **stages):
        yield
