"""One question that the ranks of a process group answer together, through their key-value store.

Each rank *offers* the answers that it can live with, the best first. The first rank that sees
enough offers *settles* the question with an atomic compare-and-set; every rank takes the settled
answer, so that no two ranks can ever act on different ones, whoever is late, gives up or dies.

* A question is named by its content, never by a count. A rank that asks alone what all ranks have
  answered before finds the answer and waits for nobody.
* All offers present: the first answer of the first rank's that all accept, or ``None``.
* Some offers missing, but only the last resort is left: settled at once, without waiting.
* A rank that gives up settles ``None``, so that those who come later do not wait for it.

Keys are ``domino_compile/<question>/offer/<position>`` and ``.../answer``: their number is bounded
by the number of different programs, and a group that is made anew over the same store finds answers
that are still right, as they follow from the content.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domino_compile import _compat

#: Seconds between two looks at the store: at first, and at most.
FIRST_LOOK, LAST_LOOK = 0.005, 0.25
PREFIX = "domino_compile"


@dataclass(frozen=True)
class Offer:
    """What a rank can live with.

    Attributes:
        accepts: acceptable answers, the best first.
        says: what the rank wants others to know, to explain a difference; JSON data.
    """

    accepts: tuple[str, ...]
    says: Mapping[str, Any]

    def encoded(self) -> str:
        """As text, for the store."""
        return json.dumps({"accepts": self.accepts, "says": dict(self.says)})

    @staticmethod
    def decoded(text: bytes | str) -> Offer:
        """The inverse of ``encoded``."""
        found = json.loads(text)
        return Offer(tuple(found["accepts"]), found["says"])


@dataclass(frozen=True)
class Answer:
    """What holds for all ranks.

    Attributes:
        value: the answer; ``None`` if there is none that all accept.
        why: why it is not the best one.
    """

    value: str | None
    why: str = ""


@dataclass(frozen=True)
class Table:
    """Where the ranks of one group meet.

    Attributes:
        group: the group's name.
        store: the group's key-value store.
        ranks: global ranks by position in the group.
        own: this process's position.
    """

    group: str
    store: Any
    ranks: list[int]
    own: int

    @staticmethod
    def of(group: str) -> Table | None:
        """The table of a group; ``None`` where there is nobody to meet."""
        shared = _compat.shared_store(group)
        return None if shared is None else Table(group, *shared)

    def read(self, key: str) -> str | None:
        """A value of the store, if it is there; never waits."""
        if not self.store.check([f"{PREFIX}/{key}"]):
            return None
        return bytes(self.store.get(f"{PREFIX}/{key}")).decode()

    def write(self, key: str, value: str) -> None:
        """Set a value."""
        self.store.set(f"{PREFIX}/{key}", value)

    def write_once(self, key: str, value: str) -> str:
        """Set a value unless there is one; returns the one that is there then."""
        return bytes(self.store.compare_set(f"{PREFIX}/{key}", "", value)).decode()


class Ballot:
    """One question at one table."""

    def __init__(self, table: Table, question: str) -> None:
        self.table, self.question = table, question

    def answer(self) -> Answer | None:
        """The settled answer, if there is one."""
        text = self.table.read(f"{self.question}/answer")
        return None if text is None else Answer(**json.loads(text))

    def settle(self, answer: Answer) -> Answer:
        """Propose an answer; returns the one that holds, which an other rank may have proposed."""
        text = json.dumps({"value": answer.value, "why": answer.why})
        return Answer(**json.loads(self.table.write_once(f"{self.question}/answer", text)))

    def post(self, offer: Offer) -> None:
        """Tell the others what this rank accepts."""
        self.table.write(f"{self.question}/offer/{self.table.own}", offer.encoded())

    def has_offer_of(self, position: int) -> bool:
        """Whether a rank has told what it accepts."""
        return self.table.read(f"{self.question}/offer/{position}") is not None

    def offers(self) -> dict[int, Offer]:
        """The offers that are there, by position."""
        keys = [f"{self.question}/offer/{position}" for position in range(len(self.table.ranks))]
        found = {position: self.table.read(key) for position, key in enumerate(keys)}
        return {p: Offer.decoded(text) for p, text in found.items() if text is not None}

    def ask(
        self,
        offer: Offer,
        explain: Callable[[Mapping[int, Offer]], str],
        elsewhere: Callable[[Sequence[int]], Answer | None],
        timeout_s: float,
        meet: bool = False,
    ) -> Answer:
        """Offer, wait for the others as long as that can help, and return the answer of all.

        Args:
            offer: this rank's; its last answer is what all ranks fall back to.
            explain: says why offers do not have the best answer in common.
            elsewhere: asked while ranks (by position) are missing: an answer if it is known that
                they will not come.
            timeout_s: seconds to wait at most.
            meet: wait for all also where the answer is known.
        """
        known = self.answer()
        if known is not None:
            return known
        self.post(offer)
        deadline, pause = time.monotonic() + timeout_s, FIRST_LOOK
        while (known := self.answer()) is None:
            offers = self.offers()
            missing = [p for p in range(len(self.table.ranks)) if p not in offers]
            found = None if meet and missing else decide(offers, bool(missing), explain)
            if found is None and missing:
                found = elsewhere(missing)
            if found is None and time.monotonic() > deadline:
                found = Answer(None, self._late(missing, timeout_s))
            if found is not None:
                return self.settle(found)
            time.sleep(pause)
            pause = min(LAST_LOOK, pause * 1.5)
        return known

    def _late(self, missing: Sequence[int], timeout_s: float) -> str:
        ranks = ", ".join(str(self.table.ranks[position]) for position in missing)
        return (
            f"rank {ranks} of group {self.table.group} has not compiled the program that rank"
            f" {self.table.ranks[self.table.own]} is about to run within {timeout_s:g} s (option"
            " check_timeout_s)"
        )


def decide(
    offers: Mapping[int, Offer], missing: bool, explain: Callable[[Mapping[int, Offer]], str]
) -> Answer | None:
    """The answer that offers have in common; ``None``: others may still change it.

    Args:
        offers: by position; at least this rank's own.
        missing: whether there are ranks that have not offered.
        explain: says why it is not the best answer of all.
    """
    first = offers[min(offers)]
    common = [x for x in first.accepts if all(x in other.accepts for other in offers.values())]
    if not common:
        return Answer(None, explain(offers))
    if missing and len(common) > 1:
        return None
    best = all(offer.accepts[0] == common[0] for offer in offers.values())
    return Answer(common[0], "" if best else explain(offers))
