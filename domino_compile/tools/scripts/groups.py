"""Fake or emulated process groups that replace the ones a script would start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from domino_compile.host.replaced import replaced, with_environment
from domino_compile.report.explanation import fake_ranks


def alone(ranks: int) -> dict[str, str]:
    """Return the environment of rank 0 of ``ranks`` ranks, if it is the only process."""
    environment = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": "1",
    }
    return environment | {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@contextmanager
def faked(ranks: int) -> Iterator[None]:
    """Replace the group that the script, or a mesh in it, would start with a fake one."""
    with (
        fake_ranks(ranks),
        with_environment(alone(ranks)),
        replaced(dist, "init_process_group", lambda *_, **__: None),
    ):
        yield


@contextmanager
def emulated(link: str, ranks: int, device: str) -> Iterator[None]:
    """Replace the script's group, with any backend, by one with an emulated link.

    Args:
        link: The name or file of the link table.
        ranks: The size of the group.
        device: With ``cpu`` this process is one of ``ranks`` gloo ranks. With ``cuda`` it is the
            only process and acts as one of them.
    """
    from domino_compile import emulate

    init_process_group, new_group = dist.init_process_group, dist.new_group

    def start(*_: Any, **__: Any) -> None:
        if dist.is_initialized():
            return
        with replaced(dist, "init_process_group", init_process_group):
            if device == "cuda":
                emulate.init(link, device="cuda", world_size=ranks)
            else:
                emulate.init(link)

    def another(ranks: Any = None, timeout: Any = None, backend: Any = None, **rest: Any) -> Any:
        return new_group(ranks, timeout, None, **rest)

    with (
        with_environment(alone(ranks) if device == "cuda" else {}),
        replaced(dist, "init_process_group", start),
        replaced(dist, "new_group", another),
    ):
        start()  # a mesh may be the first to need it
        try:
            yield
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
