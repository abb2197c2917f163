"""Who reads a value's memory, and when nobody can say until when."""

from domino_compile.graph.collectives import WAIT, c10d
from domino_compile.graph.readers import readers
from tests.passes.graphs import Builder, aten


def test_readers_behind_views_are_found() -> None:
    b = Builder()
    x, w = b.input("x", 4, 6), b.input("w", 6, 6)
    direct = b.call(aten.relu.default, x)
    view = b.call(aten.view.default, x, [2, 12])
    back = b.call(aten.view.default, view, [4, 6])
    product = b.call(aten.mm.default, back, w)
    b.output(direct, product)
    assert readers(x) == [direct, view, back, product]


def test_a_copy_that_inductor_may_leave_out_is_followed() -> None:
    b = Builder()
    x = b.input("x", 4, 6)
    copy = b.call(aten.clone.default, x)
    reader = b.call(aten.relu.default, copy)
    b.output(reader)
    assert readers(x) == [copy, reader]


def test_what_computes_a_new_value_ends_the_search() -> None:
    b = Builder()
    x = b.input("x", 4, 6)
    reader = b.call(aten.relu.default, x)
    later = b.call(aten.neg.default, reader)
    b.output(later)
    assert readers(x) == [reader]


def test_returned_memory_has_no_last_reader() -> None:
    b = Builder()
    x = b.input("x", 4, 6)
    b.output(b.call(aten.view.default, x, [24]), b.call(aten.relu.default, x))
    assert readers(x) is None


def test_memory_that_a_collective_sends_has_no_last_reader() -> None:
    """The collective reads until its wait, which is not a reader of the value."""
    b = Builder()
    x = b.input("x", 4, 6)
    b.output(b.call(WAIT, b.call(c10d.all_reduce.default, x, "sum", "tp")))
    assert readers(x) is None


def test_memory_that_is_written_has_no_last_reader() -> None:
    b = Builder()
    x = b.input("x", 4, 6)
    b.output(b.call(aten.neg.default, b.call(aten.relu_.default, x)))
    assert readers(x) is None
