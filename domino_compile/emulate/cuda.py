"""CUDA transport (not there yet)."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from domino_compile.emulate.group import Call
from domino_compile.emulate.settings import EmulateError
from domino_compile.emulate.trace import Record


class CudaTransport:
    """Acts as one rank of a group on one GPU."""

    fallback: Any

    def __init__(self, rank: int, size: int) -> None:
        raise EmulateError("the emulated link on CUDA is not there yet")

    def start(self, call: Call, record: Record) -> dist.Work:
        """Launch ``call``."""
        raise NotImplementedError
