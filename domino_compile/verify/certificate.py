"""What was established about a compile, as text to read and as data to check again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domino_compile.verify.check import (
    NUMBERS,
    SAME,
    STRUCTURE,
    Established,
    Memory,
    check,
)
from domino_compile.verify.claims import Witness
from domino_compile.verify.order_certificate import OrderCertificate
from domino_compile.verify.order_record import OrderRecord, check_order_again
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.plain import Graph, from_json, to_json
from domino_compile.verify.verifier import Checked

#: Raised whenever the data changes its form or meaning.
SCHEMA_VERSION = 2
WAYS = {
    SAME: "the same operation on the same values",
    STRUCTURE: "by structure: the same operation reads the same elements",
    NUMBERS: "by numbers: both forms agree on random values in float64",
}


def certificate_text(
    checked: Sequence[Checked], problem: str = "", orders: Sequence[OrderRecord] = ()
) -> str:
    """Return what was established, pass by pass, then about the code of each graph.

    Args:
        checked: The passes that were established.
        problem: What was not established about the passes; empty if all was.
        orders: The code that was checked, if it was.
    """
    lines = [_verdict(checked, problem or _refused(orders)), ""]
    for one in checked:
        lines += _about(one)
    for record in orders:
        lines += [f"{record.phase} code: {record.certificate.as_text()}"]
    lines += [
        "A value is established if it equals what its claim says of a value before, given that its",
        "operands do. `domino verify FOLDER` repeats the proof from certificate.json.",
    ]
    return "\n".join(lines) + "\n"


def _verdict(checked: Sequence[Checked], problem: str) -> str:
    if problem:
        return f"not established: {problem}"
    total: Counter[str] = sum((one.done.counts for one in checked), Counter())
    said = ", ".join(f"{total[way]} {way}" for way in WAYS if total[way])
    values = sum(total.values())
    return f"established: every result of every pass ({values} values: {said})"


def _about(one: Checked) -> list[str]:
    counts, (old, new) = one.done.counts, one.done.collectives
    lines = [f"{one.phase} {one.name}: {len(one.before.outputs)} results are what they were"]
    lines += [f"  {counts[way]:6} {text}" for way, text in WAYS.items() if counts[way]]
    lines.append(f"  collectives: {old} before, {new} after, each accounted for")
    lines += [f"  taken to hold: {text}" for text in one.done.assumed]
    numbers = [name for name, way in one.done.how.items() if way == NUMBERS]
    lines += _wrapped("  by numbers: ", numbers)
    return [*lines, ""]


def _wrapped(head: str, names: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for name in names:
        if not lines or len(lines[-1]) + len(name) > 95:
            lines.append(" " * len(head) if lines else head)
        lines[-1] += f"{name} "
    return [line.rstrip() for line in lines]


def _refused(orders: Sequence[OrderRecord]) -> str:
    refused = (f"the order of the {x.phase} code: {x.problem}" for x in orders if x.problem)
    return next(refused, "")


def certificate_json(
    checked: Sequence[Checked], problem: str = "", orders: Sequence[OrderRecord] = ()
) -> str:
    """Return graphs, claims and what was established, to be checked again."""
    graphs: list[dict[str, Any]] = []
    places: dict[int, int] = {}

    def place(graph: Graph) -> int:
        if id(graph) not in places:
            data = to_json(graph)
            places[id(graph)] = graphs.index(data) if data in graphs else len(graphs)
            if places[id(graph)] == len(graphs):
                graphs.append(data)
        return places[id(graph)]

    passes = [
        {
            "phase": one.phase,
            "pass": one.name,
            "before": place(one.before),
            "after": place(one.after),
            "claims": one.witness.to_json(),
            "established": one.done.how,
            "collectives": list(one.done.collectives),
            "assumed": one.done.assumed,
        }
        for one in checked
    ]
    data: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "problem": problem}
    data["passes"] = passes
    data |= {"orders": [record.to_json() for record in orders], "graphs": graphs}
    return json.dumps(data, indent=None, separators=(",", ":"), default=str) + "\n"


@dataclass(frozen=True)
class Proved:
    """What a certificate's second proof has established.

    Attributes:
        passes: Each pass, and what is established about it.
        orders: The phase of each graph whose code was read, and what is established about it.
    """

    passes: list[tuple[str, Established]]
    orders: list[tuple[str, OrderCertificate]]


def check_again(text: str, folder: Path) -> Proved:
    """Prove anew what a certificate says.

    Args:
        text: The certificate (``certificate.json``).
        folder: The folder that it is in, which has the emitted code.

    Raises:
        NotEstablished: The proof fails.
        ValueError: The text is no certificate of this version.
    """
    data = json.loads(text)
    if data.get("schema_version") != SCHEMA_VERSION:
        version = data.get("schema_version")
        raise ValueError(f"a certificate of schema version {version}, expected {SCHEMA_VERSION}")
    graphs = [from_json(graph) for graph in data["graphs"]]
    memory, done = Memory(), []
    if data["problem"]:
        raise NotEstablished("the compile", data["problem"])
    for one in data["passes"]:
        title = f"{one['phase']} {one['pass']}"
        witness = Witness.from_json(one["claims"])
        established = check(graphs[one["before"]], graphs[one["after"]], witness, memory)
        done.append((title, established))
    orders = [(one["phase"], check_order_again(one, folder)) for one in data["orders"]]
    return Proved(done, orders)
