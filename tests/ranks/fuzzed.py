"""Random runs on real ranks, each with one fault; ``benchmarks/ranks_fuzz.py`` uses it.

A run compiles a small tensor-parallel model on two to four ranks of a new process group and
compares two steps with eager mode. Its fault is on one rank, the *victim*. ``judged`` says what is
wrong with what the ranks answered: a run must end in time, no result may be wrong, and ranks that
go on must do the same.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn

import domino_compile
from domino_compile.backend import domino
from domino_compile.cost.rates_file import VARIABLE
from domino_compile.errors import DominoError
from domino_compile.lowering import request
from domino_compile.passes import slice as slice_pass
from tests.ranks.pool import Pool

#: How long ranks wait for one another in these runs, and what a run may take besides.
TIMEOUT_S, COMPILE_S = 6.0, 90.0
#: The timeout of the process group. If a rank dies in a step, gloo tells the ranks that talk to it.
#: Others wait for those, which live on here, until this time is up; in a job they would end too.
GROUP_S = 30.0
#: The share of runs with a cache of which half was written. They compile with Inductor, twice.
CACHE_SHARE = 0.02
CACHE = "half a cache"
FAULTS = (
    "none", "slow", "very slow", "killed before", "killed while compiling", "killed after a step",
    "other options", "other package", "other torch", "other rates", "half a rates file",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        number: Its seed.
        ranks: How many.
        fault: One of ``FAULTS``.
        victim: The rank that has it.
        layers: Of the model.
        rows: Of the batch.
        options: Of all ranks.
        changed: What is different on the victim, for ``other options``.
        folder: A folder that all ranks share.
    """

    number: int
    ranks: int
    fault: str
    victim: int
    layers: int
    rows: int
    options: dict[str, Any]
    changed: dict[str, Any]
    folder: str = ""


def drawn(number: int, ranks: int | None = None) -> Case:
    """The case of a seed."""
    draw = random.Random(number)
    ranks = ranks or draw.choice((2, 2, 3, 4))
    options = {"slices": draw.choice((2, 2, 3)), "columns": draw.choice((1, 1, 2))}
    changed = draw.choice(({"slices": 1}, {"slices": 4}, {"columns": 3}, {"slices": "auto"}))
    return Case(
        number=number,
        ranks=ranks,
        fault=CACHE if draw.random() < CACHE_SHARE else draw.choice(FAULTS),
        victim=draw.randrange(ranks),
        layers=draw.choice((1, 2)),
        rows=draw.randint(4, 7),
        options=options,
        changed=changed,
    )


class Layer(nn.Module):
    """A tensor-parallel MLP over a group, whose weights are this rank's part."""

    def __init__(self, on: Any) -> None:
        super().__init__()
        self.up, self.down, self.on = nn.Linear(8, 16), nn.Linear(16, 8, bias=False), on

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + funcol.all_reduce(self.down(self.up(x).tanh()), "sum", self.on)


def run(rank: int, world: int, described: dict[str, Any]) -> dict[str, Any]:
    """One rank's part of a run: what was done, or the error that stopped it."""
    case = Case(**described)
    on = dist.new_group(list(range(world)), timeout=timedelta(seconds=GROUP_S))
    began = time.monotonic()
    torch.manual_seed(10 * case.number + rank)
    model = nn.Sequential(*(Layer(on) for _ in range(case.layers))).double()
    is_victim = rank == case.victim
    torch._dynamo.reset()
    domino_compile.reset_reports()
    try:
        found = _steps(model, case, is_victim)
    except Exception as error:
        kind = "refused" if isinstance(error, DominoError) else "error"
        said = f"{type(error).__name__}: {str(error)[:200]}"
        return {"outcome": kind, "why": said, "seconds": time.monotonic() - began}
    seconds = time.monotonic() - began
    expected = [_step(model, _batch(case, rank)) for _ in range(2)]
    wrong = [
        float((a - b).abs().max())
        for mine, theirs in zip(found, expected, strict=True)
        for a, b in zip(mine, theirs, strict=True)
        if not torch.allclose(a, b, rtol=1e-9, atol=1e-11)
    ]
    report = domino_compile.reports()[-1]
    why = f"off by {max(wrong):.1e}" if wrong else report.reason
    return {"outcome": "wrong" if wrong else report.status, "why": why, "seconds": seconds}


def _steps(model: nn.Module, case: Case, is_victim: bool) -> list[list[torch.Tensor]]:
    fault = case.fault if is_victim else "none"
    if fault == "killed before":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault in ("slow", "very slow"):
        time.sleep(1.0 if fault == "slow" else TIMEOUT_S + 3.0)
    options = {"lowering": "eager", "check_timeout_s": TIMEOUT_S, **case.options}
    options |= case.changed if fault == "other options" else {}
    rank = dist.get_rank()
    if case.fault == CACHE:
        with _own_cache(Path(case.folder) / str(rank)) as folder:
            options["lowering"] = "inductor"
            _step(torch.compile(model, backend=domino, options=options), _batch(case, rank))
            if is_victim:
                _cut_files(folder, random.Random(case.number))
            torch._dynamo.reset()
            compiled = torch.compile(model, backend=domino, options=options)
            return [_step(compiled, _batch(case, rank)) for _ in range(2)]
    with _faulty(fault, case):
        compiled = torch.compile(model, backend=domino, options=options)
        first = _step(compiled, _batch(case, rank))
    if fault == "killed after a step":
        os.kill(os.getpid(), signal.SIGKILL)
    return [first, _step(compiled, _batch(case, rank))]


def _faulty(fault: str, case: Case) -> Any:
    """A context in which a rank has another version, other files, or dies in a pass."""
    if fault == "killed while compiling":
        return mock.patch.object(
            slice_pass, "slice_graph", lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        )
    if fault in ("other package", "other torch"):
        return mock.patch.object(request, "source_digest", lambda: fault)
    if fault == "other rates":
        return mock.patch.object(request, "rates_identity", lambda: "measured elsewhere")
    path = Path(case.folder) / "rates.json"
    if fault == "half a rates file":
        path.write_text('{"schema": 1, "device_type": "cpu", "rates": {"half_tfl')
        return mock.patch.dict(os.environ, {VARIABLE: str(path)})
    return mock.patch.dict(os.environ)


@contextmanager
def _own_cache(folder: Path) -> Iterator[Path]:
    """Let Inductor cache graphs in a folder of this rank."""
    with (
        mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": str(folder)}),
        torch._inductor.config.patch(fx_graph_cache=True, force_disable_caches=False),
    ):
        yield folder


def _cut_files(folder: Path, draw: random.Random) -> None:
    """Cut the plans, or the compiled graphs, or both, at random places."""
    names = draw.choice((("domino_compile",), ("fxgraph",), ("domino_compile", "fxgraph")))
    for name in names:
        for path in sorted(folder.glob(f"{name}/**/*")):
            if path.is_file():
                written = path.read_bytes()
                path.write_bytes(written[: draw.randrange(len(written) + 1)])


def _batch(case: Case, rank: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(case.number)
    return torch.randn(case.rows, 8, dtype=torch.float64, generator=draw)


def _step(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = model(x)
    out.square().sum().backward()
    assert x.grad is not None
    return [out.detach(), x.grad]


class Runs(Pool):
    """Ranks that may die: what each of them answered is returned, and never raised."""

    def collect(self, name: str, *arguments: object, timeout: float) -> list[dict[str, Any]]:
        """Call a function on every rank; one that does not answer is ``died`` or ``hangs``."""
        if not self._ranks:
            self._start()
        answers: dict[int, Any] = {}
        failed: dict[int, str] = {}
        deadline = time.monotonic() + timeout
        for _, pipe, _ in self._ranks:
            pipe.send((name, arguments))
        while len(answers) + len(failed) < self.size and time.monotonic() < deadline:
            for rank, (_, pipe, _) in enumerate(self._ranks):
                if rank not in answers and rank not in failed and pipe.poll(0.05):
                    self._receive(pipe, rank, answers, failed)
        if len(answers) < self.size:
            self.stop()
        return [
            answers.get(rank)
            or {"outcome": "died" if rank in failed else "hangs", "why": failed.get(rank, "")}
            for rank in range(self.size)
        ]


def judged(case: Case, answers: list[dict[str, Any]]) -> str:
    """What is wrong with a run; empty if nothing is."""
    outcomes = [answer["outcome"] for answer in answers]
    if "hangs" in outcomes:
        return "a rank hangs"
    if "wrong" in outcomes:
        return "a wrong number"
    killed = case.fault.startswith("killed")
    died = [rank for rank, outcome in enumerate(outcomes) if outcome == "died"]
    if died != ([case.victim] if killed else []):
        return f"ranks {died} died"
    if not killed and "error" in outcomes:
        return next(a["why"] for a in answers if a["outcome"] == "error")
    others = {x for rank, x in enumerate(outcomes) if not (killed and rank == case.victim)}
    if killed:
        return ""
    if len(others - {"refused"}) > 1:
        return f"ranks do different things: {sorted(others)}"
    if case.fault in ("none", "slow") and "refused" in others:
        return "refused without a fault"
    differs = ("other package", "other torch", "other rates")
    return "ranks that differ are cut" if case.fault in differs and "sliced" in others else ""


def described(case: Case, folder: Path) -> dict[str, Any]:
    """A case for ``run``, with a folder for its files."""
    return json.loads(json.dumps({**asdict(case), "folder": str(folder)}))  # type: ignore[no-any-return]
