"""One rank on a GPU: rates and times by events are of the right order."""

from pathlib import Path

import pytest
import torch

from domino_compile.cost.rates import rates_for
from domino_compile.cost.rates_file import USED
from domino_compile.tools.calibrate import device
from domino_compile.tools.calibrate.clock import CudaClock
from domino_compile.tools.calibrate.ranks import Place, Ranks
from domino_compile.tools.calibrate.settings import Settings

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_rates_are_near_the_tables(tmp_path: Path) -> None:
    ranks = Ranks(Place(0, 1, 0, 1), "cuda", 60)
    settings = Settings("cuda", (4096,), rounds=3, rates_out=tmp_path / "rates.json")
    rates, measured = device.measure(ranks, CudaClock(), settings, lambda text: None)
    known = rates_for(ranks.device)
    for name in USED:
        assert 0.2 < rates[name] / getattr(known, name) < 5, name
    assert len(measured) == len(device.probes(ranks.device))
