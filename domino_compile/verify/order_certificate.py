"""What emitted code must do, what can be wrong with it, and what was established about it.

``order`` establishes it; ``record`` writes it down, so that it can be established again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from domino_compile.verify.emitted_events import Launch
from domino_compile.verify.transported import STARTS


class Rule(Enum):
    """What emitted code can violate."""

    READABLE = "the code is understood"
    WAIT_AFTER_LAUNCH = "a wait comes after its launch"
    WAITED = "every collective is waited for"
    USE_AFTER_WAIT = "a result is used after its wait"
    NOT_OVERWRITTEN = "what is being sent is not overwritten"
    NOT_FREED = "a buffer in flight is not freed"
    NOT_REUSED = "a buffer in flight is not reused"
    COMPUTED = "what is sent has been computed"
    IN_SLOT = "what lies in a slot is read until its release, and released once"
    SEQUENCE = "each group has the collectives of the graph, in its order"
    PEAK = "the peak of live buffers is at most the predicted one"


@dataclass(frozen=True)
class Finding:
    """A violation.

    Attributes:
        rule: What is violated.
        line: The line of the emitted code; 0 if it is about the whole.
        why: The buffer or collective, and what happens to it.
    """

    rule: Rule
    line: int
    why: str

    def __str__(self) -> str:
        where = f"line {self.line} of the emitted code: " if self.line else ""
        return f"{where}{self.why} ({self.rule.value})"


@dataclass(frozen=True)
class Collective:
    """A collective of the lowered graph.

    Attributes:
        name: Its node.
        kind: ``all_reduce``, ...
        settings: Its constant arguments besides tensors, the group's name last; ``None`` stands for
            one that is not known before the program runs.
        waited: Whether the graph waits for it.
        slot: What memory it uses, if the transport carries it: equal for two that share it.
    """

    name: str
    kind: str
    settings: tuple[object, ...]
    waited: bool = True
    slot: str = ""

    @property
    def group(self) -> str:
        """Return the name of its process group."""
        return str(self.settings[-1])

    def matches(self, launch: Launch) -> bool:
        """Return whether a launch in the code may be this collective."""
        return launch.kind == self.kind and all(
            mine is None or mine == theirs
            for mine, theirs in zip(self.settings, launch.settings, strict=False)
        )


@dataclass(frozen=True)
class Promise:
    """What the emitted code must do.

    Attributes:
        collectives: Those of the lowered graph, in order.
        input_bytes: The sizes of its inputs by name, those that the graph may free.
        held_bytes: The bytes that the caller holds while the graph runs.
        peak_bytes: The predicted peak of live memory, including these; 0 if there is none.
    """

    collectives: tuple[Collective, ...]
    input_bytes: Mapping[str, int] = field(default_factory=dict)
    held_bytes: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Names:
    """What Inductor says about names in the code that it emitted, as far as it is known.

    Attributes:
        launches: The graph's nodes of the launches that work on a buffer (or return it, if they do
            not work in place), by the name of the buffer, in order.
        bytes: The sizes of buffers by name.
    """

    launches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OrderCertificate:
    """What was established about the emitted code of one graph.

    Attributes:
        order: The collectives of each group, as emitted.
        waits: The number of waits.
        peak_bytes: The peak of live buffers, including what the caller holds; 0 if unknown.
        findings: What was violated; empty if the order is established.
        in_flight: The most tensors that were in flight at once.
        buffers: How many buffers were in flight at some time.
        predicted_bytes: The peak that was predicted; 0 if there is no prediction.
    """

    order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    waits: int = 0
    peak_bytes: int = 0
    findings: tuple[Finding, ...] = ()
    in_flight: int = 0
    buffers: int = 0
    predicted_bytes: int = 0

    @property
    def established(self) -> bool:
        """Return whether nothing is violated."""
        return not self.findings

    def digest(self, group: str) -> str:
        """Return a hash of a group's order; equal on all ranks of the group."""
        return hashlib.sha256(json.dumps(self.order.get(group, ())).encode()).hexdigest()[:32]

    @property
    def launches(self) -> int:
        """Return the number of collectives that the code launches."""
        return sum(map(len, self.order.values()))

    def as_text(self) -> str:
        """Return what is established about the code, or what is not, one fact a line."""
        if self.findings:
            lines = ["not established:", *(f"  {finding}" for finding in self.findings)]
            return "\n".join(lines) + "\n"
        lines = [
            "Established from the code that Inductor emitted, from its first line to its last:"
        ]
        lines += [f"  {fact}" for fact in self._facts()]
        for group, launches in self.order.items():
            lines += ["", f"Group {group}, in this order:", *(f"  {x}" for x in launches)]
        return "\n".join(lines) + "\n"

    def _facts(self) -> list[str]:
        predicted = f" (predicted: {self.predicted_bytes})" if self.predicted_bytes else ""
        peak = f"{self.peak_bytes} bytes{predicted}" if self.peak_bytes else "not known"
        said = {
            Rule.WAIT_AFTER_LAUNCH: f"{self.launches} launches, {self.waits} waits",
            Rule.USE_AFTER_WAIT: f"at most {self.in_flight} tensors in flight at once",
            Rule.NOT_FREED: f"{self.buffers} buffers were in flight",
            Rule.SEQUENCE: f"{len(self.order)} groups" if len(self.order) != 1 else "1 group",
            Rule.PEAK: f"the peak is {peak}",
        }
        carried = any(x.split()[0] in STARTS for names in self.order.values() for x in names)
        rules = [rule for rule in Rule if carried or rule is not Rule.IN_SLOT]
        return [f"{rule.value}{f': {said[rule]}' if rule in said else ''}" for rule in rules]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        findings = [{"rule": f.rule.name, "line": f.line, "why": f.why} for f in self.findings]
        return {
            "order": {group: list(names) for group, names in self.order.items()},
            "launches": self.launches,
            "waits": self.waits,
            "in_flight": self.in_flight,
            "buffers": self.buffers,
            "peak_bytes": self.peak_bytes,
            "predicted_bytes": self.predicted_bytes,
            "findings": findings,
        }
