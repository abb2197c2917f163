"""The environment in which tests compile: shared by all processes of a run."""

import gc
import os
import shutil
import subprocess
from pathlib import Path

#: Graphs do not come from a cache, since a test must compile what it tests; kernels do.
CACHES = {
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "0",
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
}
ROOT = Path(__file__).resolve().parent.parent
#: The torch that `tests.kernels` reaches into; with any other, Inductor is as slow as it is.
TORCH = "2.13."
#: New objects from one search for garbage to the next; compiling makes few that are.
COLLECT_EVERY = 20_000


def quicken_inductor(scalar: bool = True) -> None:
    """Let Inductor build the kernels of a graph together, in this process and from now on.

    Also Python looks for garbage less often, and not in what was imported.

    Args:
        scalar: whether kernels are also written without vectors and not optimised.
    """
    import torch

    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)
    if not torch.__version__.startswith(TORCH):
        return
    from tests import kernels

    kernels.build_together()
    kernels.initialise_once()
    kernels.time_no_guards()
    if scalar:
        kernels.write_scalar_kernels()


def quick_processes() -> dict[str, str]:
    """Variables by which whatever Python starts has a quicker Inductor (see `tests/quick`)."""
    before = os.environ.get("PYTHONPATH")
    folders = [str(ROOT), str(ROOT / "tests" / "quick"), before]
    return {"PYTHONPATH": os.pathsep.join(filter(None, folders))}


def quick_builds(folder: Path) -> dict[str, str]:
    """Variables that make building a kernel quicker: a third of it is ld reading torch's libraries.

    Args:
        folder: where a link to a quicker linker may be put.
    """
    found = {
        # Otherwise every new cache folder begins with building a probe, which takes ten seconds.
        "TORCHINDUCTOR_VEC_ISA_OK": "1",
        "AOT_INDUCTOR_ENABLE_LINE_TABLES": "0",  # nobody debugs these kernels
    }
    if (gold := shutil.which("ld.gold")) is not None:
        folder.mkdir(exist_ok=True)
        (folder / "ld").symlink_to(gold)
        # Here gcc looks for its parts first.
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("COMPILER_PATH")]))
        if _links(folder, path):
            found["COMPILER_PATH"] = path
    return found


def _links(folder: Path, compiler_path: str) -> bool:
    """Whether the compiler can make a library with the linker in a folder."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        return False
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c++", os.devnull, "-o", folder / "probe.so"],
        env=os.environ | {"COMPILER_PATH": compiler_path},
        capture_output=True,
        check=False,
    )
    return made.returncode == 0
