"""Planning: list the ways to cut a graph, predict the time of each, and choose one."""

from domino_compile.planner.candidates import REORDERED, Candidate
from domino_compile.planner.choose import Choice, Policy, Prediction, choose
from domino_compile.planner.plan import Planner, rows_cut
from domino_compile.planner.predict import Expansion, by_inductor, predict_as_found
from domino_compile.planner.unfold import Unfolded, unfold

__all__ = [
    "REORDERED",
    "Candidate",
    "Choice",
    "Expansion",
    "Planner",
    "Policy",
    "Prediction",
    "Unfolded",
    "by_inductor",
    "choose",
    "predict_as_found",
    "rows_cut",
    "unfold",
]
