"""A cost model with round numbers, so that schedules in tests do not depend on tables."""

from typing import Any

from torch import fx

from domino_compile.cost.fused import Fused
from domino_compile.cost.model import Work


class RoundCosts:
    """A product takes 100 us, a fused kernel 10, a collective 150."""

    regained = 0.0

    def wire_slowdown(self, launch: fx.Node) -> float:
        return 1.0

    def wire_us(self, launch: fx.Node) -> float:
        return 150.0

    def work_us(self, work: Work, nbytes: float) -> tuple[float, float]:
        return 100.0, 100.0

    def fused_us(self, work: Fused, inductors: bool = False) -> tuple[float, float]:
        return 10.0, 10.0


COSTS: Any = RoundCosts()
