"""What was found for each product: once a process, kept on disk, the same on all ranks.

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
from typing import Any, TypeAlias

import torch
import torch.distributed as dist

from domino_compile import _compat
from domino_compile.gemm.cublaslt import Algorithm, Problem
from domino_compile.gemm.tune import Way
from domino_compile.kept import alone, keep, kept

log = logging.getLogger(__name__)

#: Raised whenever the files change their meaning.
SCHEMA = 2
#: How long to wait for the rank that decides.
TIMEOUT = timedelta(seconds=120)

#: Ways to compute a product, torch's own first.
Ways: TypeAlias = tuple[Way, ...]


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        problem: the product.
        held: multiprocessors that a collective holds.
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


def choose(question: Question, groups: Sequence[str], decide: Callable[[], Ways]) -> Ways:
    """The ways to compute a product: of the disk, of the groups' first rank, or found now.

    Args:
        question: what is asked.
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
            ways = choose(question, others, decide)
        except Exception:
            store.set(key, _encoded(NOTHING))  # the others must not wait for what never comes
            raise
        store.set(key, _encoded(ways))
        return ways
    try:
        store.wait([key], TIMEOUT)
    except (RuntimeError, dist.DistError):
        log.warning("the first rank of group %s chose no algorithm for a product", group)
        return NOTHING
    return _decoded(store.get(key))


#: Torch's own only, untimed.
NOTHING: Ways = (Way(None, 0.0, 0.0),)


def _known_or(question: Question, decide: Callable[[], Ways]) -> Ways:
    name = f"product-{question.digest()}.json"
    if (ways := _known(name)) is not None:
        return ways
    with alone(f"products-{_gpu()}"):  # to decide is to time: others would disturb it
        if (ways := _known(name)) is None:
            ways = decide()
            keep(name, _encoded(ways))
    return ways


def _gpu() -> str:
    """A name for this process's GPU that is another for each of a machine's."""
    if not torch.cuda.is_available():
        return "none"
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _known(name: str) -> Ways | None:
    text = kept(name) if _compat.caches_enabled() else None
    if text is None:
        return None
    try:
        return _decoded(text)
    except (ValueError, TypeError, KeyError):
        log.info("%s cannot be read: chosen anew", name)
        return None


def _encoded(ways: Ways) -> str:
    return json.dumps([asdict(way) for way in ways])


def _decoded(text: str | bytes) -> Ways:
    return tuple(_way(data) for data in json.loads(text))


def _way(data: dict[str, Any]) -> Way:
    found = data["algorithm"]
    algorithm = None
    if found is not None:
        algorithm = Algorithm(
            int(found["multiprocessors"]), tuple(found["data"]), int(found["workspace_bytes"])
        )
    return Way(algorithm, float(data["alone_us"]), float(data["beside_us"]))
