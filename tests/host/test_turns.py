"""Locks between processes: many share or one holds. Here two openings of a file stand for two."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from domino_compile import _compat
from domino_compile.host.kept import exclusive
from domino_compile.host.turns import Turn

SOON, NEVER = 10.0, 0.1


def begun(action: Callable[[], None]) -> threading.Event:
    """Set when an action, which runs in a thread of its own, is done."""
    done = threading.Event()

    def run() -> None:
        action()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    return done


def test_whoever_wants_it_whole_waits_for_all_shares(tmp_path: Path) -> None:
    path = tmp_path / "turn"
    with Turn(path) as first, Turn(path) as second, Turn(path) as third:
        for turn in (first, second):
            turn.share()
        taken = begun(third.take)
        assert not taken.wait(NEVER)
        first.release()
        assert not taken.wait(NEVER)
        second.release()
        assert taken.wait(SOON)
        shared = begun(first.share)
        assert not shared.wait(NEVER)
        third.release()
        assert shared.wait(SOON)


def test_two_that_share_it_can_both_have_it_whole_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "turn"
    with Turn(path) as first, Turn(path) as second:
        for turn in (first, second):
            turn.share()
        taken = begun(first.take)
        assert not taken.wait(NEVER)
        second.take()  # gives up its share, so that one of them goes on
        if not taken.is_set():
            second.release()
        assert taken.wait(SOON)


def test_who_is_gone_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "turn"
    with Turn(path) as first:
        first.take()
    with Turn(path) as second:
        assert begun(second.take).wait(SOON)


def test_one_at_a_time_does_what_has_a_name(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        with exclusive("work"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    with mock.patch.object(_compat, "cache_folder", lambda: str(tmp_path)):
        for done in [begun(work) for _ in range(4)]:
            assert done.wait(SOON)
    assert most == [1] * 4


@pytest.mark.parametrize("problem", [OSError("no locks here"), PermissionError("not yours")])
def test_without_locks_the_work_is_done_all_the_same(tmp_path: Path, problem: OSError) -> None:
    with (
        mock.patch.object(_compat, "cache_folder", lambda: str(tmp_path)),
        mock.patch.object(Turn, "take", side_effect=problem),
        exclusive("work"),
    ):
        done = True
    assert done


def test_an_error_of_the_work_is_not_taken_for_one_of_the_lock(tmp_path: Path) -> None:
    with (
        mock.patch.object(_compat, "cache_folder", lambda: str(tmp_path)),
        pytest.raises(OSError, match="of the work"),
        exclusive("work"),
    ):
        raise OSError("of the work")
