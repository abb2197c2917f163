"""The operations of the option ``transport``, by name: collectives whose payloads lie in slots.

Names are all that the checker takes from ``domino_compile.transport.ops``. What the operations mean
is said here, in ``interpret`` and in ``movements``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

#: The namespace of the operations.
NAMESPACE = "domino_compile"
#: What the names of operations end with that Inductor emits and that return nothing.
EMITTED = "_only"


@dataclass(frozen=True)
class Start:
    """An operation that starts a collective.

    Attributes:
        wait: The operation that waits for it.
        release: The operation that ends the use of its slot; empty if its wait does.
        use: What its slot is used for; slots of other uses are other memory.
        shares: Whether one rank's part of the slot is a rank's share of the payload, or all of it.
        carries: The collectives that it may stand for.
    """

    wait: str
    release: str
    use: str
    shares: bool
    carries: tuple[str, ...]

    @property
    def in_slot(self) -> bool:
        """Return whether its result lies in the slot itself."""
        return bool(self.release)


STARTS = {
    "scatter_start": Start(
        *("inbox_wait", "inbox_release", "inbox", True),
        ("reduce_scatter_tensor",),
    ),
    "exchange_start": Start(
        *("inbox_wait", "inbox_release", "inbox", False),
        ("all_reduce", "all_gather_into_tensor"),
    ),
    "gather_start": Start(
        *("gather_wait", "gather_release", "gathered", False),
        ("all_gather_into_tensor",),
    ),
    "reduce_start": Start("reduce_wait", "", "summands", True, ("all_reduce",)),
}
WAITS = frozenset(start.wait for start in STARTS.values())
RELEASES = frozenset(start.release for start in STARTS.values()) - {""}

#: Slots have at least this many bytes. Above that there are four sizes between powers of two.
_LEAST, _STEPS = 1024, 3


@cache
def command_of(target: str) -> str:
    """Return the name of a transport operation; empty if it is none.

    Args:
        target: A name such as ``domino_compile.inbox_wait.default``.
    """
    namespace, _, rest = target.partition(".")
    name = rest.partition(".")[0]
    known = name in STARTS or name in WAITS or name in RELEASES
    return name if namespace == NAMESPACE and known else ""


def slot_of(kind: str, number: object, group: str, payload_bytes: int, ranks: int) -> str:
    """Return a name for the memory that a start uses: equal for two starts that share a slot.

    Args:
        kind: The start.
        number: The number of the slot.
        group: The process group.
        payload_bytes: The bytes of what a rank sends.
        ranks: The number of ranks of the group.
    """
    start = STARTS[kind]
    nbytes = payload_bytes // ranks if start.shares else payload_bytes
    step = max(_LEAST, 1 << max(0, (nbytes - 1).bit_length() - _STEPS))
    rounded = max(_LEAST, -(-nbytes // step) * step)
    return f"{start.use} slot {number} of {rounded} bytes of group {group}"
