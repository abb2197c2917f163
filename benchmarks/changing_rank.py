"""One rank of ``benchmarks.changing_network``: trains, and reports its progress to the parent.

    python -m benchmarks.changing_rank FILE

The file holds a ``Training``. Two models with equal weights and batches train in turn, the
*variants*: ``watched`` with the option ``watch``, ``kept`` without it. Before them an uncut model
trains the same steps, on the same network before it changes. Progress leaves as one JSON object a
line on the standard output.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

Say = Callable[..., None]
#: How many tokens of 100 follow from the one before.
REGULAR = 80
UNCUT, WATCHED, KEPT = "uncut", "watched", "kept"
#: So many steps only end with an error, and no uncut model is trained for comparison.
UNBOUNDED = 10_000


@dataclass(frozen=True)
class Training:
    """What to train, and how.

    Attributes:
        link: The file of the link table that plans assume.
        steps: The number of steps.
        watch: The option ``watch`` of the variant that has it.
        lowering: The option ``lowering``.
        slices: The option ``slices``.
        variants: The variants that train in turn.
        layers: The number of blocks.
        width: The width of the model.
        ratio: How many times wider an MLP is inside.
        vocabulary: The number of different tokens.
        rows: The rows of a batch.
        length: The tokens of a row.
        dtype: The name of the type of the weights.
        timeout_s: The timeout of the process group, and the option ``check_timeout_s``.
        hold: Whether to wait for the parent before planning again.
    """

    link: str
    steps: int
    watch: int = 3
    lowering: str = "inductor"
    slices: int | str = "auto"
    variants: tuple[str, ...] = (WATCHED, KEPT)
    layers: int = 3
    width: int = 384
    ratio: int = 4
    vocabulary: int = 256
    rows: int = 8
    length: int = 128
    dtype: str = "float32"
    timeout_s: float = 20.0
    hold: bool = False

    @staticmethod
    def read(path: Path) -> Training:
        """Read a training from a file that ``write`` made."""
        data = json.loads(path.read_text())
        return Training(**{**data, "variants": tuple(data["variants"])})

    def write(self, path: Path) -> None:
        """Write the training to a file."""
        path.write_text(json.dumps(asdict(self)))

    def options(self, variant: str) -> dict[str, Any]:
        """Return the options of a variant."""
        return {
            "link": self.link,
            "slices": self.slices,
            "lowering": self.lowering,
            "watch": self.watch if variant == WATCHED else 0,
            "check_timeout_s": self.timeout_s,
        }


@dataclass
class Variant:
    """A model in training.

    Attributes:
        forward: A function that returns the loss of a batch.
        optimiser: The optimiser of its weights.
        data: Its batches.
        losses: The losses so far.
    """

    forward: Any
    optimiser: Any
    data: Iterator[Any]
    losses: list[float] = field(default_factory=list)

    def step(self) -> float:
        """Train one step and return its milliseconds."""
        tokens, following = next(self.data)
        began = time.perf_counter()
        loss = self.forward(tokens, following)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.losses.append(loss.item())
        return (time.perf_counter() - began) * 1e3


def make_model(training: Training, mesh: Any) -> Any:
    """Return a stack of MLPs over embeddings, divided among the ranks as torch's users do it."""
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    width, inside = training.width, training.ratio * training.width
    vocabulary = training.vocabulary

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.up, self.down = nn.Linear(width, inside), nn.Linear(inside, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner: torch.Tensor = self.down(F.gelu(self.up(self.norm(x))))
            return x + inner

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, width)
            self.blocks = nn.ModuleList(Block() for _ in range(training.layers))
            self.head = nn.Linear(width, vocabulary, bias=False)

        def forward(self, tokens: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
            x = self.embedding(tokens)
            for block in self.blocks:
                x = block(x)
            return F.cross_entropy(self.head(x).flatten(0, 1), following.flatten())

    torch.manual_seed(0)
    model = Model().to(getattr(torch, training.dtype))
    for block in model.blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def batches(training: Training) -> Iterator[Any]:
    """Yield endless batches of tokens, most of which follow from the one before."""
    import torch

    draw = torch.Generator().manual_seed(1)
    after = torch.randperm(training.vocabulary, generator=draw)
    shape = (training.rows, training.length + 1)
    while True:
        text = torch.randint(training.vocabulary, shape, generator=draw)
        regular = torch.randint(100, shape, generator=draw) < REGULAR
        for at in range(training.length):
            text[:, at + 1] = torch.where(regular[:, at + 1], after[text[:, at]], text[:, at + 1])
        yield text[:, :-1].contiguous(), text[:, 1:].contiguous()


def make_variant(training: Training, mesh: Any, variant: str) -> Variant:
    """Return a variant, or the uncut program if the name is neither of theirs."""
    import torch

    from domino_compile.backend import domino

    model = make_model(training, mesh)
    forward: Any = model
    if variant in (WATCHED, KEPT):
        forward = torch.compile(model, backend=domino, options=training.options(variant))
    elif training.lowering == "inductor":
        forward = torch.compile(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, foreach=False)
    return Variant(forward, optimiser, batches(training))


def train(training: Training, mesh: Any, say: Say) -> dict[str, list[float]]:
    """Train the uncut model, then the variants in turn; return all losses."""
    from domino_compile import reports

    losses = {}
    if training.steps != UNBOUNDED:
        uncut = make_variant(training, mesh, UNCUT)
        for number in range(training.steps):
            say(event="step", variant=UNCUT, step=number, ms=uncut.step(), plans=[])
        losses[UNCUT] = uncut.losses
    variants = {name: make_variant(training, mesh, name) for name in training.variants}
    for number in range(training.steps):
        for name, variant in variants.items():
            known = len(reports())
            ms = variant.step()
            plans = [
                {"slower": report.slower, "summary": report.summary()}
                for report in reports()[known:]
            ]
            say(event="step", variant=name, step=number, ms=ms, plans=plans)
    return losses | {name: variant.losses for name, variant in variants.items()}


def run(training: Training, say: Say) -> None:
    """Meet the other ranks, and train."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    timeout = timedelta(seconds=training.timeout_s)
    dist.init_process_group("gloo", timeout=timeout)
    dist.barrier()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    say(event="start")
    losses = train(training, mesh, say)
    dist.barrier()
    say(event="done", losses=losses, torch=torch.__version__)


class Planning(logging.Handler):
    """Tells the parent that the ranks plan again, and waits for it if asked to."""

    def __init__(self, say: Say, hold: bool) -> None:
        super().__init__()
        self.say, self.hold = say, hold

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on what the watch says."""
        self.say(event="planning", message=record.getMessage())
        if self.hold:
            os.read(0, 1)


def main() -> None:
    """Train as the file says, and end at once, because a lost rank may keep threads waiting."""
    training = Training.read(Path(sys.argv[1]))
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**event: object) -> None:
        events.write(json.dumps({**event, "at_s": time.monotonic()}) + "\n")

    log = logging.getLogger("domino_compile.runtime.watch")
    log.setLevel(logging.INFO)
    log.addHandler(Planning(say, training.hold))
    try:
        run(training, say)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        say(event="error", message=f"{type(error).__name__}: {first}"[:400])
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
