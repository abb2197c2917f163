"""Which buffers the names in emitted code stand for, while the code is followed.

A name belongs to one call of a function, so it is stored with the depth of that call. A buffer that
loses its last name is freed; one that gets another name in the same statement as it loses one
(``buf2 = buf1; del buf1  # reuse``) is taken over: its old content is no longer needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from domino_compile.verify.emitted_events import NOTHING, Event, Freed, Made, Value

#: A name: the depth of the call that it belongs to, and the name itself.
Key = tuple[int, str]
#: The name of what a function of the module returned, until it has another one.
RESULT = "(result)"


@dataclass
class Bindings:
    """The names at one place of the code.

    Attributes:
        values: What each name stands for.
        holders: The names of each buffer.
        bound: The line on which each buffer last got a name.
    """

    values: dict[Key, Value] = field(default_factory=dict)
    holders: dict[int, set[Key]] = field(default_factory=lambda: defaultdict(set))
    bound: dict[int, int] = field(default_factory=dict)

    def value(self, key: Key) -> Value:
        """Return what a name stands for; nothing if there is no such name."""
        return self.values.get(key, NOTHING)

    def bind(self, key: Key, value: Value, line: int) -> Iterator[Event]:
        """Give a value a name; yield what becomes of the buffers that had the name before."""
        for buffer in value.all:
            self.holders[buffer].add(key)
            self.bound[buffer] = line
        old = self.value(key)
        self.values[key] = value
        for buffer in sorted(old.all - value.all):
            yield from self._drop(buffer, key, line)

    def release(self, key: Key, line: int) -> Iterator[Event]:
        """Forget a name; yield what becomes of its buffers."""
        for buffer in sorted(self.values.pop(key, NOTHING).all):
            yield from self._drop(buffer, key, line)

    def hand_over(self, key: Key) -> None:
        """Forget the name of a list that a function empties: its buffers get names there."""
        for buffer in self.values.pop(key, NOTHING).all:
            self.holders[buffer].discard(key)

    def _drop(self, buffer: int, key: Key, line: int) -> Iterator[Event]:
        holders = self.holders[buffer]
        holders.discard(key)
        if not holders:
            yield Freed(line, buffer)
        elif self.bound[buffer] == line and RESULT not in {name for _, name in (*holders, key)}:
            yield Made(line, buffer)

    def copy(self) -> Bindings:
        """Return the same names, to be changed apart from these."""
        holders = defaultdict(set, {buffer: set(keys) for buffer, keys in self.holders.items()})
        return Bindings(dict(self.values), holders, dict(self.bound))


def merged(ways: Sequence[Bindings]) -> Bindings:
    """Return the names behind a condition: each stands for what it may be after any way.

    Args:
        ways: The names at the end of each way that the code may take; at least one.
    """
    result = Bindings()
    for way in ways:
        result.bound |= way.bound
        for key, value in way.values.items():
            known = result.values.get(key)
            result.values[key] = value if known is None else _either(known, value)
    for key, value in result.values.items():
        for buffer in value.all:
            result.holders[buffer].add(key)
    return result


def _either(one: Value, other: Value) -> Value:
    """Return what may be either of two values, member by member if both are lists alike."""
    if one == other:
        return one
    lists = not (one.buffers or other.buffers)
    if lists and len(one.members) == len(other.members):
        return Value(members=tuple(map(_either, one.members, other.members)))
    return Value(one.all | other.all)
