"""Passes run with room for their frames, and results and errors pass through."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
import torch
from torch import fx

from domino_compile.pipeline.room import SLOTS, with_room
from domino_compile.pipeline.runner import Runner
from tests.emitted.harness import compile_step


def test_results_and_errors_pass_through() -> None:
    assert with_room(lambda: 7) == 7
    with pytest.raises(ValueError, match="gone wrong"):
        with_room(fail)


def fail() -> None:
    raise ValueError("gone wrong")


def test_passes_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    stage = Runner.stage

    def looked(self: Runner, graph: fx.Graph, *args: object) -> object:
        frame: FrameType | None = sys._getframe()
        roomy = False
        while frame is not None:
            roomy, frame = roomy or frame.f_code.co_stacksize >= SLOTS, frame.f_back
        seen.append(roomy)
        return stage(self, graph, *args)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(Runner, "stage", looked)
    compile_step(2, batch=4, layers=1)
    torch._dynamo.reset()
    assert len(seen) == 3 and all(seen)
