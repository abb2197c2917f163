"""A few programs of the widest grammar; ``benchmarks/fuzz.py`` runs many."""

import time

import torch

from tests.property import fuzz
from tests.property.programs import parse

PROGRAM = """
    # 2 slices, training
    # x0: grad[4, 3, 4]
    # self.w0: parameter[4, 4]
    def forward(self, x0):
        return (x0 + all_reduce(torch.tanh(x0 @ self.w0), tp),)
"""


def test_programs_compute_the_same_cut_and_uncut() -> None:
    found = fuzz.fuzz(8, time.monotonic() + 60, number=3, compiled_share=0.0)
    assert not found.failures
    assert sum(found.programs.values()) >= 2
    assert found.statuses["sliced"] > 0


def test_a_cut_that_is_wrong_is_found() -> None:
    """The error is that of results, so half a sum is found."""
    joint = fuzz.capture(parse(PROGRAM))
    cut, report = fuzz.rewritten(joint, slices=2)
    assert report.status == "sliced"
    assert fuzz.largest_error(cut.run(), joint.run()) < fuzz.DOUBLE
    (first, *_) = (n for n in cut.module.graph.nodes if n.target is torch.ops.aten.tanh.default)
    first.target = torch.ops.aten.sin.default
    cut.module.recompile()
    assert fuzz.largest_error(cut.run(), joint.run()) > 1e-4
