"""Which order: a graph as units of work, and list scheduling of them over compute and wire."""

from domino_compile.scheduling.list_schedule import schedule_units
from domino_compile.scheduling.simulate import Schedule, Span, run_order
from domino_compile.scheduling.units import Unit, UnitGraph, build_units

__all__ = ["Schedule", "Span", "Unit", "UnitGraph", "build_units", "run_order", "schedule_units"]
