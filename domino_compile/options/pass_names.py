"""The names of the passes, as users write them in ``disable_passes`` and read them in dumps.

``pipeline.order`` has the passes themselves. The names stand here so that options, which everything
else builds on, need not import the pipeline.
"""

from enum import StrEnum


class PassName(StrEnum):
    """A pass by name; the members are in the order in which the passes run."""

    NORMALISE = "normalise"
    ACCUMULATE = "accumulate"
    MATERIALISE = "materialise"
    REGROUP = "regroup"
    SLICE = "slice"
    COLUMNS = "columns"
    EXCHANGE = "exchange"
    RELAYOUT = "relayout"
    SCHEDULE = "schedule"
    PRODUCTS = "products"
    TRANSPORT = "transport"
    PIN = "pin"


PASS_NAMES: tuple[str, ...] = tuple(name.value for name in PassName)
