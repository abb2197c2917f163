"""What units read, write and compute, of graphs written by hand; sizes in bytes."""

import torch
from torch import fx

from domino_compile.scheduling import Unit, build_units
from domino_compile.scheduling.traffic import HARD, KEPT_ROW, SCALE_WEIGHT, Traffic
from tests.passes.costs import COSTS
from tests.passes.graphs import Builder, aten

prims = torch.ops.prims
ROWS, COLUMNS = 64, 32
HALF, FULL = 2 * ROWS * COLUMNS, 4 * ROWS * COLUMNS


def units_of(graph: fx.Graph) -> dict[str, Unit]:
    """The units by the name of each node in them."""
    return {node.name: unit for unit in build_units(graph, COSTS).units for node in unit.nodes}


def sizes(traffic: Traffic) -> tuple[dict[str, int], dict[str, int]]:
    reads = {node.name: size for node, size in traffic.reads.items()}
    return reads, {node.name: size for node, size in traffic.writes.items()}


def test_what_comes_from_outside_is_read_and_what_is_needed_outside_written_once() -> None:
    b = Builder()
    x, w = b.input("x", ROWS, COLUMNS), b.input("w", COLUMNS, COLUMNS)
    y = b.call(aten.mul.Tensor, b.call(aten.add.Tensor, x, x), x)
    out = b.call(aten.mm.default, y, w)
    units = units_of(b.output(out, y))
    assert units["add"] is units["mul"]
    assert sizes(units["mul"].traffic) == ({"x": FULL}, {"mul": FULL})
    assert sizes(units["mm"].traffic)[1] == {"mm": FULL}


def test_float32_between_fused_groups_is_computed_anew_from_bf16() -> None:
    """A norm whose inside forward and backward both need: only bf16 and statistics move."""
    b = Builder()
    x = b.input("x", ROWS, COLUMNS, dtype=torch.bfloat16)
    w = b.input("w", COLUMNS, COLUMNS, dtype=torch.bfloat16)
    wide = b.call(prims.convert_element_type.default, x, torch.float32)
    mean = b.call(aten.mean.dim, b.call(aten.pow.Tensor_Scalar, wide, 2), [1], True)
    normed = b.call(aten.mul.Tensor, wide, b.call(aten.rsqrt.default, mean))
    narrow = b.call(prims.convert_element_type.default, normed, torch.bfloat16)
    grad = b.call(aten.mm.default, narrow, w)  # whatever comes between
    later = b.call(aten.mul.Tensor, grad, wide)
    units = units_of(b.output(later))
    reads, writes = sizes(units["mul_1"].traffic)
    assert reads == {"mm": HALF, "x": HALF} and writes == {"mul_1": FULL}
    reads, writes = sizes(units["mul"].traffic)
    assert reads == {"x": HALF} and writes == {"convert_element_type_1": HALF}


def test_statistics_are_written_and_read() -> None:
    b = Builder()
    x, w = b.input("x", ROWS, COLUMNS), b.input("w", COLUMNS, COLUMNS)
    mean = b.call(aten.mean.dim, x, [1], True)
    scale = b.call(aten.rsqrt.default, mean)
    y = b.call(aten.mm.default, b.call(aten.mul.Tensor, x, scale), w)
    units = units_of(b.output(b.call(aten.mul.Tensor, y, scale)))
    assert sizes(units["mul_1"].traffic)[0] == {"mm": FULL, "rsqrt": 4 * ROWS}
    assert sizes(units["mul"].traffic)[1] == {"rsqrt": 4 * ROWS, "mul": FULL}


def test_what_a_product_reads_is_in_memory() -> None:
    b = Builder()
    x = b.input("x", ROWS, COLUMNS, dtype=torch.bfloat16)
    w = b.input("w", COLUMNS, COLUMNS)
    wide = b.call(prims.convert_element_type.default, x, torch.float32)
    y = b.call(aten.mm.default, wide, w)
    units = units_of(b.output(b.call(aten.mul.Tensor, y, wide)))
    assert sizes(units["mul"].traffic)[0] == {"mm": FULL, "convert_element_type": FULL}


def test_a_group_of_which_all_is_computed_anew_is_no_kernel() -> None:
    b = Builder()
    x = b.input("x", ROWS, COLUMNS, dtype=torch.bfloat16)
    w = b.input("w", COLUMNS, COLUMNS, dtype=torch.bfloat16)
    wide = b.call(prims.convert_element_type.default, x, torch.float32)
    y = b.call(aten.mm.default, x, w)
    units = units_of(b.output(b.call(aten.mul.Tensor, y, wide)))
    assert units["convert_element_type"].traffic == Traffic()
    assert sizes(units["mul"].traffic)[0] == {"mm": HALF, "x": HALF}


def test_of_a_view_only_what_it_shows_is_read() -> None:
    b = Builder()
    x = b.input("x", ROWS, COLUMNS)
    part = b.call(aten.slice.Tensor, x, 0, 0, ROWS // 4)
    row = b.call(aten.expand.default, b.input("row", 1, COLUMNS), [ROWS // 4, COLUMNS])
    units = units_of(b.output(b.call(aten.add.Tensor, part, row)))
    assert sizes(units["add"].traffic)[0] == {"x": FULL // 4, "row": 4 * COLUMNS}


def test_random_numbers_are_drawn_beside_what_first_needs_them_and_are_hard() -> None:
    b = Builder()
    x, w = b.input("x", ROWS, COLUMNS), b.input("w", COLUMNS, COLUMNS)
    seeds = b.call(prims.inductor_seeds.default, 1, torch.device("cpu"))
    seed = b.call(prims.inductor_lookup_seed.default, seeds, 0)
    draw = b.call(prims.inductor_random.default, [ROWS, COLUMNS], seed, "rand")
    mask = b.call(aten.gt.Scalar, draw, 0.1)
    y = b.call(aten.mul.Tensor, b.call(aten.mm.default, x, w), mask)
    units = units_of(b.output(y))
    assert units["inductor_random"] is units["mul"]
    assert units["mul"].traffic.hard_elements == ROWS * COLUMNS
    assert sizes(units["mul"].traffic) == ({"mm": FULL}, {"mul": FULL})


def test_a_hard_value_is_computed_for_each_element_that_it_is_used_for() -> None:
    b = Builder()
    x, w = b.input("x", ROWS, COLUMNS), b.input("w", COLUMNS, COLUMNS)
    angle = b.call(prims.iota.default, COLUMNS, start=0, step=1, dtype=torch.int64,
                   device=torch.device("cpu"), requires_grad=False)  # fmt: skip
    cosine = b.call(aten.cos.default, angle)
    y = b.call(aten.mm.default, b.call(aten.mul.Tensor, x, cosine), w)
    units = units_of(b.output(b.call(aten.mul.Tensor, y, cosine)))
    for name in ("mul", "mul_1"):
        assert [node.target for node in units[name].traffic.hard] == [aten.cos.default]
        assert units[name].traffic.hard_elements == ROWS * COLUMNS
    assert aten.cos.default in HARD


def scaled(b: Builder, x: fx.Node, dims: list[int]) -> fx.Node:
    """``x`` divided by its largest values along ``dims``, which are divided in float64."""
    largest = b.call(aten.amax.default, x, dims, True)
    double = b.call(prims.convert_element_type.default, largest, torch.float64)
    scale = b.call(aten.reciprocal.default, double)
    single = b.call(prims.convert_element_type.default, scale, torch.float32)
    return b.call(aten.mul.Tensor, x, single)


def test_a_scale_of_columns_is_hard_for_each_element_and_one_of_rows_or_all_is_not() -> None:
    for dims, times in (([0], SCALE_WEIGHT), ([1], 0), ([0, 1], 0)):
        b = Builder()
        x, w = b.input("x", ROWS, COLUMNS), b.input("w", COLUMNS, COLUMNS)
        units = units_of(b.output(b.call(aten.mm.default, scaled(b, x, dims), w)))
        assert units["mul"].traffic.hard_elements == round(times * ROWS * COLUMNS), dims


def test_the_same_scale_of_several_casts_is_computed_once_in_a_unit() -> None:
    b = Builder()
    x, w = b.input("x", ROWS, COLUMNS), b.input("w", COLUMNS, COLUMNS)
    x = b.call(aten.neg.default, x)
    both = [b.call(aten.mm.default, scaled(b, x, [0]), w) for _ in range(2)]
    units = units_of(b.output(*both))
    hard = sum({id(u): u.traffic.hard_elements for u in units.values()}.values())
    assert hard == round(SCALE_WEIGHT * ROWS * COLUMNS)


def test_sums_over_rows_are_told_from_sums_of_rows() -> None:
    b = Builder()
    x, w = b.input("x", ROWS, COLUMNS), b.input("w", COLUMNS, COLUMNS)
    y = b.call(aten.mul.Tensor, b.call(aten.mm.default, x, w), x)
    bias = b.call(aten.sum.dim_IntList, y, [0])
    row = b.call(aten.sum.dim_IntList, y, [1], True)
    everything = b.call(aten.sum.dim_IntList, y, [0, 1])
    units = units_of(b.output(y, bias, row, everything))
    assert units["mul"] is units["sum_1"] is units["sum_2"] is units["sum_3"]
    work = units["mul"].traffic.fused
    assert (work.sums, work.summed) == (1, ROWS * COLUMNS)
    assert work.bytes == units["mul"].traffic.bytes and not work.wide


def test_what_is_summed_over_rows_but_made_elsewhere_is_read_once() -> None:
    b = Builder()
    x, w = b.input("x", ROWS, COLUMNS), b.input("w", COLUMNS, COLUMNS)
    units = units_of(b.output(b.call(aten.sum.dim_IntList, b.call(aten.mm.default, x, w), [0])))
    assert units["sum_1"].traffic.fused.sums == 0


def test_wide_rows_are_told() -> None:
    for width, wide in ((KEPT_ROW, False), (KEPT_ROW + 1, True)):
        b = Builder()
        x = b.input("x", ROWS, width)
        units = units_of(b.output(b.call(aten.mean.dim, x, [-1], True)))
        assert units["mean"].traffic.fused.wide == wide
