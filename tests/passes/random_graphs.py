"""Random units and random graphs for property tests of ordering."""

from typing import Any

from hypothesis import strategies as st
from torch import fx

from domino_compile.scheduling import Unit, UnitGraph
from tests.passes.graphs import Builder, aten


@st.composite
def unit_graphs(draw: st.DrawFn) -> UnitGraph:
    """Units with any costs, sizes and dependencies on earlier units; a launch now and then."""
    count = draw(st.integers(1, 24))
    units: list[Unit] = []
    for index in range(count):
        launch = draw(st.integers(0, 3)) == 0
        unit = Unit(
            index,
            [],
            launch,
            draw(st.sampled_from([0.0, 1.0, 2.5, 10.0])),
            draw(st.sampled_from(["tp", "dp"])) if launch else None,
            out_bytes=draw(st.integers(0, 9)),
        )
        unit.after = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        unit.after_wire = {i for i in unit.after if units[i].launch}
        units.append(unit)
    indices = st.integers(0, count - 1)
    inputs = draw(st.lists(st.tuples(st.integers(1, 9), st.sets(indices, min_size=1)), max_size=3))
    return UnitGraph(units, inputs, draw(st.sets(indices, max_size=count // 4)))


@st.composite
def graphs(draw: st.DrawFn) -> fx.Graph:
    """Functional operations, collectives, views, and writes into inputs, all 4 x 4."""
    b = Builder()
    inputs = [b.input(name, 4, 4) for name in ("x", "y", "z")]
    values = list(inputs)
    for _ in range(draw(st.integers(1, 20))):
        pick = st.sampled_from(values)
        kind = draw(st.sampled_from(["mm", "add", "relu", "view", "all_reduce", "write"]))
        if kind == "write":
            value = b.call(aten.clone.default, draw(pick))  # it may be a view of the input
            b.call(aten.copy_.default, draw(st.sampled_from(inputs)), value)
        else:
            values.append(_operation(b, kind, draw(pick), draw(pick)))
    return b.output(*values[-2:])


def _operation(b: Builder, kind: str, x: fx.Node, y: fx.Node) -> Any:
    match kind:
        case "mm":
            # Kept small, so that no sum of long chains overflows.
            return b.call(aten.mul.Tensor, b.call(aten.mm.default, x, y), 0.25)
        case "add":
            return b.call(aten.add.Tensor, x, y)
        case "relu":
            return b.call(aten.relu.default, x)
        case "view":
            return b.call(aten.permute.default, x, [1, 0])
        case _:
            return b.all_reduce(b.call(aten.clone.default, x))
