"""``domino_compile.profile``: measure some steps of your own training loop."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch.distributed as dist

from domino_compile import _compat
from domino_compile.errors import DominoError
from domino_compile.report import reports
from domino_compile.tools.profiling.measured import RankMeasured, emulated_link, measured
from domino_compile.tools.profiling.result import ProfileResult, profile_result
from domino_compile.tools.profiling.session import Phases, Session


class ProfileError(DominoError, RuntimeError):
    """A profile has no result. The message is one line that says what to do."""


class profile:
    """Measure a few steps: where their time goes, and what overlap could gain.

    Every rank runs the same code::

        with domino_compile.profile(steps=10) as p:
            for batch in batches:
                train_step(batch)
                p.step()
                if p.done:
                    break
        print(p.result)

    Args:
        steps: Number of timed steps.
        warmup: Number of steps before them, including compilation.
        traced: Number of steps after them, under torch's profiler.

    Raises:
        ValueError: One of these is less than 1.
    """

    def __init__(self, steps: int = 10, warmup: int = 4, traced: int = 3) -> None:
        if min(steps, warmup, traced) < 1:
            raise ValueError("steps, warmup and traced must each be at least 1")
        self._phases = Phases(warmup, steps, traced)
        self._session = Session(self._phases)
        self._result: ProfileResult | None = None

    def __enter__(self) -> profile:
        self._session = Session(self._phases)
        return self

    def step(self) -> None:
        """Mark the end of a step."""
        self._session.ended()

    @property
    def done(self) -> bool:
        """Return whether enough steps have run. Further ones are not measured and do no harm."""
        return self._session.done

    @property
    def result(self) -> ProfileResult:
        """Return what was measured, the same on every rank.

        Raises:
            ProfileError: The block has not ended.
        """
        if self._result is None:
            raise ProfileError("profile: there is no result before the with block has ended")
        return self._result

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._session.restarted()
            return
        seen = len(self._session.facts)
        if not self.done:
            self._session.restarted()
            raise ProfileError(
                f"profile: {seen} steps were seen and {self._phases.whole} are needed: call step() "
                "at the end of each, or ask for fewer with steps=, warmup= and traced="
            )
        rank, ranks = _compat.rank_and_world()
        mine = measured(
            self._session,
            "as measured",
            rank,
            ranks,
            emulated_link(),
            reports(),
            "step()",
        )
        if mine.account is None:
            raise ProfileError(
                "profile: torch's profiler is already running, and only one can run at a time"
            )
        self._result = profile_result(shared(mine))


def shared(mine: RankMeasured) -> list[RankMeasured]:
    """Return what all ranks of the default group measured; a collective call."""
    if not dist.is_initialized() or mine.ranks == 1 or _is_only_process():
        return [mine]
    gathered: list[Any] = [None] * mine.ranks
    dist.all_gather_object(gathered, mine.as_dict())
    return [RankMeasured.from_dict(data) for data in gathered]


def _is_only_process() -> bool:
    """Return whether this process stands for a rank among others that are not there."""
    group = dist.group.WORLD
    return group is None or _compat.shared_store(group.group_name) is None
