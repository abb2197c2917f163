"""The choice of an algorithm for each product, kept on disk and equal on all ranks.

The first rank that asks a question decides, and tells the other ranks that ask it through the
key-value store. Replicas of a layer that is not divided among ranks therefore compute it in the
same way. A rank whose product has a shape that no other rank has (the smaller part of a vocabulary
that does not divide evenly) waits for nobody. A single process decides by itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from domino_compile import _compat
from domino_compile.gemm.cublaslt import Algorithm, Problem
from domino_compile.gemm.tune import Way, Ways
from domino_compile.host.kept import exclusive, keep, kept

log = logging.getLogger(__name__)

#: To be increased whenever the meaning of the files changes.
SCHEMA = 3
#: How long to wait for the rank that decides.
TIMEOUT = timedelta(seconds=120)


@dataclass(frozen=True)
class Question:
    """A product for which an algorithm is needed.

    Attributes:
        problem: The product.
        held: The number of multiprocessors that a collective holds.
        device: The GPU's name.
        library: The version of cuBLASLt.
    """

    problem: Problem
    held: int
    device: str
    library: int

    def digest(self) -> str:
        """Return a name for the question that is the same in every process."""
        content = {**asdict(self), "schema": SCHEMA}
        content["problem"]["dtype"] = str(self.problem.dtype)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def choose(question: Question, decide: Callable[[], Ways]) -> Ways:
    """Return the ways to compute a product, from disk, from the first rank to ask, or timed now.

    Args:
        question: The product.
        decide: A function that times the algorithms; it is called on one rank only.
    """
    world = dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
    shared = None if world is None else _compat.shared_store(world.group_name)
    if shared is None:
        return _known_or(question, decide)
    store, _, this_rank = shared
    key = f"domino_compile/product/{question.digest()}"
    first = int(store.compare_set(f"{key}/first", "", str(this_rank)))
    if first != this_rank:
        try:
            store.wait([key], TIMEOUT)
        except (RuntimeError, dist.DistError):
            seconds = TIMEOUT.total_seconds()
            log.warning(
                "rank %d has not timed a product within %g s: using torch's own algorithm",
                first,
                seconds,
            )
            return _settled(store, key, NOTHING)
    elif not store.check([key]):  # the answer may be there already
        ways = NOTHING  # the answer if deciding fails, so that the others do not wait in vain
        try:
            ways = _known_or(question, decide)
        finally:
            ways = _settled(store, key, ways)
        return ways
    return _decoded(store.get(key))


def _settled(store: Any, key: str, ways: Ways) -> Ways:
    """Return the answer that holds for all ranks, which is the first one given.

    Ranks that have waited too long may answer at the same time as the rank that decided too late.
    """
    told = store.compare_set(f"{key}/settled", "", _encoded(ways))
    store.set(key, told)  # every rank sets the same; this wakes those that wait
    return _decoded(told)


#: Only torch's own choice, not timed.
NOTHING: Ways = (Way(None, 0.0, 0.0),)


def _known_or(question: Question, decide: Callable[[], Ways]) -> Ways:
    name = f"product-{question.digest()}.json"
    if (ways := _known(name)) is not None:
        return ways
    with exclusive(f"products-{_gpu()}"):  # deciding takes timings, which others would disturb
        if (ways := _known(name)) is None:
            ways = decide()
            keep(name, _encoded(ways))
    return ways


def _gpu() -> str:
    """Return a name for this process's GPU that no other GPU of the machine has."""
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
        log.info("%s cannot be read: choosing again", name)
        return None


def _encoded(ways: Ways) -> str:
    return json.dumps([asdict(way) for way in ways])


def _decoded(text: str | bytes) -> Ways:
    ways = tuple(_way(data) for data in json.loads(text))
    if not ways:
        raise ValueError("no ways to compute a product")
    return ways


def _way(data: dict[str, Any]) -> Way:
    chosen = data["algorithm"]
    algorithm = None
    if chosen is not None:
        algorithm = Algorithm(
            int(chosen["multiprocessors"]), tuple(chosen["data"]), int(chosen["workspace_bytes"])
        )
    times = (float(data[name]) for name in ("alone_us", "beside_us", "late_us"))
    return Way(algorithm, *times)
