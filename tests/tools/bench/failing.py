"""Variants of a benchmark that are not compiled, of which some fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest import mock

import torch.distributed as dist

from domino_compile.host.launch import RanksError
from domino_compile.tools.bench import world as world_module
from domino_compile.tools.bench.result import BenchResult
from domino_compile.tools.bench.run import Bench, Plan
from domino_compile.tools.bench.variants import Variant
from domino_compile.tools.bench.workload import Workload
from domino_compile.tools.bench.world import Place, World


@dataclass(frozen=True)
class Uncompiled(Variant):
    """Runs the model as it is, or fails where it would be compiled."""

    fails: bool = False

    def compile(self, model: Callable[..., Any], **_settings: Any) -> Callable[..., Any]:
        if self.fails:
            raise RuntimeError("out of memory\nand a stack")
        return model


FAILING = Uncompiled("domino", 2, fails=True)
#: How long a rank waits here for others to fail as well; ranks that do are at it together.
PATIENCE = timedelta(seconds=4)
WORKLOAD = Workload("tiny-gpt", 1, 2, 8, 2)


def compile_in(world: World, *variants: Variant) -> BenchResult:
    """Compile variants as ``domino bench`` does, in process groups that are there."""
    bench = Bench(WORKLOAD, Plan(variants), world, lambda *_: None)
    result = bench.empty("a command")
    bench.compile(result)
    return result


def failures(rank: int, world: int, on: list[int]) -> tuple[list[str], str]:
    """On one of several ranks: what is listed, and what ends it, if a variant fails on some.

    A rank on which it works would go on into its collectives; it is spared that here.
    """
    group = dist.group.WORLD
    assert group is not None
    place = World(Place("cpu", None, rank=rank), world, rank, group, None, None)
    base, label = Uncompiled("inductor"), f"domino:{2 + len(on)}"
    variants = [base, Uncompiled("domino", 2 + len(on), fails=True)] if rank in on else [base]
    try:
        with mock.patch.object(world_module, "OTHERS_TIMEOUT", PATIENCE):
            found = compile_in(place, *variants).variants
    except RanksError as error:
        return [], str(error)
    return [v.error for v in found if v.variant == label], ""
