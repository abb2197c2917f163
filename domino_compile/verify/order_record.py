"""What was established about the order of one graph's code, as data to establish it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domino_compile.verify.order import check_emitted
from domino_compile.verify.order_certificate import (
    Collective,
    Names,
    OrderCertificate,
    Promise,
)
from domino_compile.verify.part import NotEstablished


@dataclass(frozen=True)
class OrderRecord:
    """A graph's code that was checked.

    Attributes:
        phase: ``forward``, ``backward`` or ``inference``.
        certificate: What was established.
        promise: What the code had to do; ``None`` if the graph was not understood.
        names: What Inductor said about the names in the code.
        problem: Why the code does not run: what is not established, here or on another rank. Empty
            if it runs.
    """

    phase: str
    certificate: OrderCertificate
    promise: Promise | None = None
    names: Names | None = None
    problem: str = ""

    @property
    def code(self) -> str:
        """Return the name of the file that has the code, in the folder of the dump."""
        return f"{self.phase}/emitted.py"

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON data, but for the code."""
        promise, names = self.promise, self.names
        data: dict[str, Any] = {"phase": self.phase, "code": self.code, "problem": self.problem}
        data["established"] = self.certificate.as_dict()
        if promise is not None and names is not None:
            calls = [
                [c.name, c.kind, list(c.settings), c.waited, c.slot] for c in promise.collectives
            ]
            data["promise"] = {
                "collectives": calls,
                "input_bytes": dict(promise.input_bytes),
                "held_bytes": promise.held_bytes,
                "peak_bytes": promise.peak_bytes,
            }
            data["names"] = {"launches": dict(names.launches), "bytes": dict(names.bytes)}
        return data


def check_order_again(data: Mapping[str, Any], folder: Path) -> OrderCertificate:
    """Establish the order of a recorded graph's code once more, from the code.

    Args:
        data: What ``OrderRecord.to_json`` returned.
        folder: The folder of the dump.

    Raises:
        NotEstablished: The order is not established, or is not the recorded one.
    """
    title = f"the emitted order of the {data['phase']} graph"
    if data["problem"]:
        raise NotEstablished(title, f"{data['problem']}; Inductor ordered this graph alone")
    try:
        code = (folder / data["code"]).read_text(encoding="utf-8")
    except OSError as error:
        raise NotEstablished(title, f"{data['code']}: {error.strerror}") from error
    found = check_emitted(code, _promise(data["promise"]), _names(data["names"]))
    if not found.established:
        raise NotEstablished(title, str(found.findings[0]))
    if found.as_dict() != data["established"]:
        raise NotEstablished(title, "the code is not the code that was checked")
    return found


def _promise(data: Mapping[str, Any]) -> Promise:
    collectives = tuple(
        Collective(name, kind, _constant(settings), waited, *slot)
        for name, kind, settings, waited, *slot in data["collectives"]
    )
    return Promise(collectives, data["input_bytes"], data["held_bytes"], data["peak_bytes"])


def _names(data: Mapping[str, Any]) -> Names:
    launches = {name: tuple(nodes) for name, nodes in data["launches"].items()}
    return Names(launches, data["bytes"])


def _constant(value: Any) -> Any:
    return tuple(map(_constant, value)) if isinstance(value, list) else value
