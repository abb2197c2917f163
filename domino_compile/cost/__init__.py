"""Predicted times: device rates, the cost of operations, collectives on a link."""

from domino_compile.cost.model import CostModel
from domino_compile.cost.rates import DeviceRates, rates_for

__all__ = ["CostModel", "DeviceRates", "rates_for"]
