"""What was chosen for each product: once a process, kept on disk, the same on all ranks.

The rank that is first in a process group decides and tells the others through the group's key-value
store; all ranks ask in the same order, that of their common program. Of several groups, which are
dimensions of a mesh, the first ranks of one do what the first rank of the next decides. Where there
is nothing to agree on (one process) each decides for itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from domino_compile import _compat
from domino_compile.gemm.cublaslt import Algorithm, Problem
from domino_compile.gemm.tune import Choice
from domino_compile.kept import alone, keep, kept

log = logging.getLogger(__name__)

#: Raised whenever the files change their meaning.
SCHEMA = 1
#: How long to wait for the rank that decides.
TIMEOUT = timedelta(seconds=120)


@dataclass(frozen=True)
class Question:
    """What is to be chosen.

    Attributes:
        problem: the product.
        held: multiprocessors that are held meanwhile.
        device: the GPU's name.
        library: the version of cuBLASLt.
    """

    problem: Problem
    held: int
    device: str
    library: int

    def digest(self) -> str:
        """A name for it, the same in every process."""
        content = {**asdict(self), "schema": SCHEMA}
        content["problem"]["dtype"] = str(self.problem.dtype)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def choose(question: Question, groups: Sequence[str], decide: Callable[[], Choice]) -> Choice:
    """The choice for a question: of the disk, of the groups' first rank, or decided now.

    Args:
        question: what is to be chosen.
        groups: names of the process groups whose ranks must agree, the same on all of them.
        decide: finds it out; called on one rank only.
    """
    if not (groups and dist.is_available() and dist.is_initialized()):
        return _known_or(question, decide)
    group, *others = groups
    shared = _compat.shared_store(group)
    if shared is None:
        return choose(question, others, decide)
    store, _, own = shared
    key = f"domino_compile/product/{question.digest()}"
    if own == 0:
        if store.check([key]):  # the others may know that one already
            return _decoded(store.get(key))
        try:
            choice = choose(question, others, decide)
        except Exception:
            store.set(key, _encoded(NOTHING))  # the others must not wait for what never comes
            raise
        store.set(key, _encoded(choice))
        return choice
    try:
        store.wait([key], TIMEOUT)
    except (RuntimeError, dist.DistError):
        log.warning("the first rank of group %s chose no algorithm for a product", group)
        return NOTHING
    return _decoded(store.get(key))


#: Torch's own choice, untimed.
NOTHING = Choice(None, 0.0, 0.0)


def _known_or(question: Question, decide: Callable[[], Choice]) -> Choice:
    name = f"product-{question.digest()}.json"
    if (choice := _known(name)) is not None:
        return choice
    with alone(f"products-{_gpu()}"):  # to decide is to time: others would disturb it
        if (choice := _known(name)) is None:
            choice = decide()
            keep(name, _encoded(choice))
    return choice


def _gpu() -> str:
    """A name for this process's GPU that is another for each of a machine's."""
    if not torch.cuda.is_available():
        return "none"
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _known(name: str) -> Choice | None:
    text = kept(name) if _compat.caches_enabled() else None
    if text is None:
        return None
    try:
        return _decoded(text)
    except (ValueError, TypeError, KeyError):
        log.info("%s cannot be read: chosen anew", name)
        return None


def _encoded(choice: Choice) -> str:
    return json.dumps(asdict(choice))


def _decoded(text: str | bytes) -> Choice:
    data: dict[str, Any] = json.loads(text)
    found = data["algorithm"]
    algorithm = None
    if found is not None:
        algorithm = Algorithm(
            int(found["multiprocessors"]), tuple(found["data"]), int(found["workspace_bytes"])
        )
    return Choice(algorithm, float(data["us"]), float(data["torch_us"]))
