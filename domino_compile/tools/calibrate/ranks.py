"""The ranks of a calibration, which begin together, agree on every number and end together.

torchrun's environment describes them. Before the process group exists they talk through torchrun's
key-value store, so all ranks know of a problem on one of them before a collective could hang.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from domino_compile.errors import first_line
from domino_compile.tools.calibrate.settings import CalibrateError

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# How long a rank that gives up waits until the others have read the reason.
_FAREWELL = timedelta(seconds=10)


@dataclass(frozen=True)
class Place:
    """The place of this process among the ranks, as given by torchrun.

    Attributes:
        rank: The rank of this process among all.
        world: The number of ranks.
        local_rank: The rank of this process among those on its machine.
        local_world: The number of ranks on this machine.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int

    def nodes(self, group_size: int) -> int:
        """Return the most machines that a group of consecutive ranks is spread over."""
        groups = range(0, self.world, group_size)
        return max(
            len({rank // self.local_world for rank in range(first, first + group_size)})
            for first in groups
        )


def place_in(env: Mapping[str, str]) -> Place | None:
    """Return this process's place from torchrun's variables; ``None`` if torchrun did not start it.

    Raises:
        CalibrateError: A variable is not a number.
    """
    if any(name not in env for name in _NEEDED):
        return None
    try:
        rank, world, local_rank, local_world = (int(env[name]) for name in _NEEDED[:4])
    except ValueError as error:
        raise CalibrateError(f"torchrun's environment: {error}") from error
    return Place(rank, world, local_rank, local_world)


class Ranks:
    """All ranks of a calibration, seen from one.

    Args:
        place: The place of this process.
        device: ``cpu`` or ``cuda``.
        timeout_s: How many seconds to wait for other ranks.
    """

    def __init__(self, place: Place, device: str, timeout_s: float) -> None:
        self.place = place
        self.timeout = timedelta(seconds=timeout_s)
        local = place.local_rank
        self.device = torch.device("cpu") if device == "cpu" else torch.device("cuda", local)
        self._store: Any = None

    def meet(self, facts: Mapping[str, str], problem: CalibrateError | None) -> list[Any]:
        """Exchange facts with the other ranks.

        Args:
            facts: The facts about this rank.
            problem: The reason why this rank cannot take part, if there is one.

        Returns:
            The facts of all ranks.

        Raises:
            CalibrateError: A rank has a problem or does not come. All ranks raise the error.
        """
        message = {"facts": dict(facts), "problem": None if problem is None else str(problem)}
        waited = f"within {self.timeout.total_seconds():g} s (--timeout)"
        try:
            base, _, _ = next(dist.rendezvous("env://", timeout=self.timeout))
        except (RuntimeError, ValueError) as error:
            raise CalibrateError(f"not all ranks came {waited}: {first_line(error)}") from error
        self._store = dist.PrefixStore("domino_calibrate", base)
        self._store.set(f"rank/{self.place.rank}", json.dumps(message))
        everyone = [self._hear(rank, waited) for rank in range(self.place.world)]
        problems = [one["problem"] for one in everyone]
        for rank, said in enumerate(problems):
            if said is not None:
                self._stay_until_heard()
                shared = len(set(problems)) == 1
                raise CalibrateError(said if shared else f"rank {rank}: {said}")
        return [one["facts"] for one in everyone]

    def _hear(self, rank: int, waited: str) -> Any:
        try:
            self._store.wait([f"rank/{rank}"], self.timeout)
            return json.loads(self._store.get(f"rank/{rank}"))
        except RuntimeError as error:
            raise CalibrateError(f"rank {rank} did not come {waited}") from error

    def _stay_until_heard(self) -> None:
        """Keep this process, which may hold the store, until all ranks have read from it."""
        with contextlib.suppress(RuntimeError):
            if self._store.add("heard", 1) == self.place.world:
                self._store.set("all heard", "")
            self._store.wait(["all heard"], min(self.timeout, _FAREWELL))

    def join(self) -> None:
        """Make the process group: NCCL (or RCCL) on GPUs, gloo on the CPU."""
        options: dict[str, Any] = {}
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            options["device_id"] = self.device
        dist.init_process_group(
            "gloo" if self.device.type == "cpu" else "nccl",
            store=dist.PrefixStore("group", self._store),
            rank=self.place.rank,
            world_size=self.place.world,
            timeout=self.timeout,
            **options,
        )

    def group_of(self, size: int) -> Any:
        """Return this rank's group; consecutive ranks form groups of ``size`` ranks."""
        if size == self.place.world:
            return dist.group.WORLD
        this_group = None
        for first in range(0, self.place.world, size):
            group = dist.new_group(list(range(first, first + size)), timeout=self.timeout)
            if first <= self.place.rank < first + size:
                this_group = group
        return this_group

    def slowest(self, values: Sequence[float]) -> list[float]:
        """Return each value's maximum over all ranks, which is the same list on every rank."""
        vector = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        if self.place.world > 1:
            dist.all_reduce(vector, op=dist.ReduceOp.MAX)
        return [float(value) for value in vector.tolist()]

    def barrier(self) -> None:
        """Wait until all ranks have come here and their devices are idle."""
        self.slowest([0.0])

    def first_to_fail(self) -> bool:
        """Return whether no other rank has failed before, so that one failure prints one line."""
        if self._store is None:
            return self.place.rank == 0
        with contextlib.suppress(RuntimeError):
            return int(self._store.add("failed", 1)) == 1
        return False

    def leave(self) -> None:
        """Destroy the process group."""
        if dist.is_initialized():
            dist.destroy_process_group()
