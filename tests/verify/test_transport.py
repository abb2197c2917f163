"""The check of values knows the transport: what is carried is proved, and faults are refused."""

import pytest

from domino_compile.transport import ops
from domino_compile.transport.memory import rounded_up
from domino_compile.verify import transported
from domino_compile.verify.check import Memory, check
from domino_compile.verify.part import NotEstablished
from tests.verify.carried import carried
from tests.verify.transport_mutants import GRAPH_FAULTS, GRAPH_HARMLESS, graph_mutants


@pytest.mark.parametrize(
    ("ranks", "rank", "rows", "width"),
    [(2, 0, 8, 6), (2, 1, 8, 6), (3, 1, 9, 6), (4, 2, 8192, 8192), (8, 7, 8192, 4096)],
)
def test_what_is_carried_is_established(ranks: int, rank: int, rows: int, width: int) -> None:
    done = check(*carried(ranks, rank, rows, width), Memory())
    assert done.collectives == (6, 6) and not done.assumed


@pytest.mark.parametrize(("ranks", "rank"), [(2, 1), (4, 2)])
def test_faults_are_refused(ranks: int, rank: int) -> None:
    before, after, witness = carried(ranks, rank)
    said: dict[str, str] = {}
    for kind, graph, harmless in graph_mutants(after, most=2):
        try:
            check(before, graph, witness, Memory())
            refused = ""
        except NotEstablished as error:
            refused = str(error)
        assert bool(refused) != harmless, (kind, refused)
        said[kind] = refused
    absent = ranks == 2  # an all-reduce between two ranks has no operation of its own
    assert len(said) == len(GRAPH_FAULTS) + len(GRAPH_HARMLESS) - absent, said
    assert "is still used by" in said["slot in use"] and "slot" in said["release dropped"]
    assert "after its release" in said["release before its readers"]
    assert "its numbers differ" in said["another share"]


def test_another_rank_is_not_what_the_graph_is_for() -> None:
    """A graph that adds its own share is right on its own rank only."""
    before, after, witness = carried(4, 2)
    for name, op in after.operations.items():
        if transported.command_of(op.target) in transported.STARTS:
            object.__setattr__(op, "kwargs", (("rank", 1), ("ranks", 4)))
            assert after.operations[name] is op
    with pytest.raises(NotEstablished, match="its numbers differ"):
        check(before, after, witness, Memory())


def test_names_are_those_of_the_operations() -> None:
    starts = {str(x).split(".")[1] for x in ops.STARTS}
    others = {str(x).split(".")[1] for x in ops.WAITS}
    emitted = {str(x).split(".")[1] for x in ops.EMITTED.values()}
    assert starts == set(transported.STARTS)
    assert others == transported.WAITS | transported.RELEASES
    assert emitted == {name + transported.EMITTED for name in others}
    in_slots = {str(x).split(".")[1] for x in ops.IN_SLOTS}
    assert in_slots == {name for name, start in transported.STARTS.items() if start.in_slot}


def test_slots_are_told_apart_as_the_runtime_does() -> None:
    sizes = [*range(1, 5000, 7), *(2**n + d for n in range(10, 30) for d in (-1, 0, 1, 12345))]
    for nbytes in sizes:
        name = transported.slot_of("gather_start", 0, "tp", nbytes, 4)
        assert f" {rounded_up(nbytes)} bytes" in name
        shared = transported.slot_of("scatter_start", 0, "tp", 4 * nbytes, 4)
        assert f" {rounded_up(nbytes)} bytes" in shared
