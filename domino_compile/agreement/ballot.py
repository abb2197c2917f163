"""One question that the ranks of a process group answer together, through their key-value store.

Each rank *offers* the answers that it accepts, best first. The first rank that sees enough offers
*settles* the question with an atomic compare-and-set. Every rank uses the settled answer, so no two
ranks can ever act on different answers, even if some are late, give up or die.

* A question is named by its content, never by a count. A rank that repeats a question that all
  ranks have answered finds the answer and does not wait.
* If all offers are present, the answer is the first of the first rank's that all accept, or
  ``None``.
* If offers are missing but only the last resort is left, it is settled at once, without waiting.
* A rank that gives up settles ``None``, so that ranks that come later do not wait for it.

Keys are ``domino_compile/<question>/offer/<position>`` and ``.../answer``. Their number is bounded
by the number of different programs. A new group over the same store finds answers that are still
right, because they follow from the content.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domino_compile.agreement.bounded import BoundedStore

#: Seconds between two reads of the store: initially, and at most.
FIRST_LOOK, LAST_LOOK = 0.005, 0.25
PREFIX = "domino_compile"


@dataclass(frozen=True)
class Offer:
    """The answers that a rank accepts.

    Attributes:
        accepts: The acceptable answers, best first.
        says: JSON data for other ranks, to explain a difference.
    """

    accepts: tuple[str, ...]
    says: Mapping[str, Any]

    def encoded(self) -> str:
        """Return the offer as text for the store."""
        return json.dumps({"accepts": self.accepts, "says": dict(self.says)})

    @staticmethod
    def decoded(text: bytes | str) -> Offer:
        """Make an offer from the result of ``encoded``."""
        data = json.loads(text)
        return Offer(tuple(data["accepts"]), data["says"])


@dataclass(frozen=True)
class Answer:
    """The answer for all ranks.

    Attributes:
        value: The answer; ``None`` if there is none that all accept.
        why: Why it is not the best one.
    """

    value: str | None
    why: str = ""


@dataclass(frozen=True)
class Table:
    """Where the ranks of one group meet.

    Attributes:
        group: The group's name.
        store: The group's key-value store.
        ranks: Global ranks by position in the group.
        own: The position of this process.
    """

    group: str
    store: Any
    ranks: list[int]
    own: int

    @staticmethod
    def of(group: str) -> Table | None:
        """Return the table of a group; ``None`` if there are no other ranks."""
        shared = BoundedStore.of(group)
        return None if shared is None else Table(group, *shared)

    def read(self, key: str) -> str | None:
        """Return a value of the store if it exists, without waiting."""
        if not self.store.check([f"{PREFIX}/{key}"]):
            return None
        return bytes(self.store.get(f"{PREFIX}/{key}")).decode()

    def write(self, key: str, value: str) -> None:
        """Set a value."""
        self.store.set(f"{PREFIX}/{key}", value)

    def write_once(self, key: str, value: str) -> str:
        """Set a value unless it exists, and return the stored value."""
        return bytes(self.store.compare_set(f"{PREFIX}/{key}", "", value)).decode()


class Ballot:
    """One question at one table."""

    def __init__(self, table: Table, question: str) -> None:
        self.table, self.question = table, question

    def answer(self) -> Answer | None:
        """Return the settled answer, if there is one."""
        text = self.table.read(f"{self.question}/answer")
        return None if text is None else Answer(**json.loads(text))

    def settle(self, answer: Answer) -> Answer:
        """Propose an answer, and return the one that holds, possibly another rank's."""
        text = json.dumps({"value": answer.value, "why": answer.why})
        return Answer(**json.loads(self.table.write_once(f"{self.question}/answer", text)))

    def post(self, offer: Offer) -> None:
        """Tell the others what this rank accepts."""
        self.table.write(f"{self.question}/offer/{self.table.own}", offer.encoded())

    def has_offer_of(self, position: int) -> bool:
        """Return whether a rank has made an offer."""
        return self.table.read(f"{self.question}/offer/{position}") is not None

    def offers(self) -> dict[int, Offer]:
        """Return the offers made so far, by position."""
        keys = [f"{self.question}/offer/{position}" for position in range(len(self.table.ranks))]
        texts = {position: self.table.read(key) for position, key in enumerate(keys)}
        return {p: Offer.decoded(text) for p, text in texts.items() if text is not None}

    def ask(
        self,
        offer: Offer,
        explain: Callable[[Mapping[int, Offer]], str],
        elsewhere: Callable[[Sequence[int]], Answer | None],
        timeout_s: float,
        meet: bool = False,
    ) -> Answer:
        """Make an offer, wait for the others while that can help, and return the common answer.

        Args:
            offer: This rank's offer; its last answer is the fallback of all ranks.
            explain: Says why the offers do not agree on the best answer.
            elsewhere: Called while ranks (by position) are missing; returns an answer if it is
                known that they will not come.
            timeout_s: The most seconds to wait.
            meet: Whether to wait for all ranks even if the answer is known.
        """
        known = self.answer()
        if known is not None:
            return known
        self.post(offer)
        deadline, pause = time.monotonic() + timeout_s, FIRST_LOOK
        while (known := self.answer()) is None:
            offers = self.offers()
            missing = [p for p in range(len(self.table.ranks)) if p not in offers]
            answer = None if meet and missing else decide(offers, bool(missing), explain)
            if answer is None and missing:
                answer = elsewhere(missing)
            if answer is None and time.monotonic() > deadline:
                answer = Answer(None, self._late(missing, timeout_s))
            if answer is not None:
                return self.settle(answer)
            time.sleep(pause)
            pause = min(LAST_LOOK, pause * 1.5)
        return known

    def _late(self, missing: Sequence[int], timeout_s: float) -> str:
        ranks = ", ".join(str(self.table.ranks[position]) for position in missing)
        return (
            f"rank {ranks} of group {self.table.group} did not compile the program that rank"
            f" {self.table.ranks[self.table.own]} is about to run within {timeout_s:g} s (option"
            " check_timeout_s)"
        )


def decide(
    offers: Mapping[int, Offer], missing: bool, explain: Callable[[Mapping[int, Offer]], str]
) -> Answer | None:
    """Return the common answer of offers, or ``None`` if others may still change it.

    Args:
        offers: The offers by position, including at least this rank's.
        missing: Whether some ranks have not made an offer.
        explain: Says why it is not the best answer of all.
    """
    first = offers[min(offers)]
    common = [x for x in first.accepts if all(x in other.accepts for other in offers.values())]
    if not common:
        return Answer(None, explain(offers))
    if missing and len(common) > 1:
        return None
    lacking = any(offer.says.get("lacks") for offer in offers.values())
    best = not lacking and all(offer.accepts[0] == common[0] for offer in offers.values())
    return Answer(common[0], "" if best else explain(offers))
