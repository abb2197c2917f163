"""What collectives and compute cost each other when both run at once, as measured on a real link.

A link table holds the times of collectives that run alone. Beside compute both are slower, for
reasons that a table of times cannot tell:

* a collective's thread blocks hold multiprocessors (``ctas``, modelled in ``cost.waves``), and both
  share memory bandwidth and caches;
* a device at its power limit lowers its clock for both. After a pause it clocks higher for a while,
  so compute regains a part of the time that it waited for the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contention:
    """Times of work that runs beside other work, relative to its time alone.

    Attributes:
        product: The rows, columns and contracted extent of the bf16 product that was measured.
        products: That product's time beside collectives, divided by its time alone (at least 1).
        memory: The same of a copy, which stands for all work that is limited by memory.
        collectives: The same of each collective beside products, by its name.
        regained: The share of the time that compute waits for the wire which it regains afterwards
            by a higher clock (below 1). It is negative (at least -1) if waiting costs more than the
            collective alone takes, because ranks arrive at different times.
    """

    product: tuple[int, int, int]
    products: float
    memory: float = 1.0
    collectives: Mapping[str, float] = field(default_factory=dict, hash=False)
    regained: float = 0.0

    def of(self, collective: str) -> float:
        """Return the slowdown of a collective; of one not measured, that of ``all_reduce``."""
        return self.collectives.get(collective, self.collectives.get("all_reduce", 1.0))
