"""Faults in emitted code, of named kinds: what the check of the order must reject or accept.

Inductor writes one statement per line, so a mutant is made of the lines of ``call``. ``mutants``
yields every mutant of a graph's code; a kind may have none, for example for a graph without an
all-gather.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

LAUNCH = re.compile(r"torch\.ops\._c10d_functional\.(?!wait_tensor)(\w+)\.default\(")
WAIT = "torch.ops._c10d_functional.wait_tensor.default("
BUFFER = re.compile(r"\b(?:buf\d+|\w+_\d+)\b")
PRODUCT = re.compile(r"extern_kernels\.\w+\(.*out=(\w+)\)")


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        kind: What was done, ``order: ...``.
        code: The code with the fault.
        harmless: Whether the mutant computes the same, in a permitted order.
    """

    kind: str
    code: str
    harmless: bool = False


@dataclass(frozen=True)
class Flight:
    """A collective in the code: the lines of launch and wait, and the buffer in flight."""

    launch: int
    wait: int
    sent: str
    received: str


class Code:
    """The lines of emitted code.

    Args:
        text: A module.
    """

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.flights = list(self._flights())

    def _flights(self) -> Iterator[Flight]:
        for at, line in enumerate(self.lines):
            if line.strip().startswith("#") or not (found := LAUNCH.search(line)):
                continue
            sent = self.first(line[found.end() :])
            received = line.split("=")[0].strip() if not found[1].endswith("_") else sent
            for later in range(at + 1, len(self.lines)):
                text = self.lines[later].strip()
                if text.startswith(WAIT) and self.first(text[len(WAIT) :]) == received:
                    yield Flight(at, later, sent, received)
                    break

    @staticmethod
    def first(text: str) -> str:
        """The first buffer in a text."""
        found = BUFFER.search(text.replace("reinterpret_tensor", ""))
        return found.group() if found else ""

    def moved(self, line: int, before: int) -> str:
        """The code with a line moved in front of another one."""
        lines = list(self.lines)
        text = lines[line]
        lines.insert(before, text)
        del lines[line + (before <= line)]
        return "\n".join(lines) + "\n"

    def changed(self, changes: dict[int, str | None]) -> str:
        """The code with other lines in place of some; ``None`` removes one."""
        made = (changes.get(at, line) for at, line in enumerate(self.lines))
        return "\n".join(line for line in made if line is not None) + "\n"

    def after(self, line: int, text: str) -> str:
        """The code with one more statement behind a line."""
        indent = self.indent(line)
        return self.changed({line: f"{self.lines[line]}\n{indent}{text}"})

    def indent(self, line: int) -> str:
        return re.match(r"\s*", self.lines[line]).group()  # type: ignore[union-attr]

    def uses(self, name: str, begin: int) -> Iterator[int]:
        """The lines behind one that run something with a buffer."""
        for at in range(begin + 1, len(self.lines)):
            line = self.lines[at].strip()
            if re.match(r"def |@|class ", line):
                return
            is_call = re.match(
                r"(\w+ = )?(cpp_fused|triton_|extern_kernels|torch\.ops\.aten)", line
            )
            if is_call and re.search(rf"\b{name}\b", line):
                yield at

    def renamed(self, line: int, old: str, new: str) -> list[str]:
        """The lines, with a buffer renamed behind one of them."""
        rest = [re.sub(rf"\b{old}\b", new, x) for x in self.lines[line + 1 :]]
        return [*self.lines[: line + 1], *rest]


def wait_before_launch(code: Code) -> Iterator[str]:
    for flight in code.flights:
        yield code.moved(flight.wait, flight.launch)


def wait_dropped(code: Code) -> Iterator[str]:
    for flight in code.flights:
        yield code.changed({flight.wait: None})


def use_before_wait(code: Code) -> Iterator[str]:
    """The wait goes behind the first use of what was received."""
    for flight in code.flights:
        for use in islice(code.uses(flight.received, flight.wait), 1):
            yield code.moved(flight.wait, use + 1)


def read_in_flight(code: Code) -> Iterator[str]:
    for flight in code.flights:
        yield code.after(flight.launch, f"early = torch.ops.aten.relu.default({flight.received})")


def overwritten_in_flight(code: Code) -> Iterator[str]:
    """A product that ran before writes into what is being sent."""
    for flight in code.flights:
        for line in reversed(code.lines[: flight.launch]):
            if found := PRODUCT.search(line):
                text = line.strip().replace(f"out={found[1]}", f"out={flight.sent}")
                yield code.after(flight.launch, text)
                break


def freed_in_flight(code: Code) -> Iterator[str]:
    for flight in code.flights:
        yield code.after(flight.launch, f"del {flight.received}")


def payload_freed_in_flight(code: Code) -> Iterator[str]:
    for flight in (f for f in code.flights if f.sent != f.received):
        yield code.after(flight.launch, f"del {flight.sent}")


def reused_in_flight(code: Code) -> Iterator[str]:
    for flight in code.flights:
        lines = code.renamed(flight.launch, flight.received, "heir")
        text = f"heir = {flight.received}; del {flight.received}  # reuse"
        lines.insert(flight.launch + 1, code.indent(flight.launch) + text)
        yield "\n".join(lines) + "\n"


def launch_dropped(code: Code) -> Iterator[str]:
    for flight in (f for f in code.flights if f.sent == f.received):
        yield code.changed({flight.launch: None})


def collective_dropped(code: Code) -> Iterator[str]:
    """Launch and wait: what is read is what this rank has sent."""
    for flight in (f for f in code.flights if f.sent == f.received):
        yield code.changed({flight.launch: None, flight.wait: None})


def launch_doubled(code: Code) -> Iterator[str]:
    for flight in code.flights:
        yield code.after(flight.wait, code.lines[flight.launch].strip())


def collective_doubled(code: Code) -> Iterator[str]:
    """Launch and wait once more, behind the wait: a sum of sums."""
    for flight in (f for f in code.flights if f.sent == f.received):
        again = f"{code.lines[flight.launch].strip()}\n{code.lines[flight.wait]}"
        yield code.after(flight.wait, again)


def of_another_group(code: Code) -> Iterator[str]:
    for flight in code.flights:
        text = re.sub(r"'(\w+)'\)$", "'another')", code.lines[flight.launch])
        yield code.changed({flight.launch: text})


def with_another_reduction(code: Code) -> Iterator[str]:
    for flight in code.flights:
        text = code.lines[flight.launch]
        if "'sum'" in text:
            yield code.changed({flight.launch: text.replace("'sum'", "'avg'")})


def of_another_kind(code: Code) -> Iterator[str]:
    for flight in code.flights:
        text = code.lines[flight.launch]
        if "all_reduce_.default" in text:
            broadcast = text.replace("all_reduce_", "broadcast_").replace("'sum'", "0")
            yield code.changed({flight.launch: broadcast})


def swapped_with_another(code: Code) -> Iterator[str]:
    """Two collectives of a group, each in the other's place; both have been computed."""
    for first, second in zip(code.flights, code.flights[1:], strict=False):
        if second.launch < first.wait:
            yield code.moved(first.launch, second.launch + 1)


def payloads_swapped(code: Code) -> Iterator[str]:
    """Each of two collectives sends the other's buffer."""
    for first, second in zip(code.flights, code.flights[1:], strict=False):
        if second.launch < first.wait and first.sent == first.received:
            one, two = code.lines[first.launch].strip(), code.lines[second.launch].strip()
            indent = code.indent(first.launch)
            yield code.changed({first.launch: indent + two, second.launch: indent + one})


def sent_before_it_is_computed(code: Code) -> Iterator[str]:
    """The launch goes in front of the product that writes what it sends."""
    for flight in code.flights:
        for at in range(flight.launch - 1, 0, -1):
            if f"out={flight.sent})" in code.lines[at]:
                yield code.moved(flight.launch, at)
                break


def more_memory(code: Code) -> Iterator[str]:
    """A large buffer that nothing needs."""
    for flight in code.flights[:1]:
        text = "large = empty_strided_cpu((1 << 20, ), (1, ), torch.float32)"
        yield code.after(flight.launch, text.replace("1 << 20", str(1 << 20)))


def other_communication(code: Code) -> Iterator[str]:
    for flight in code.flights:
        yield code.after(flight.launch, "torch.distributed.barrier()")


def under_a_condition(code: Code) -> Iterator[str]:
    for flight in (f for f in code.flights if f.sent == f.received):
        indent = code.indent(flight.launch)
        text = f"{indent}if unknown:\n{indent}    {code.lines[flight.launch].strip()}"
        yield code.changed({flight.launch: text})


def wait_doubled(code: Code) -> Iterator[str]:
    for flight in code.flights:
        yield code.after(flight.wait, code.lines[flight.wait].strip())


def wait_earlier(code: Code) -> Iterator[str]:
    """Directly behind the launch: nothing overlaps, but nothing is wrong."""
    for flight in code.flights:
        yield code.moved(flight.wait, flight.launch + 1)


def check_moved(code: Code) -> Iterator[str]:
    """A check of an input's strides, which reads no data, in front of a launch."""
    for flight in code.flights:
        for at in range(flight.launch + 1, flight.wait):
            if code.lines[at].strip().startswith("assert_size_stride("):
                yield code.moved(at, flight.launch)
                break


def allocation_moved(code: Code) -> Iterator[str]:
    """A small buffer is allocated in front of a launch instead of behind it."""
    for flight in code.flights:
        for at in range(flight.launch + 1, flight.wait):
            if re.match(r"\s*buf\d+ = empty_strided\w*\(", code.lines[at]):
                yield code.moved(at, flight.launch)
                break


def payload_read_in_flight(code: Code) -> Iterator[str]:
    """What an all-gather sends may be read meanwhile."""
    for flight in (f for f in code.flights if f.sent != f.received):
        yield code.after(flight.launch, f"twice = torch.ops.aten.relu.default({flight.sent})")


FAULTS: tuple[Callable[[Code], Iterator[str]], ...] = (
    wait_before_launch, wait_dropped, use_before_wait, read_in_flight, overwritten_in_flight,
    freed_in_flight, payload_freed_in_flight, reused_in_flight, launch_dropped, collective_dropped,
    launch_doubled, collective_doubled, of_another_group, with_another_reduction, of_another_kind,
    swapped_with_another, payloads_swapped, sent_before_it_is_computed, more_memory,
    other_communication, under_a_condition,
)  # fmt: skip
HARMLESS = (wait_doubled, wait_earlier, check_moved, allocation_moved, payload_read_in_flight)


def mutants(text: str, most: int = 4, seed: int = 0) -> Iterator[Mutant]:
    """Yield mutants of a graph's code: of each kind at most so many, drawn by the seed.

    Args:
        text: The emitted code.
        most: The number of mutants of a kind.
        seed: Of the draw.
    """
    code, draw = Code(text), random.Random(seed)
    for kind in (*FAULTS, *HARMLESS):
        made = list(kind(code))
        name = f"order: {kind.__name__.replace('_', ' ')}"
        for mutated in draw.sample(made, min(most, len(made))):
            ast.parse(mutated)
            yield Mutant(name, mutated, kind in HARMLESS)
