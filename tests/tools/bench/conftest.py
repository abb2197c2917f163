"""A world of which only this process exists."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from domino_compile import emulate


@pytest.fixture(scope="module")
def lone_rank() -> Iterator[None]:
    """The first of two ranks; collectives give numbers as ``emulate.symmetric`` says."""
    if dist.is_initialized():
        dist.destroy_process_group()
    emulate.init_lone_rank(2)
    yield
    dist.destroy_process_group()
