"""A piece is a slice and a part, however many there are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from torch import fx

from domino_compile.analysis import CutPlan, cut_columns, infer_cut
from domino_compile.graph.collectives import is_launch
from domino_compile.graph.tags import Piece, clear_tag, origin_of, piece_of, tag_column, tag_slice
from domino_compile.passes.slice import slice_graph
from domino_compile.report import ScheduleReport, Step, WireReport
from domino_compile.report.origin import piece_text, piece_words
from domino_compile.report.schedule_text import schedule_text
from tests.passes.graphs import Builder, aten

#: More than one digit can hold, and more than two.
MANY = 120


def node() -> fx.Node:
    return fx.Graph().placeholder("x")


@pytest.mark.parametrize("row", [None, 0, 1, 100, 250])
@pytest.mark.parametrize("column", [None, 0, 1, 100, 250])
def test_a_tag_is_read_as_it_was_written(row: int | None, column: int | None) -> None:
    made = node()
    if row is not None:
        tag_slice(made, row, "mm")
    if column is not None:
        tag_column(made, column, "other")
    piece = piece_of(made)
    if row is None and column is None:
        assert piece is None
        return
    assert piece is not None and (piece.slice, piece.part) == (row, column)
    assert origin_of(made) == ("mm" if row is not None else "other")
    clear_tag(made)
    assert piece_of(made) is None and origin_of(made) is None


def test_no_two_pieces_are_called_the_same() -> None:
    pieces = [Piece(row, column) for row in range(-1, 130) for column in range(-1, 130)]
    for name in (
        str,
        lambda p: piece_text(p.slice, p.part),
        lambda p: piece_words(p.slice, p.part),
    ):
        assert len({name(piece) for piece in pieces}) == len(pieces)


def product_of(width: int) -> fx.Graph:
    b = Builder()
    x, w = b.input("x", 4, 8), b.input("w", 8, width)
    return b.output(b.all_reduce(b.call(aten.mm.default, x, w)))


def launches(graph: fx.Graph) -> list[Piece | None]:
    return [piece_of(n) for n in graph.nodes if is_launch(n)]


def test_more_than_a_hundred_parts_of_two_slices() -> None:
    graph = product_of(2 * MANY)
    x = next(iter(graph.nodes))
    rows = infer_cut(graph, 2, {x: 0})
    assert isinstance(rows, CutPlan)
    slice_graph(graph, rows)
    columns = cut_columns(graph, MANY)
    assert isinstance(columns, CutPlan)
    slice_graph(graph, columns)
    found = launches(graph)
    assert sorted(found, key=str) == sorted(
        (Piece(row, column) for row in range(2) for column in range(MANY)), key=str
    )


def test_reports_say_slice_and_part() -> None:
    step = Step("matmul", "mm", 1, 0.0, 1.0, part=119, source="model.py:1")
    wire = WireReport("ar", "all_reduce", "0", 1, 8, 1.0, 0.0, part=119, origin="ar")
    plain: Any = ScheduleReport("forward", [], [wire], 1.0, 1.0, 1, 1, steps=[step])
    text = schedule_text(plain)
    assert "s1c119" in text and "part 119 of slice 1" in text
    again = ScheduleReport.from_dict(asdict(plain))
    assert (again.steps[0].slice, again.steps[0].part) == (1, 119)
