"""Faults in what the transport's commands do, in graphs and in emitted code.

``graph_mutants`` changes a graph behind the pass ``transport``, as plain data; ``code_mutants`` the
lines of emitted code. The checks of values and of order must refuse all faults and accept what is
harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from domino_compile.verify.plain import Graph, Operation, Ref, is_release, is_wait, replaced
from domino_compile.verify.transported import STARTS, command_of

# -- graphs ----------------------------------------------------------------------------------


def renamed(old: str, new: str) -> Callable[[Ref], Ref]:
    return lambda ref: Ref(new) if ref.name == old else ref


class Edit:
    """A graph to be changed: its operations as a list, and its results."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.operations = list(graph.operations.values())
        self.outputs = graph.outputs

    def made(self) -> Graph:
        by_name = {op.name: op for op in self.operations}
        return replace(self.graph, operations=by_name, outputs=self.outputs)

    def place(self, name: str) -> int:
        return next(at for at, op in enumerate(self.operations) if op.name == name)

    def put(self, op: Operation) -> Edit:
        """Put an operation in place of the one that has its name."""
        self.operations[self.place(op.name)] = op
        return self

    def move(self, name: str, behind: str) -> Edit:
        op = self.operations.pop(self.place(name))
        self.operations.insert(self.place(behind) + 1, op)
        return self

    def drop(self, name: str, by: str = "") -> Edit:
        """Leave out an operation; its readers read another value."""
        del self.operations[self.place(name)]
        change = renamed(name, by)
        self.operations = [replace(op, args=replaced(op.args, change)) for op in self.operations]
        self.outputs = tuple(by if x == name else x for x in self.outputs)
        return self


@dataclass(frozen=True)
class Carried:
    """The commands of one collective."""

    start: Operation
    wait: Operation
    release: Operation | None

    @property
    def commands(self) -> list[Operation]:
        return [op for op in (self.start, self.wait, self.release) if op is not None]


def carried(graph: Graph) -> list[Carried]:
    operations = list(graph.operations.values())
    found = []
    for start in operations:
        if command_of(start.target) not in STARTS:
            continue
        wait = next(op for op in operations if is_wait(op) and op.operands[0] == start.name)
        ends = (op for op in operations if is_release(op) and op.operands[0] == wait.name)
        found.append(Carried(start, wait, next(ends, None)))
    return found


def with_slot(op: Operation, number: object) -> Operation:
    return replace(op, args=(*op.args[:-2], number, op.args[-1]))


def of_group(op: Operation, group: str) -> Operation:
    return replace(op, args=(*op.args[:-1], group))


def readers(graph: Graph, name: str) -> list[Operation]:
    return [op for op in graph.operations.values() if name in op.operands and not is_release(op)]


def wait_dropped(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        yield Edit(graph).drop(x.wait.name, x.start.name)


def wait_behind_a_reader(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        for reader in readers(graph, x.wait.name)[:1]:
            args = replaced(reader.args, renamed(x.wait.name, x.start.name))
            yield Edit(graph).put(replace(reader, args=args)).move(x.wait.name, reader.name)


def wait_of_nccl(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        target = "_c10d_functional.wait_tensor.default"
        yield Edit(graph).put(replace(x.wait, target=target, args=x.wait.args[:1]))


def wait_of_another_kind(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        other = "gather_wait" if command_of(x.wait.target) == "inbox_wait" else "inbox_wait"
        yield Edit(graph).put(replace(x.wait, target=f"domino_compile.{other}.default"))


def wait_for_another_slot(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        yield Edit(graph).put(with_slot(x.wait, 2))


def start_of_another_group(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        yield Edit(graph).put(of_group(x.start, "another"))


def all_of_another_group(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        edit = Edit(graph)
        for op in x.commands:
            edit.put(of_group(op, "another"))
        yield edit


def start_doubled(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        edit = Edit(graph)
        edit.operations.insert(edit.place(x.start.name), replace(x.start, name="again"))
        yield edit


def collective_lost(graph: Graph) -> Iterator[Edit]:
    """What should be reduced is the rank's own payload."""
    for x in carried(graph):
        if x.release is None:
            edit = Edit(graph).drop(x.wait.name, x.start.operands[0])
            yield edit.drop(x.start.name, x.start.operands[0])


def another_payload(graph: Graph) -> Iterator[Edit]:
    """Another product of the same shape is sent, and awaited."""
    products = [op for op in graph.operations.values() if op.target == "aten.mm.default"]
    for x in carried(graph):
        sent = graph.operations[x.start.operands[0]]
        for other in products:
            if other.args != sent.args and other.value == sent.value:
                at = list(graph.operations)
                if at.index(other.name) < at.index(x.start.name):
                    start = replace(x.start, args=(Ref(other.name), *x.start.args[1:]))
                    wait = replace(x.wait, args=(x.wait.args[0], Ref(other.name), *x.wait.args[2:]))
                    yield Edit(graph).put(start).put(wait)


def release_dropped(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        if x.release is not None:
            yield Edit(graph).drop(x.release.name)


def release_before_its_readers(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        if x.release is not None:
            yield Edit(graph).move(x.release.name, x.wait.name)


def release_doubled(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        if x.release is not None:
            edit = Edit(graph)
            again = replace(x.release, name="again")
            edit.operations.insert(edit.place(x.release.name) + 1, again)
            yield edit


def slot_in_use(graph: Graph) -> Iterator[Edit]:
    """Of two collectives in flight one takes the other's slot."""
    places = {name: at for at, name in enumerate(graph.operations)}
    found = carried(graph)
    for one in found:
        for other in found:
            begins, ends = places[other.start.name], places[one.commands[-1].name]
            within = places[one.start.name] < begins < ends
            alike = one.start.target == other.start.target and one.start.value == other.start.value
            if within and alike:
                edit = Edit(graph)
                for op in other.commands:
                    edit.put(with_slot(op, one.start.args[1]))
                yield edit


def returned_from_its_slot(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        if command_of(x.start.target) == "gather_start":
            edit = Edit(graph)
            edit.outputs = (*edit.outputs[:-1], x.wait.name)
            yield edit


def another_share(graph: Graph) -> Iterator[Edit]:
    """The share of another rank is taken for a rank's own."""
    for x in carried(graph):
        (ranks,) = {value for key, value in x.start.kwargs if key == "ranks"}
        for op in readers(graph, x.start.operands[0]):
            if op.target == "aten.slice.Tensor":
                _, dim, first, end = op.args
                rows = end - first
                moved = (first + rows) % (ranks * rows)
                yield Edit(graph).put(replace(op, args=(op.args[0], dim, moved, moved + rows)))


def summand_twice(graph: Graph) -> Iterator[Edit]:
    for op in graph.operations.values():
        if op.target == "aten.add.Tensor":
            yield Edit(graph).put(replace(op, args=(op.args[0], op.args[0])))


def joined_in_another_order(graph: Graph) -> Iterator[Edit]:
    for op in graph.operations.values():
        if op.target == "aten.cat.default":
            yield Edit(graph).put(replace(op, args=(tuple(reversed(op.args[0])), *op.args[1:])))


def wait_earlier(graph: Graph) -> Iterator[Edit]:
    for x in carried(graph):
        yield Edit(graph).move(x.wait.name, x.start.name)


def release_later(graph: Graph) -> Iterator[Edit]:
    """Right behind what follows, which starts no collective."""
    names = list(graph.operations)
    for x in carried(graph):
        if x.release is not None:
            follows = names[min(names.index(x.release.name) + 1, len(names) - 1)]
            if not command_of(graph.operations[follows].target):
                yield Edit(graph).move(x.release.name, follows)


GRAPH_FAULTS = (
    wait_dropped, wait_behind_a_reader, wait_of_nccl, wait_of_another_kind, wait_for_another_slot,
    start_of_another_group, all_of_another_group, start_doubled, collective_lost, another_payload,
    release_dropped, release_before_its_readers, release_doubled, slot_in_use,
    returned_from_its_slot, another_share, summand_twice, joined_in_another_order,
)  # fmt: skip
GRAPH_HARMLESS = (wait_earlier, release_later)


def graph_mutants(graph: Graph, most: int | None = None) -> Iterator[tuple[str, Graph, bool]]:
    """Yield the kind of a change, the changed graph, and whether it is harmless.

    Args:
        graph: What the pass has made.
        most: The number of changes of a kind; ``None``: all.
    """
    for kind in (*GRAPH_FAULTS, *GRAPH_HARMLESS):
        for edit in islice(kind(graph), most):
            yield kind.__name__.replace("_", " "), edit.made(), kind in GRAPH_HARMLESS


# -- emitted code ----------------------------------------------------------------------------

START = re.compile(r"(\w+) = torch\.ops\.domino_compile\.(\w+)_start\.default\(")
ENDS = re.compile(r"torch\.ops\.domino_compile\.(\w+)_(wait|release)_only\.default\((\w+)")
USE = re.compile(r"(\w+ = )?(cpp_fused|triton_|extern_kernels)")
PRODUCT = re.compile(r"extern_kernels\.\w+\(.*out=(\w+)\)")


@dataclass(frozen=True)
class Flight:
    """The lines of one carried collective, and its buffers."""

    start: int
    wait: int
    release: int
    received: str
    sent: str


class Code:
    """The lines of emitted code."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.flights = list(self._flights())

    def _flights(self) -> Iterator[Flight]:
        for at, line in enumerate(self.lines):
            if found := START.match(line.strip()):
                ends = [
                    n for n in range(at, len(self.lines))
                    if (end := ENDS.match(self.lines[n].strip())) and end[3] == found[1]
                ]  # fmt: skip
                rest = line[line.index("default(") + 8 :].replace("reinterpret_tensor(", "")
                yield Flight(at, ends[0], ends[-1], found[1], re.match(r"\w+", rest).group())  # type: ignore[union-attr]

    def with_lines(self, changes: dict[int, str | None]) -> str:
        made = (changes.get(at, line) for at, line in enumerate(self.lines))
        return "\n".join(line for line in made if line is not None) + "\n"

    def moved(self, line: int, behind: int) -> str:
        lines = list(self.lines)
        lines.insert(behind + 1, lines[line])
        del lines[line + (behind < line)]
        return "\n".join(lines) + "\n"

    def after(self, line: int, text: str) -> str:
        indent = re.match(r"\s*", self.lines[line]).group()  # type: ignore[union-attr]
        return self.with_lines({line: f"{self.lines[line]}\n{indent}{text}"})

    def uses(self, name: str, first: int, last: int) -> list[int]:
        return [
            at for at in range(first, last)
            if USE.match(self.lines[at].strip()) and re.search(rf"\b{name}\b", self.lines[at])
        ]  # fmt: skip

    def numbered(self, flight: Flight, number: int) -> dict[int, str | None]:
        """The lines of a collective with another slot."""
        lines = (flight.start, flight.wait, flight.release)
        other = rf", {number}, '\1')"
        return {n: re.sub(r", \d+, '(\w+)'\)$", other, self.lines[n]) for n in lines}

    def number(self, flight: Flight) -> int:
        return int(re.search(r", (\d+), '\w+'\)$", self.lines[flight.start])[1])  # type: ignore[index]


def code_wait_dropped(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.with_lines({x.wait: None})


def code_wait_before_start(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.moved(x.wait, x.start - 1)


def code_use_before_wait(code: Code) -> Iterator[str]:
    for x in code.flights:
        for use in code.uses(x.received, x.wait, x.release)[:1]:
            yield code.moved(x.wait, use)


def code_wait_of_nccl(code: Code) -> Iterator[str]:
    for x in code.flights:
        text = f"        torch.ops._c10d_functional.wait_tensor.default({x.received})"
        yield code.with_lines({x.wait: text})


def code_wait_of_another_kind(code: Code) -> Iterator[str]:
    for x in code.flights:
        line = code.lines[x.wait]
        other = ("inbox", "gather") if "inbox_wait" in line else ("gather", "inbox")
        yield code.with_lines({x.wait: line.replace(f"{other[0]}_wait", f"{other[1]}_wait")})


def code_wait_for_another_slot(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.with_lines({x.wait: code.numbered(x, 7)[x.wait]})


def code_wait_doubled(code: Code) -> Iterator[str]:
    """The runtime knows the collective no more."""
    for x in code.flights:
        yield code.after(x.wait, code.lines[x.wait].strip())


def code_release_dropped(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.with_lines({x.release: None})


def code_release_doubled(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.after(x.release, code.lines[x.release].strip())


def code_release_before_its_readers(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.moved(x.release, x.wait)


def code_release_before_the_wait(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.moved(x.release, x.start)


def code_read_after_its_release(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.after(x.release, f"late = torch.ops.aten.relu.default({x.received})")


def code_slot_in_use(code: Code) -> Iterator[str]:
    """Of two collectives of a kind in flight, the later takes the slot of the other."""
    for x in code.flights:
        for y in code.flights:
            kinds = {START.match(code.lines[f.start].strip())[2] for f in (x, y)}  # type: ignore[index]
            if x.start < y.start < x.release and len(kinds) == 1:
                yield code.with_lines(code.numbered(y, code.number(x)))


def code_overwritten_in_flight(code: Code) -> Iterator[str]:
    for x in code.flights:
        for line in reversed(code.lines[: x.start]):
            if found := PRODUCT.search(line):
                yield code.after(x.start, line.strip().replace(f"out={found[1]}", f"out={x.sent}"))
                break


def code_payload_reused_in_flight(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.after(x.start, f"heir = {x.sent}; del {x.sent}  # reuse")


def code_slot_reused(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.after(x.release, f"heir = {x.received}; del {x.received}  # reuse")


def code_returned_from_its_slot(code: Code) -> Iterator[str]:
    for at, line in enumerate(code.lines):
        if line.strip().startswith("return ("):
            for x in code.flights:
                if x.release < at and not any(
                    f"del {x.received}" in text for text in code.lines[x.release : at]
                ):
                    yield code.with_lines({at: line.replace("return (", f"return ({x.received}, ")})


def code_start_dropped(code: Code) -> Iterator[str]:
    """What lies in the memory of the payload is taken for the result."""
    for x in code.flights:
        text = f"        {x.received} = {x.sent}"
        yield code.with_lines({x.start: text, x.wait: None, x.release: None})


def code_start_doubled(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.after(x.release, code.lines[x.start].strip().replace(x.received, "again", 1))


def code_of_another_group(code: Code) -> Iterator[str]:
    for x in code.flights:
        lines = (x.start, x.wait, x.release)
        yield code.with_lines({n: re.sub(r"'\w+'\)$", "'5')", code.lines[n]) for n in lines})


def code_another_slot(code: Code) -> Iterator[str]:
    """A slot that the ranks have not agreed on."""
    for x in code.flights:
        yield code.with_lines(code.numbered(x, 5))


def code_swapped(code: Code) -> Iterator[str]:
    """Two starts that are next to each other, each in the other's place."""
    for x, y in zip(code.flights, code.flights[1:], strict=False):
        if y.start < x.wait and x.sent not in ("", y.sent):
            yield code.moved(x.start, y.start)


def code_under_a_condition(code: Code) -> Iterator[str]:
    for x in code.flights:
        text = f"        if unknown:\n            {code.lines[x.release].strip()}"
        yield code.with_lines({x.release: text})


def code_wait_earlier(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.moved(x.wait, x.start)


def code_payload_read_in_flight(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.after(x.start, f"twice = torch.ops.aten.relu.default({x.sent})")


def code_read_twice(code: Code) -> Iterator[str]:
    for x in code.flights:
        yield code.after(x.wait, f"twice = torch.ops.aten.relu.default({x.received})")


CODE_FAULTS = (
    code_wait_dropped, code_wait_before_start, code_use_before_wait, code_wait_of_nccl,
    code_wait_of_another_kind, code_wait_for_another_slot, code_wait_doubled, code_release_dropped,
    code_release_doubled, code_release_before_its_readers, code_release_before_the_wait,
    code_read_after_its_release, code_slot_in_use, code_overwritten_in_flight,
    code_payload_reused_in_flight, code_slot_reused, code_returned_from_its_slot,
    code_start_dropped, code_start_doubled, code_of_another_group, code_another_slot, code_swapped,
    code_under_a_condition,
)  # fmt: skip
CODE_HARMLESS = (code_wait_earlier, code_payload_read_in_flight, code_read_twice)


def code_mutants(text: str, most: int | None = None) -> Iterator[tuple[str, str, bool]]:
    """Yield the kind of a change, the changed code, and whether it is harmless.

    Args:
        text: The emitted code.
        most: The number of changes of a kind; ``None``: all.
    """
    code = Code(text)
    for kind in (*CODE_FAULTS, *CODE_HARMLESS):
        for mutated in islice(kind(code), most):
            name = kind.__name__.removeprefix("code_").replace("_", " ")
            yield name, mutated, kind in CODE_HARMLESS
