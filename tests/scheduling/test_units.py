"""What becomes a unit of work; segments that do not grow with the number of layers."""

import torch
from torch import fx

from domino_compile.scheduling import Unit, build_units
from domino_compile.scheduling.list_schedule import Segments
from tests.passes.costs import COSTS
from tests.passes.graphs import Builder, aten

prims = torch.ops.prims


def unit_names(graph: fx.Graph) -> list[str]:
    return [node.name for unit in build_units(graph, COSTS).units for node in unit.nodes]


def test_constants_are_part_of_the_kernels_that_use_them() -> None:
    b = Builder()
    x, mask = b.input("x", 4, 4), b.input("mask", 4, 4, dtype=torch.bool)
    zero = b.call(aten.full.default, [], 0.0, dtype=torch.float32, device="cpu")
    one = b.call(aten.scalar_tensor.default, 1.0, dtype=torch.float32)
    both = b.call(aten.add.Tensor, zero, one)
    assert unit_names(b.output(b.call(aten.where.self, mask, x, both))) == ["add", "where"]


def test_seeds_are_drawn_once_and_looked_up_for_free() -> None:
    b = Builder()
    seeds = b.call(prims.inductor_seeds.default, 2, torch.device("cpu"))
    seed = b.call(prims.inductor_lookup_seed.default, seeds, 1)
    draw = b.call(prims.inductor_random.default, [4, 4], seed, "rand")
    assert unit_names(b.output(draw)) == ["inductor_seeds", "inductor_random"]


def test_constants_that_are_needed_in_memory_are_kernels() -> None:
    b = Builder()
    x, rows = b.input("x", 2, 4), b.input("rows", 2, dtype=torch.int64)
    base = b.call(aten.full.default, [8, 4], 0.0, dtype=torch.float32, device="cpu")
    out = b.call(aten.index_put.default, base, [rows], x, True)
    result = b.call(aten.full.default, [4], 1.0, dtype=torch.float32, device="cpu")
    assert unit_names(b.output(out, result)) == ["full", "index_put", "full_1"]


def test_segments_end_at_earlier_launches_also_along_a_residual_stream() -> None:
    units: list[Unit] = []

    def unit(*after: int, launch: bool = False) -> int:
        wire = {i for i in after if units[i].launch}
        group = "tp" if launch else None
        units.append(Unit(len(units), [], launch, 1.0, group, None, set(after), wire))
        return len(units) - 1

    stream = unit()
    for _ in range(5):
        launch = unit(unit(stream), launch=True)
        stream = unit(stream, launch)
    segments = Segments(units)
    launches = [u.index for u in units if u.launch]
    assert segments.left_us == dict.fromkeys(launches, 2.0)
    assert [len(segments.behind[i]) for i in launches] == [0, 1, 1, 1, 1]
