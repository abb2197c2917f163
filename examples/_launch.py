"""Shared by the examples: starts the ranks, trains, and compares the losses at the end."""

import os
import tempfile
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import domino_compile
from domino_compile.report.report_text import report_text


def run(main: Callable[[int, int], None], ranks: int = 2) -> None:
    """Call `main(rank, world)` on every rank.

    Under torchrun this process is one of the ranks; otherwise `ranks` processes are started here.
    An exception on any rank makes the exit code non-zero.
    """
    if "RANK" in os.environ:
        _rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), "env://", main)
        return
    method = "fork" if "fork" in mp.get_all_start_methods() else "spawn"
    with tempfile.TemporaryDirectory() as folder:
        arguments = (ranks, f"file://{folder}/rendezvous", main)
        mp.start_processes(_rank, arguments, nprocs=ranks, start_method=method)


def _rank(rank: int, world: int, rendezvous: str, main: Callable[[int, int], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    try:
        main(rank, world)
    finally:
        dist.destroy_process_group()


def train(model: nn.Module, batches: list[tuple[torch.Tensor, ...]]) -> list[float]:
    """Train with Adam, one step per batch, and return the losses; `model(*batch)` is the loss."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for batch in batches:
        optimiser.zero_grad()
        loss = model(*batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def tokens(count: int, shape: tuple[int, int], vocabulary: int) -> list[tuple[torch.Tensor, ...]]:
    """Batches of (tokens, the tokens that follow), the same on every rank."""
    generator = torch.Generator().manual_seed(1)
    rows, length = shape
    text = torch.randint(vocabulary, (count, rows, length + 1), generator=generator)
    return [(t[:, :-1].contiguous(), t[:, 1:].contiguous()) for t in text]


def compare(uncut: list[float], domino: list[float]) -> None:
    """Print losses and reports on rank 0; fail on any rank whose losses differ."""
    if dist.get_rank() == 0:
        print("uncut  losses:", " ".join(f"{x:.6f}" for x in uncut))
        print("domino losses:", " ".join(f"{x:.6f}" for x in domino))
        for report in domino_compile.reports():
            print(f"\n{report_text(report)}")
    torch.testing.assert_close(domino, uncut, rtol=1e-4, atol=1e-5)
