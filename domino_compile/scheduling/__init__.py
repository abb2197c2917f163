"""Scheduling: split a graph into units of work, order them, and predict the memory of a step."""

from domino_compile.scheduling.improve import improved
from domino_compile.scheduling.list_schedule import schedule_units
from domino_compile.scheduling.memory import Result, StepMemory, held_bytes, step_memory
from domino_compile.scheduling.recompute import (
    allowed_bytes,
    inductors_bytes,
    mark_recomputed,
    own_orders,
)
from domino_compile.scheduling.simulate import Occupancy, Schedule, run_order
from domino_compile.scheduling.units import Unit, UnitGraph, build_units

__all__ = [
    "Occupancy",
    "Result",
    "Schedule",
    "StepMemory",
    "Unit",
    "UnitGraph",
    "allowed_bytes",
    "build_units",
    "held_bytes",
    "improved",
    "inductors_bytes",
    "mark_recomputed",
    "own_orders",
    "run_order",
    "schedule_units",
    "step_memory",
]
