"""One rank of the demo: trains both variants alternately and reports its progress to the parent.

Started by ``demo.py`` as ``python _demo_rank.py RANK FOLDER``. ``FOLDER/config.json`` says what to
do; progress leaves as one JSON object a line on the standard output, everything that torch or the
C++ compiler prints goes to the standard error, and the measurements to ``FOLDER/rank_N.json``.
"""

from __future__ import annotations

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
    collectives: int
    wire_ms: float
    exposed_ms: float
    late_ms: float
    wires: list[dict[str, Any]]
    loss: float = 0.0

    @property
    def ms(self) -> float:
        return (self.end_s - self.start_s) * 1e3


@dataclass
class Variant:
    """A compiled model in training."""

    name: str
    model: Any
    forward: Any
    optimizer: Any
    data: Iterator[Any]
    steps: list[Step] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def step(self, *, measured: bool = True) -> Step:
        """Train one step; ``measured`` keeps its times."""
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
        wires = [asdict(r) for r in emulate.trace() if r.name != "barrier"]
        seen = emulate.summary()
        assert seen.exposed_ms is not None and seen.late_ms is not None
        communication = (seen.collectives, seen.wire_ms, seen.exposed_ms, seen.late_ms)
        step = Step(start, end, backward, update, cpu, *communication, wires)
        step.loss = loss.item()
        self.losses.append(step.loss)
        if measured:
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

    from domino_compile import reports

    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("tp",))
    variants = {name: make_variant(name, config, mesh) for name in VARIANTS}
    compile_s = {name: warm_up(variant, config, say) for name, variant in variants.items()}
    gc.disable()
    for first in range(0, config.steps, config.block):
        gc.collect()
        for variant in variants.values():
            for number in range(first, min(first + config.block, config.steps)):
                step = variant.step()
                progress = {"step": number + 1, "of": config.steps, "loss": step.loss}
                say(event="step", variant=variant.name, ms=step.ms, **progress)
    say(event="free")
    return {
        "losses": {name: v.losses for name, v in variants.items()},
        "steps": {name: [asdict(s) for s in v.steps] for name, v in variants.items()},
        "compile_s": compile_s,
        "free_ms": free_link(variants["inductor"], max(3, config.steps // 3)),
        "reports": [report.as_dict() for report in reports()],
        "torch": torch.__version__,
    }


def warm_up(variant: Variant, config: Config, say: Say) -> float:
    """Run the warm-up steps; return the seconds of the first one, which compiles."""
    seconds = []
    for number in range(config.warm_up):
        say(event="warm", variant=variant.name, step=number, of=config.warm_up)
        seconds.append(variant.step(measured=False).ms / 1e3)
    return seconds[0]


def free_link(variant: Variant, steps: int) -> list[float]:
    """Return step times in ms with communication at the speed of the real transport."""
    from domino_compile import emulate

    emulate.use_link(None)
    return [variant.step(measured=False).ms for _ in range(steps)][1:]


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
    os._exit(0)  # at once: Inductor's compile workers, else waited for, end with the process group


if __name__ == "__main__":
    main()
