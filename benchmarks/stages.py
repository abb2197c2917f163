"""Measure the processor time of each stage of our passes."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from torch import fx

from domino_compile.passes import (
    accumulate,
    columns,
    exchange,
    materialise,
    normalise,
    pin,
    products,
    regroup,
    relayout,
    schedule,
    slice,
)
from domino_compile.pipeline import decide, pipeline, regrouping, reporting, runner
from domino_compile.pipeline.pipeline import Pipeline
from domino_compile.pipeline.room import with_room
from domino_compile.planner import Planner
from domino_compile.verify import verifier

#: The timed stages, with the module and name of the function that each one calls.
STAGES: tuple[tuple[str, Any, str], ...] = (
    ("find", pipeline, "find_collectives"),
    ("find", regrouping, "find_shards"),
    ("backup", runner, "Backup"),
    ("normalise", normalise, "normalise_graph"),
    ("normalise", accumulate, "accumulate_products"),
    ("normalise", materialise, "materialise_values"),
    ("infer", decide, "infer_cut"),
    ("infer", decide, "cut_columns"),
    ("unfold", pipeline, "unfold"),
    ("unfold", pipeline, "by_inductor"),
    ("unfold", pipeline, "predict_as_found"),
    ("unfold", decide, "unfold"),
    ("plan", Planner, "run"),
    ("regroup", regroup, "regroup_graph"),
    ("slice", slice, "slice_graph"),
    ("slice", columns, "slice_columns"),
    ("exchange", exchange, "exchange_tokens"),
    ("relayout", relayout, "relayout_graph"),
    ("schedule", schedule, "schedule_graph"),
    ("schedule", products, "mark_products"),
    ("pin", pin, "pin_order"),
    ("report", reporting, "decided"),
    ("report", pipeline, "uncut"),
    ("report", reporting, "schedule"),
    ("report", Pipeline, "write"),
    ("lint", fx.Graph, "lint"),
    ("verify", verifier, "read_graph"),
    ("verify", verifier, "check"),
)


class Stages:
    """Adds up the processor seconds of each stage, without garbage collection.

    Any stage may trigger a collection, which is a stage of its own. For nested functions only the
    outer one is timed.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def around(self, run: Callable[[fx.Graph], None], graph: fx.Graph) -> None:
        """Run passes on a graph and time them; for ``plan_only``."""
        with self._patched(), self._timed("all"):
            with_room(lambda: run(graph))

    def milliseconds(self) -> dict[str, float]:
        """Return the milliseconds of each stage, of the rest, and of everything."""
        found = {stage: 1e3 * self.spent[stage] for stage in dict.fromkeys(s for s, _, _ in STAGES)}
        found["other"] = 1e3 * self.spent["all"] - sum(found.values())
        found["garbage"] = 1e3 * self.spent["garbage"]
        return {**found, "all": sum(found.values())}

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.thread_time() - self.spent["garbage"]
        try:
            yield
        finally:
            self.spent[stage] += time.thread_time() - self.spent["garbage"] - began

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Measure the time spent in each function in ``STAGES`` inside this context."""
        inside: list[str] = []

        def collecting(phase: str, _info: dict[str, int]) -> None:
            self.spent["garbage"] += (-1 if phase == "start" else 1) * time.thread_time()

        def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if inside:
                    return function(*args, **kwargs)
                inside.append(stage)
                try:
                    with self._timed(stage):
                        return function(*args, **kwargs)
                finally:
                    inside.pop()

            return call

        with ExitStack() as stack:
            for stage, owner, name in STAGES:
                replacement = timed(stage, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, replacement))
            gc.callbacks.append(collecting)
            stack.callback(gc.callbacks.remove, collecting)
            yield
