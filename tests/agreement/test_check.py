"""What ranks agree on, without compiling: threads take the place of ranks."""

import random
import time
from dataclasses import replace

import pytest

from tests.agreement.threads import (
    Program,
    agree_on_overlap,
    agree_on_the_wire,
    live,
    one_store,
    run,
)

ONE, TWO = (("tp", 64),), (("tp", 64), ("tp", 64))
BLOCK = Program(TWO)
HEAD = Program((("tp", 32),))


def outcomes(*programs: list[Program]) -> list[list[str]]:
    done = run(programs)
    assert agree_on_the_wire(done)
    return [rank.outcomes for rank in done]


def test_equal_plans_are_taken() -> None:
    assert outcomes([BLOCK, HEAD], [BLOCK, HEAD]) == [["planned"] * 2] * 2


def test_a_rank_that_compiles_again_alone_waits_for_nobody() -> None:
    began = time.monotonic()
    done = run([[BLOCK], [BLOCK, BLOCK, BLOCK]])
    assert [rank.outcomes for rank in done] == [["planned"], ["planned"] * 3]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "other",
    [
        replace(BLOCK, plan=("rows 3+1",)),
        replace(BLOCK, plan=()),
        replace(BLOCK, options="slices=3", plan=("rows 3+1",)),
        replace(BLOCK, options="slices=1", plan=()),
    ],
    ids=["plan", "left alone", "options", "options and left alone"],
)
def test_other_plans_go_on_with_inductor_alone(other: Program) -> None:
    """Also the next program is asked for anew, as the ranks are still at the same one."""
    for first, second in ((BLOCK, other), (other, BLOCK)):
        found = outcomes([first, HEAD], [second, HEAD])
        assert found == [["alone", "planned"]] * 2


def test_a_graph_that_broke_on_one_rank_is_named_and_nobody_waits_again() -> None:
    """One rank has two graphs for the other's one; what follows is left alone at once."""
    half = replace(HEAD, collectives=ONE, broken="train.py:7: print(loss)")
    began = time.monotonic()
    done = run([[half, half, HEAD], [BLOCK, HEAD]])
    assert time.monotonic() - began < 5
    assert [rank.outcomes for rank in done] == [["alone"] * 3, ["alone"] * 2]
    assert agree_on_the_wire(done)
    for rank in done:
        assert "rank 0 broke at train.py:7: print(loss)" in rank.whys[0]


def test_what_was_agreed_on_before_ranks_parted_stays() -> None:
    half = replace(HEAD, collectives=ONE)
    done = run([[BLOCK, half, half, BLOCK], [BLOCK, HEAD, BLOCK]])
    assert [rank.outcomes[0] for rank in done] == ["planned"] * 2
    assert [rank.outcomes[-1] for rank in done] == ["planned"] * 2


def test_a_rank_that_does_not_come_is_named_and_the_next_program_does_not_wait() -> None:
    began = time.monotonic()
    ours, theirs = run([[BLOCK, HEAD], []], timeout_s=1.0)
    assert "rank 1 of group" in ours.outcomes[0] and "check_timeout_s" in ours.outcomes[0]
    assert ours.outcomes[1] == "alone" and not theirs.outcomes
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("plan", [("rows 2+2",), ("rows 3+1",), ()], ids=str)
@pytest.mark.parametrize("options", ["defaults", "slices=3"])
def test_a_rank_that_comes_too_late_does_not_go_on_alone(
    options: str, plan: tuple[str, ...]
) -> None:
    """The other has given up: it runs nothing that the late one could meet."""
    groups = {"tp": (0, 1)}
    with one_store():
        early = live(0, groups, [BLOCK, HEAD], 0.2, 0)
        late = live(1, groups, [replace(BLOCK, options=options, plan=plan), HEAD], 0.2, 1)
    assert "check_timeout_s" in early.outcomes[0] and early.outcomes[1] == "alone"
    assert late.outcomes[0] not in ("alone", "planned") and late.outcomes[1] == "alone"


def test_sizes_of_all_to_alls_are_each_ranks_own() -> None:
    mine, other = (
        Program((("tp", size),), kind="all_to_all_single", plan=("rows 2+2",)) for size in (96, 160)
    )
    assert [rank.outcomes for rank in run([[mine], [other]])] == [["planned"]] * 2


def test_all_ranks_of_a_mesh_do_the_same() -> None:
    """One of four ranks wants another plan: also the one that shares no group with it hears it."""
    both = Program((("row", 64), ("column", 32)))
    groups = [
        {"row": row, "column": column} for row in ((0, 1), (2, 3)) for column in ((0, 2), (1, 3))
    ]
    for odd in (replace(both, plan=()), replace(both, plan=("rows 3+1",))):
        for position in range(4):
            programs = [[odd if rank == position else both, both] for rank in range(4)]
            done = run(programs, groups)
            assert [rank.outcomes[0] for rank in done] == ["alone"] * 4
            assert agree_on_the_wire(done)
    done = run([[both]] * 4, groups)
    assert [rank.outcomes for rank in done] == [["planned"]] * 4


@pytest.mark.parametrize("seed", range(20))
def test_ranks_never_send_different_things(seed: int) -> None:
    """Random programs; a random rank breaks graphs, plans otherwise or compiles again alone."""
    chance = random.Random(seed)
    world = chance.choice((2, 3, 4))
    programs: list[list[Program]] = [[] for _ in range(world)]
    for number in range(4):
        sizes = tuple(("tp", 16 * chance.randint(1, 4) + number) for _ in range(3))
        common, odd = Program(sizes), chance.randrange(world)
        what = chance.choice(("same", "same", "plan", "alone", "options", "break"))
        for rank, mine in enumerate(programs):
            if rank != odd or what == "same":
                mine.append(common)
            elif what == "break":
                cut = chance.randint(1, 2)
                mine += [Program(sizes[:cut], broken="a.py:1"), Program(sizes[cut:])]
            else:
                changes = {"plan": {"plan": ("x",)}, "alone": {"plan": ()}}
                other = {"options": "slices=3", "plan": ("x",)}
                mine.append(replace(common, **changes.get(what, other)))  # type: ignore[arg-type]
    began = time.monotonic()
    done = run(programs, seed=seed)
    assert time.monotonic() - began < 10
    assert all(outcome in ("planned", "alone") for rank in done for outcome in rank.outcomes)
    assert agree_on_the_wire(done)


def test_overlap_that_one_rank_lacks_is_missing_on_all() -> None:
    whys = agree_on_overlap(["", "its collective is exposed", ""])
    assert whys[0] == whys[2] == "rank 1: its collective is exposed"
    assert agree_on_overlap(["", ""]) == ["", ""]


def test_programs_with_the_same_collectives_may_have_other_plans() -> None:
    """Training and evaluation, say, or a nested region and its caller; one rank repeats them."""
    other = replace(BLOCK, plan=("rows uncut", "reordered"))
    alone = replace(BLOCK, plan=())
    order = [BLOCK, other, alone, BLOCK, alone, other]
    done = run([[BLOCK, other, alone], order])
    assert [rank.outcomes for rank in done] == [
        ["planned" if program.plan else "alone" for program in programs]
        for programs in (order[:3], order)
    ]
