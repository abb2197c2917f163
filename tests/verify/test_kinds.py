"""Float8, uninitialised memory and sizes that depend on data: right programs pass, wrong ones not.

The graphs are written down as plain data.
"""

from typing import Any

import pytest
import torch

from domino_compile.verify.check import NUMBERS, SAME, STRUCTURE, Established, Memory, check
from domino_compile.verify.claims import Claim, Piece, Whole, Witness
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.plain import INPUT, Graph, Operation, Ref, Tensor

MM, SLICE, CAT = "aten._scaled_mm.default", "aten.slice.Tensor", "aten.cat.default"
ADD, SUB, COPY = "aten.add.Tensor", "aten.sub.Tensor", "aten.copy.default"
EMPTY, CAST = "aten.empty.memory_format", "prims.convert_element_type.default"
GATHER = "_c10d_functional.all_gather_into_tensor.default"
WAIT = "_c10d_functional.wait_tensor.default"
INDEX, VIEW, WRITE = "aten.index.Tensor", "aten.view.default", "aten.slice_scatter.default"
ITEM, FULL = "aten._local_scalar_dense.default", "aten.full.default"
FLOAT8, BF16, F32, I64 = "float8_e4m3fn", "bfloat16", "float32", "int64"
ROWS, INNER, COLUMNS = 160, 512, 192


class Made(Graph):
    """A graph that is written down operation by operation."""

    def op(
        self, name: str, target: str, args: Any, shape: tuple[int, ...] | None, dtype: str = F32
    ) -> str:
        value = None if shape is None else Tensor(shape, dtype)
        given = tuple(map(_argument, args))
        self.operations[name] = Operation(name, target, given, (), value)
        if target == INPUT:
            self.inputs += (name,)
        return name

    def given(self, name: str, shape: tuple[int, ...], dtype: str = F32) -> str:
        return self.op(name, INPUT, (), shape, dtype)

    def empty(self, name: str, shape: tuple[int, ...], dtype: str = F32) -> str:
        return self.op(name, EMPTY, (shape,), shape, dtype)


def _argument(argument: Any) -> Any:
    if isinstance(argument, str):
        return Ref(argument.removeprefix("%")) if argument.startswith("%") else argument
    return tuple(map(_argument, argument)) if isinstance(argument, tuple) else argument


def rows(node: str, start: int, length: int) -> Piece:
    return Piece(node, 0, 1, start, length)


def established(before: Graph, after: Graph, **claims: list[Claim]) -> Established:
    return check(before, after, Witness(dict(claims)), Memory())


def refused(before: Graph, after: Graph, **claims: list[Claim]) -> str:
    with pytest.raises(NotEstablished) as error:
        established(before, after, **claims)
    return str(error.value)


# -- float8 ------------------------------------------------------------------------------------


def product(scales: tuple[int, int]) -> Made:
    made = Made()
    made.given("a", (ROWS, INNER), FLOAT8)
    made.given("b", (INNER, COLUMNS), FLOAT8)
    made.given("sa", (scales[0], 1))
    made.given("sb", (1, scales[1]))
    return made


def whole_product(scales: tuple[int, int]) -> Made:
    made = product(scales)
    args = ("%a", "%b", "%sa", "%sb", None, None, torch.bfloat16)
    made.outputs = (made.op("y", MM, args, (ROWS, COLUMNS), BF16),)
    return made


def product_of_rows(scales: tuple[int, int], first: int, scale_of_second: int) -> Made:
    """The product of the first rows, and of the others with scales from a given row on."""
    made = product(scales)
    parts = ((0, first, 0), (first, ROWS, scale_of_second))
    for i, (start, end, scale) in enumerate(parts):
        made.op(f"a{i}", SLICE, ("%a", 0, start, end), (end - start, INNER), FLOAT8)
        last = scale + end - start
        if scales[0] > 1:
            made.op(f"sa{i}", SLICE, ("%sa", 0, scale, last), (end - start, 1))
        mine = f"%sa{i}" if scales[0] > 1 else "%sa"
        args = (f"%a{i}", "%b", mine, "%sb", None, None, torch.bfloat16)
        made.op(f"y{i}", MM, args, (end - start, COLUMNS), BF16)
    made.outputs = (made.op("y", CAT, (("%y0", "%y1"), 0), (ROWS, COLUMNS), BF16),)
    return made


PIECES: list[Claim] = [rows("y0", 0, 64), rows("y1", 64, ROWS - 64)]


@pytest.mark.parametrize("scales", [(1, 1), (ROWS, COLUMNS)], ids=["tensorwise", "rowwise"])
def test_rows_of_a_scaled_product_are_established_by_structure(scales: tuple[int, int]) -> None:
    after = product_of_rows(scales, 64, 64)
    done = established(whole_product(scales), after, y=[*PIECES, Whole("y")])
    assert {done.how[name] for name in ("y0", "y1", "y")} == {STRUCTURE}


def test_the_scales_of_other_rows_are_refused() -> None:
    scales = (ROWS, COLUMNS)
    after = product_of_rows(scales, 64, 32)
    assert refused(whole_product(scales), after, y=[*PIECES, Whole("y")]).startswith("y")


@pytest.mark.parametrize("second", [256, 0])
def test_a_scaled_product_in_two_steps_is_decided_by_numbers(second: int) -> None:
    """Half of the contracted dimension each; the first half twice is refused."""
    after, half = product((1, 1)), INNER // 2
    for i, start in enumerate((0, second)):
        after.op(f"a{i}", SLICE, ("%a", 1, start, start + half), (ROWS, half), FLOAT8)
        after.op(f"b{i}", SLICE, ("%b", 0, start, start + half), (half, COLUMNS), FLOAT8)
        args = (f"%a{i}", f"%b{i}", "%sa", "%sb", None, None, torch.bfloat16)
        after.op(f"y{i}", MM, args, (ROWS, COLUMNS), BF16)
    after.outputs = (after.op("y", ADD, ("%y0", "%y1"), (ROWS, COLUMNS), BF16),)
    before = whole_product((1, 1))
    if second:
        assert established(before, after, y=[Whole("y")]).how["y"] == NUMBERS
    else:
        assert "its numbers differ" in refused(before, after, y=[Whole("y")])


def quantised(late: bool, dtype: Any) -> Made:
    """The sum of two values, quantised after or before it is taken."""
    made, name = Made(), str(dtype).removeprefix("torch.")
    for x in ("x", "y"):
        made.given(x, (6,))
    if late:
        made.op("s", ADD, ("%x", "%y"), (6,))
        made.outputs = (made.op("q", CAST, ("%s", dtype), (6,), name),)
        return made
    for x in ("x", "y"):
        made.op(f"q{x}", CAST, (f"%{x}", dtype), (6,), name)
    made.outputs = (made.op("q", ADD, ("%qx", "%qy"), (6,), name),)
    return made


def test_summands_are_not_quantised_in_place_of_their_sum() -> None:
    float8 = torch.float8_e4m3fn
    said = refused(quantised(True, float8), quantised(False, float8), q=[Whole("q")])
    assert "its numbers differ" in said
    bf16 = torch.bfloat16  # other types stand for real numbers
    assert established(quantised(True, bf16), quantised(False, bf16), q=[Whole("q")])


def test_bits_of_float8_are_followed() -> None:
    before, after = Made(), Made()
    for made in (before, after):
        made.given("x", (4, 6), FLOAT8)
    before.op("u", "aten.view.dtype", ("%x", torch.uint8), (4, 6), "uint8")
    before.outputs = (
        before.op("y", "aten.view.dtype", ("%u", torch.float8_e4m3fn), (4, 6), FLOAT8),
    )
    for i in (0, 1):
        after.op(f"x{i}", SLICE, ("%x", 0, 2 * i, 2 * i + 2), (2, 6), FLOAT8)
        after.op(f"u{i}", "aten.view.dtype", (f"%x{i}", torch.uint8), (2, 6), "uint8")
    after.op("u", CAT, (("%u0", "%u1"), 0), (4, 6), "uint8")
    after.outputs = (after.op("y", "aten.view.dtype", ("%u", torch.float8_e4m3fn), (4, 6), FLOAT8),)
    assert established(before, after, y=[Whole("y")]).how["y"] in (SAME, STRUCTURE)
    after.op("u", CAT, (("%u1", "%u0"), 0), (4, 6), "uint8")
    assert refused(before, after, y=[Whole("y")])


# -- uninitialised memory ----------------------------------------------------------------------


def overwritten(cut: bool) -> Made:
    made = Made()
    made.given("x", (6, 3))
    if not cut:
        made.empty("e", (6, 3))
        made.outputs = (made.op("y", COPY, ("%e", "%x"), (6, 3)),)
        return made
    for i in (0, 1):
        made.op(f"x{i}", SLICE, ("%x", 0, 3 * i, 3 * i + 3), (3, 3))
        made.empty(f"e{i}", (3, 3))
        made.op(f"y{i}", COPY, (f"%e{i}", f"%x{i}"), (3, 3))
    made.outputs = (made.op("y", CAT, (("%y0", "%y1"), 0), (6, 3)),)
    return made


@pytest.mark.parametrize("memory", [[(0, 3), (3, 3)], [(0, 3), (0, 3)], []])
def test_memory_that_is_overwritten_is_any_memory(memory: list[tuple[int, int]]) -> None:
    pieces: list[Claim] = [rows(f"e{i}", *at) for i, at in enumerate(memory)]
    copies: list[Claim] = [rows("y0", 0, 3), rows("y1", 3, 3), Whole("y")]
    assert established(overwritten(False), overwritten(True), e=pieces, y=copies)


def difference(memories: int, dtype: str) -> Made:
    """The difference of a memory and itself, or of two memories."""
    made = Made()
    names = [made.empty("e", (6,), dtype), *(["f"] if memories == 2 else [])]
    if memories == 2:
        made.empty("f", (6,), dtype)
    made.outputs = (made.op("y", SUB, (f"%{names[0]}", f"%{names[-1]}"), (6,), dtype),)
    return made


@pytest.mark.parametrize("dtype", [F32, I64])
def test_numbers_that_were_never_written_are_taken_from_one_place(dtype: str) -> None:
    assert established(difference(1, dtype), difference(1, dtype))
    claims: dict[str, list[Claim]] = {"e": [Whole("e"), Whole("f")]}
    assert refused(difference(1, dtype), difference(2, dtype), **claims).startswith("y")


def test_what_is_never_written_is_no_constant() -> None:
    before, after = Made(), Made()
    before.outputs = (before.empty("e", (6,)),)
    after.outputs = (after.op("e", FULL, ((6,), 0), (6,)),)
    assert refused(after, before)


# -- integers that may be equal by chance --------------------------------------------------------


def looked_up(order: tuple[int, ...]) -> Made:
    """Two rows of a table of two, one by one, by the numbers with these places."""
    made = Made()
    made.given("table", (2, 3))
    made.given("rows", (2,), I64)
    if not order:
        made.outputs = (made.op("y", "aten.index.Tensor", ("%table", ("%rows",)), (2, 3)),)
        return made
    for i, place in enumerate(order):
        made.op(f"row{i}", SLICE, ("%rows", 0, place, place + 1), (1,), I64)
        made.op(f"y{i}", "aten.index.Tensor", ("%table", (f"%row{i}",)), (1, 3))
    made.outputs = (made.op("y", CAT, (("%y0", "%y1"), 0), (2, 3)),)
    return made


@pytest.mark.parametrize("claimed", [True, False])
def test_indices_that_agree_in_one_draw_of_two_are_drawn_again(claimed: bool) -> None:
    pieces: list[Claim] = [rows("y0", 0, 1), rows("y1", 1, 1)] if claimed else []
    assert established(looked_up(()), looked_up((0, 1)), y=[*pieces, Whole("y")])
    for wrong in ((0, 0), (1, 1), (1, 0)):
        assert refused(looked_up(()), looked_up(wrong), y=[*pieces, Whole("y")])


# -- collectives with equal payloads -------------------------------------------------------------


def gathers(payloads: tuple[str, str]) -> Made:
    made = Made()
    made.given("x", (4, 3))
    made.op("c", "aten.clone.default", ("%x",), (4, 3))
    for i, payload in enumerate(payloads):
        made.op(f"g{i}", GATHER, (payload, 2, "0"), (8, 3))
        made.op(f"w{i}", WAIT, (f"%g{i}",), (8, 3))
    made.outputs = ("w0", "w1")
    return made


def test_two_collectives_whose_payloads_are_equal_may_take_the_same() -> None:
    assert established(gathers(("%x", "%c")), gathers(("%x", "%x"))).collectives == (2, 2)


# -- sizes that depend on data -------------------------------------------------------------------


def counted(of: str) -> Made:
    made = Made()
    for x in ("n", "m"):
        made.given(x, (), I64)
    made.op("item", ITEM, (f"%{of}", 37), None)
    made.outputs = (made.op("y", FULL, ((37,), 1), (37,)),)
    return made


def test_a_number_is_taken_from_the_same_value() -> None:
    assert established(counted("n"), counted("n"))
    assert refused(counted("n"), counted("m")).startswith("item: this number is taken")


def picked(first: int | None, counts: bool = True) -> Made:
    """One element of each row is taken, by the number of the row; in slices from ``first`` on."""
    made, half = Made(), ROWS // 2
    x, labels = made.given("x", (ROWS, INNER)), made.given("labels", (ROWS,), I64)
    if counts:
        kwargs = (("device", torch.device("cpu")), ("dtype", torch.int64))
        kwargs += (("requires_grad", False), ("start", 0), ("step", 1))
        value = Tensor((ROWS,), I64)
        made.operations["n"] = Operation("n", "prims.iota.default", (ROWS,), kwargs, value)
    else:
        made.given("n", (ROWS,), I64)
    if first is None:
        made.outputs = (made.op("y", INDEX, ("%x", ("%n", "%labels")), (ROWS,)),)
        return made
    for place, start in enumerate((0, half)):
        at = first if place else 0
        made.op(f"x_{place}", SLICE, (f"%{x}", 0, start, start + half), (half, INNER))
        made.op(f"labels_{place}", SLICE, (f"%{labels}", 0, start, start + half), (half,), I64)
        made.op(f"n_{place}", SLICE, ("%n", 0, at, at + half), (half,), I64)
        rows = (f"%x_{place}", (f"%n_{place}", f"%labels_{place}"))
        made.op(f"y_{place}", INDEX, rows, (half,))
    made.outputs = (made.op("y", CAT, (("%y_0", "%y_1"),), (ROWS,)),)
    return made


def test_numbers_of_rows_are_what_they_are() -> None:
    """Too large to be followed element by element, an index by any numbers would be another one."""
    half = ROWS // 2
    claims = {
        name: [rows(f"{name}_{place}", half * place, half) for place in range(2)]
        for name in ("x", "labels", "y")
    }
    before = picked(None)
    assert established(before, picked(0), **claims).how["y_1"] == NUMBERS
    assert "not rows" in refused(before, picked(1), **claims)
    memory = Memory()
    check(before, picked(0), Witness(claims), memory)
    with pytest.raises(NotEstablished, match="not rows"):
        check(picked(None, False), picked(0, False), Witness(claims), memory)


@pytest.mark.parametrize("read", [7, 6])
def test_what_was_written_last_is_read(read: int) -> None:
    """A buffer that is larger than what is written to it, again and again, as in Megatron."""
    shape, length = (40, 50, 60), 40 * 50 * 60

    def made(directly: int | None) -> Made:
        graph = Made()
        last = graph.op("memory", EMPTY, ((2 * length,),), (2 * length,))
        for n in range(8):
            graph.given(f"v{n}", (length,))
            last = graph.op(f"w{n}", WRITE, (f"%{last}", f"%v{n}", 0, 0, length), (2 * length,))
        source = f"v{directly}"
        if directly is None:
            source = graph.op("r", SLICE, (f"%{last}", 0, 0, length), (length,))
        graph.outputs = (graph.op("y", VIEW, (f"%{source}", shape), shape), last)
        return graph

    claims: dict[str, list[Claim]] = {"memory": [Whole("memory")]}
    if read == 7:
        assert established(made(None), made(read), **claims).how["y"] == NUMBERS
    else:
        assert "its numbers differ" in refused(made(None), made(read), **claims)


def test_an_operation_of_no_known_line_has_none() -> None:
    trace = '  File "model.py", line 7, in forward\n    y = x @ w'
    lines = [Operation("y", "aten.mm.default", (), (), None, trace=x).line for x in ("", trace)]
    assert lines == ["", "model.py:7: y = x @ w"]
