"""Known errors of scripts on first contact, each with the next step in one line."""

from __future__ import annotations

import os
import re

_TORCHRUN = re.compile(
    r"environment variable (RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|LOCAL_RANK) expected"
    r"|^KeyError: '(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT)'"
    r"|Default process group has not been initialized"
)
_NO_GPU = re.compile(
    r"ProcessGroupNCCL is only supported with GPUs"
    r"|Torch not compiled with CUDA enabled"
    r"|No CUDA GPUs are available"
    r"|Found no NVIDIA driver"
    r"|device type cuda.* is not available|Invalid device argument"
)


def next_step(script: str, error: str) -> str:
    """Return what to do about a script's error; empty if that is not known.

    Args:
        script: The script's path.
        error: The last line of its traceback.
    """
    if _TORCHRUN.search(error) and "RANK" not in os.environ:
        return (
            f"{script} expects the ranks of torchrun: add --ranks N in front of it to use a fake "
            "group of N ranks in this process, or start it as torchrun --nproc-per-node N "
            "-m domino_compile explain"
        )
    if _NO_GPU.search(error):
        return _without_gpu(script, error)
    return ""


def _without_gpu(script: str, error: str) -> str:
    if "NCCL" in error:
        return (
            f"{script} uses NCCL, and there is no GPU here: --link NAME (see: domino links) "
            "replaces its group by gloo ranks with an emulated link, and explain --ranks N by a "
            "fake group"
        )
    return (
        f"{script} puts tensors on a GPU, and there is none here: give it its own option for the "
        "CPU behind its name; explain --device H200 plans for a GPU all the same"
    )


def spawns(script: str, ranks: int | None) -> str:
    """Return what to do if a script starts its ranks itself, in processes that nobody observes.

    Args:
        script: The script's path.
        ranks: The number of processes that it starts, if known.
    """
    count = ranks or "N"
    return (
        f"{script} starts its {count} ranks itself, in processes that cannot be observed: "
        f"explain --ranks {count} runs its first rank in this process; for profile and poc let the "
        "script use the RANK that torchrun sets, if there is one, and start none"
    )
