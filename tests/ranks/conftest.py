"""The ranks, started at the first test that needs them and kept for all modules of this folder."""

from collections.abc import Callable, Iterator

import pytest

from tests.ranks.checks import Training
from tests.ranks.pool import Pool

Pools = dict[int, Pool]
#: ``train(world, form, dtype, backend, ...)``: what `checks.train` says on each rank.
Train = Callable[..., list[Training]]


@pytest.fixture(scope="session")
def pools() -> Iterator[Pools]:
    """Pools of 2 and 4 ranks."""
    pools = {size: Pool(size) for size in (2, 4)}
    yield pools
    for pool in pools.values():
        pool.stop()


@pytest.fixture(scope="session")
def train(pools: Pools) -> Train:
    """Trainings, each done once."""
    done: dict[str, list[Training]] = {}

    def run(world: int, *arguments: object) -> list[Training]:
        key = repr((world, *arguments))
        if key not in done:
            done[key] = pools[world].run("tests.ranks.checks:train", *arguments, timeout=900)
        return done[key]

    return run
