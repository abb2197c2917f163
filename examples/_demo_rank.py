"""One rank of the demo: trains both variants in turns and tells the parent how it goes.

Started by ``demo.py`` as ``python _demo_rank.py RANK FOLDER``. ``FOLDER/config.json`` says what to
do; progress leaves as one JSON object a line on the standard output, everything that torch or the
C++ compiler prints goes to the standard error, and the measurements to ``FOLDER/rank_N.json``.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from _demo_config import RANKS, TRANSPORT_TIMEOUT_S, VARIANTS, Config

Say = Callable[..., None]


@dataclass
class Step:
    """One training step; times in seconds of ``time.monotonic``, ``cpu_s`` of all its threads."""

    start_s: float
    end_s: float
    backward_s: float
    update_s: float
    cpu_s: float
    loss: float
    collectives: int
    wire_ms: float
    exposed_ms: float
    late_ms: float
    wires: list[dict[str, Any]]


@dataclass
class Variant:
    """A compiled model in training."""

    name: str
    model: Any
    forward: Any
    optimizer: Any
    data: Iterator[Any]
    steps: list[Step] = field(default_factory=list)

    def step(self, *, keep: bool = True) -> Step:
        """Train one step; ``keep`` puts it among the measured ones."""
        from domino_compile import emulate

        tokens, targets = next(self.data)
        emulate.reset_trace()
        cpu = time.process_time()
        start = time.monotonic()
        loss = self.forward(tokens, targets)
        backward = time.monotonic()
        loss.backward()
        update = time.monotonic()
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = time.monotonic()
        cpu = time.process_time() - cpu
        seen = emulate.summary()
        records = [dataclasses.asdict(r) for r in emulate.trace() if r.name != "barrier"]
        assert seen.exposed_ms is not None and seen.late_ms is not None
        step = Step(
            start,
            end,
            backward,
            update,
            cpu,
            loss.item(),
            seen.collectives,
            seen.wire_ms,
            seen.exposed_ms,
            seen.late_ms,
            records,
        )
        if keep:
            self.steps.append(step)
        return step


def make_variant(name: str, config: Config, mesh: Any) -> Variant:
    """The same seeds for all: equal weights, equal batches."""
    import torch
    from _demo_model import batches, make_model, make_optimizer

    model = make_model(config.shape, mesh, config.seed)
    options = {"options": config.domino_options()} if name == "domino" else {}
    compiled = torch.compile(model, backend=name, **options)
    return Variant(name, model, compiled, make_optimizer(model), batches(config.shape, config.seed))


def train(config: Config, say: Say) -> dict[str, Any]:
    """Compile, then measure in blocks of steps that take turns."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh

    from domino_compile import emulate, reports

    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("tp",))
    variants = {}
    losses: dict[str, list[float]] = {name: [] for name in VARIANTS}
    compile_s = {}
    for name in VARIANTS:
        variant = variants[name] = make_variant(name, config, mesh)
        for number in range(config.warm_up):
            say(event="warm", variant=name, step=number, of=config.warm_up)
            began = time.monotonic()
            losses[name].append(variant.step(keep=False).loss)
            compile_s.setdefault(name, time.monotonic() - began)
    free: list[float] = []
    gc.collect()
    gc.disable()
    for first in range(0, config.steps, config.block):
        count = min(config.block, config.steps - first)
        for name, variant in variants.items():
            for number in range(first, first + count):
                step = variant.step()
                losses[name].append(step.loss)
                say(
                    event="step",
                    variant=name,
                    step=number + 1,
                    of=config.steps,
                    loss=step.loss,
                    ms=(step.end_s - step.start_s) * 1e3,
                )
        gc.collect()
    say(event="free")
    emulate.use_link(None)
    for _ in range(max(3, config.steps // 3)):
        step = variants["inductor"].step(keep=False)
        free.append((step.end_s - step.start_s) * 1e3)
    return {
        "losses": losses,
        "compile_s": compile_s,
        "free_ms": free[1:],
        "steps": {name: [asdict(s) for s in v.steps] for name, v in variants.items()},
        "reports": [report.as_dict() for report in reports()],
        "torch": torch.__version__,
    }


def run(rank: int, folder: Path, say: Say) -> None:
    config = Config.from_dict(json.loads((folder / "config.json").read_text()))
    say(event="start")
    import torch
    import torch.distributed as dist

    from domino_compile import emulate

    torch.set_num_threads(1)
    emulate.init(
        config.link,
        rank=rank,
        world_size=RANKS,
        init_method=f"file://{folder / 'rendezvous'}",
        timeout=timedelta(seconds=TRANSPORT_TIMEOUT_S),
    )
    measured = train(config, say)
    (folder / f"rank_{rank}.json").write_text(json.dumps(measured))
    dist.destroy_process_group()
    say(event="done")


def die_with_parent() -> None:
    """The parent holds the other end of our standard input; it closes when the parent is gone."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**event: object) -> None:
        events.write(json.dumps(event) + "\n")

    die_with_parent()
    try:
        run(rank, folder, say)
    except Exception as error:
        import traceback

        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        say(event="error", message=f"{type(error).__name__}: {lines[0]}"[:300])
        os._exit(1)


if __name__ == "__main__":
    main()
