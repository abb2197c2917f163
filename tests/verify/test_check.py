"""What the checker establishes, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import fx

from domino_compile._compat.operators import c10d
from domino_compile.graph.new_nodes import new_node
from domino_compile.passes.accumulate import accumulate_products
from domino_compile.passes.equal import merge_equal
from domino_compile.passes.materialise import materialise_values
from domino_compile.passes.normalise import normalise_graph
from domino_compile.verify.check import NUMBERS, Established, Memory, check
from domino_compile.verify.claims import Piece, Whole, Witness
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.plain import from_json, to_json
from tests.passes.graphs import (
    Builder,
    aten,
    attention_forward,
    mlp_joint,
    rotary,
    three_inputs_reduced,
)
from tests.passes.test_equal import cast, scaled_product
from tests.verify.graphs import Rewriting, by_columns, by_rows, rewritten


def established(made: Rewriting) -> Established:
    return check(*made, Memory())


def refused(made: Rewriting) -> str:
    with pytest.raises(NotEstablished) as error:
        established(made)
    return str(error.value)


def merged(graph: fx.Graph) -> Witness:
    return normalise_graph(graph).witness


def accumulated(graph: fx.Graph) -> Witness:
    return accumulate_products(graph).witness


def merged_and_accumulated() -> Rewriting:
    graph = three_inputs_reduced(torch.bfloat16)
    normalise_graph(graph)
    return rewritten(graph, accumulated)


def kept(graph: fx.Graph) -> Witness:
    assert materialise_values(graph)
    return Witness()


def several_casts() -> fx.Graph:
    b = Builder()
    x = b.input("x", 8, 16)
    found = [b.call(aten.exp.default, b.call(aten.neg.default, cast(b, x))) for _ in "ab"]
    return b.output(*found, scaled_product(b))


def equal_once(graph: fx.Graph) -> Witness:
    assert merge_equal(graph)
    return Witness()


REWRITINGS: dict[str, Callable[[], Rewriting]] = {
    "rows of an MLP": lambda: by_rows(mlp_joint()),
    "three slices of an MLP": lambda: by_rows(mlp_joint(), 3),
    "rows of attention": lambda: by_rows(attention_forward()),
    "columns of an MLP": lambda: by_columns(mlp_joint()),
    "columns of slices": lambda: by_columns(sliced(mlp_joint())),
    "merged all-reduces": lambda: rewritten(three_inputs_reduced(), merged),
    "accumulated products": merged_and_accumulated,
    "equal values": lambda: rewritten(several_casts(), equal_once),
    "materialised cosines": lambda: rewritten(rotary(), kept),
}


def sliced(graph: fx.Graph) -> fx.Graph:
    by_rows(graph)
    return graph


@pytest.mark.parametrize("name", REWRITINGS)
def test_what_the_passes_do_is_established(name: str) -> None:
    made = REWRITINGS[name]()
    assert made.before.outputs
    done = established(made)
    assert set(done.how) <= set(made.after.operations)


def test_collectives_are_counted() -> None:
    assert established(by_rows(mlp_joint())).collectives == (2, 4)
    assert established(rewritten(three_inputs_reduced(), merged)).collectives == (3, 1)


def unequal_exchange() -> fx.Graph:
    """Rows that go to the other rank and come back, as many as each rank likes."""
    b = Builder()
    y = b.call(aten.mm.default, b.input("x", 12, 8), b.input("w", 8, 16))
    for received, sent in (([7, 5], [8, 4]), ([8, 4], [7, 5])):
        launch = b.call(c10d.all_to_all_single.default, y, received, sent, "tp")
        y = b.call(aten.exp.default, b.call(c10d.wait_tensor.default, launch))
    return b.output(y)


def test_parts_of_an_exchange_take_their_rows_from_where_the_whole_takes_them() -> None:
    made = by_columns(unequal_exchange())
    assert established(made).collectives == (2, 4)
    operations = made.after.operations
    name = "all_to_all_single_c0"
    part, other = operations[name], operations["all_to_all_single_c1"]
    for args in (
        (part.args[0], (5, 7), *part.args[2:]),
        (part.args[0], part.args[1], (4, 8), *part.args[3:]),
        (other.args[0], *part.args[1:]),
    ):
        wrong = {**operations, name: replace(part, args=args)}
        assert refused(Rewriting(made.before, replace(made.after, operations=wrong), made.witness))


def test_graphs_and_claims_survive_as_data() -> None:
    made = by_rows(mlp_joint())
    before, after = from_json(to_json(made.before)), from_json(to_json(made.after))
    witness = Witness.from_json(made.witness.to_json())
    assert witness == made.witness
    assert established(Rewriting(before, after, witness)).how == established(made).how


def test_a_wrong_claim_is_refused() -> None:
    made = by_rows(mlp_joint())
    for name, claims in made.witness.claims.items():
        for claim in claims:
            if isinstance(claim, Piece):
                start = claim.start + 1 if not claim.start else claim.start - 1
                wrong = replace(claim, start=start)
                others = [wrong if c == claim else c for c in claims]
                witness = Witness({**made.witness.claims, name: others})
                assert refused(Rewriting(made.before, made.after, witness))


def test_claims_are_needed() -> None:
    made = by_rows(mlp_joint())
    assert refused(Rewriting(made.before, made.after, Witness()))


def test_a_lost_collective_is_refused() -> None:
    made = by_rows(mlp_joint())
    operations = dict(made.after.operations)
    wait = operations["wait_tensor_s0"]
    launch = operations.pop("all_reduce_s0")
    operations["wait_tensor_s0"] = replace(wait, target="aten.clone.default", args=launch.args[:1])
    after = replace(made.after, operations=operations)
    assert refused(Rewriting(made.before, after, made.witness)).startswith("wait_tensor")


def test_an_unnamed_input_of_another_value_is_refused() -> None:
    made = by_rows(mlp_joint())
    witness = Witness({**made.witness.claims, "mm": [Whole("mm_3_s0")]})
    assert refused(Rewriting(made.before, made.after, witness))


def sigmoids(between: Callable[[Builder, fx.Node], object], second: float = 1.0) -> fx.Graph:
    """The sigmoid of a product, twice, and something in between."""
    b = Builder()
    x = b.input("x", 8, 16)
    found = []
    for number in (1.0, second):
        product = b.call(aten.mul.Tensor, x, number)
        found.append(b.call(aten.exp.default, b.call(aten.sigmoid.default, product)))
        between(b, x)
    return b.output(*found)


def written(b: Builder, x: fx.Node) -> None:
    b.call(aten.copy_.default, x, b.call(aten.cos.default, x))


def drawn(b: Builder, x: fx.Node) -> None:
    b.call(aten.bernoulli.p, x, 0.5)


def second_from_first(graph: fx.Graph) -> Witness:
    first, second = graph.find_nodes(op="call_function", target=aten.sigmoid.default)
    second.replace_all_uses_with(first)
    product = second.args[0]
    for node in (second, product):
        graph.erase_node(node)
    return Witness()


def test_equal_values_may_be_one_and_others_may_not() -> None:
    assert established(rewritten(sigmoids(lambda *_: None), second_from_first))
    assert established(rewritten(sigmoids(drawn), second_from_first))
    assert refused(rewritten(sigmoids(lambda *_: None, 2.0), second_from_first))
    assert refused(rewritten(sigmoids(written), second_from_first))


def copies() -> fx.Graph:
    """Two copies of a value, one of which is written to."""
    b = Builder()
    x = b.input("x", 8, 16)
    first, second = (b.contiguous(b.call(aten.neg.default, x)) for _ in range(2))
    b.call(aten.copy_.default, b.call(aten.view.default, second, [16, 8]), b.input("y", 16, 8))
    return b.output(b.call(aten.exp.default, first), b.call(aten.cos.default, second))


def one_copy(graph: fx.Graph) -> Witness:
    first, second = graph.find_nodes(op="call_function", target=aten.clone.default)
    second.replace_all_uses_with(first)
    graph.erase_node(second)
    return Witness()


def read_later(graph: fx.Graph) -> Witness:
    """Move the second of two equal values behind a write of what it reads."""
    _, second = graph.find_nodes(op="call_function", target=aten.sigmoid.default)
    (write,) = graph.find_nodes(op="call_function", target=aten.copy_.default)
    for node in (second.args[0], second, *second.users):
        graph.output_node().prepend(node)
    assert write < second
    return Witness()


def written_at_the_end() -> fx.Graph:
    graph = sigmoids(lambda *_: None)
    x = graph.find_nodes(op="placeholder")[0]
    with graph.inserting_before(graph.output_node()):
        made = graph.call_function(aten.cos.default, (x,))
        write = graph.call_function(aten.copy_.default, (x, made))
    for node in (made, write):
        node.meta["val"] = x.meta["val"]
    return graph


def test_equal_values_that_change_are_two() -> None:
    assert refused(rewritten(copies(), one_copy))
    assert established(rewritten(written_at_the_end(), second_from_first))
    assert refused(rewritten(written_at_the_end(), read_later))


def test_no_device_draws_other_numbers_because_of_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeding all devices would start the user's random numbers on a GPU again at every compile."""

    def seeded(*_: object) -> None:
        raise AssertionError("the generators of a device are seeded")

    for device in (torch.cuda, torch.xpu, torch.mps):
        monkeypatch.setattr(device, "manual_seed_all", seeded, raising=False)
        monkeypatch.setattr(device, "manual_seed", seeded)
    state = torch.random.get_rng_state()
    made = merged_and_accumulated()
    assert NUMBERS in established(made).counts
    assert torch.equal(torch.random.get_rng_state(), state)


def largest_of_rows() -> fx.Graph:
    """What is behind the second of four slices is as long as the first two: 4096 rows."""
    b = Builder()
    reduced = b.all_reduce(b.call(aten.mm.default, b.input("x", 8192, 16), b.input("w", 16, 64)))
    return b.output(b.call(aten.amax.default, b.call(aten.neg.default, reduced), [-1], True))


def test_slices_that_end_where_others_are_long_are_established() -> None:
    assert established(by_rows(largest_of_rows(), 4))


def test_an_index_into_one_element_is_drawn_within_it() -> None:
    """``roll`` over a dimension of one element indexes it, which other dimensions must not hide."""
    b = Builder()
    x, index = b.input("x", 6, 1, 4), b.input("index", 1, dtype=torch.int64)
    graph = b.output(b.call(aten.index.Tensor, x, [None, index]))
    made = rewritten(graph, indexed_by_rows)
    assert established(made).how


def indexed_by_rows(graph: fx.Graph) -> Witness:
    (whole,) = graph.find_nodes(op="call_function", target=aten.index.Tensor)
    x, (_, index) = whole.args
    witness, parts = Witness(), []
    with graph.inserting_before(whole):
        for start in (0, 2, 4):
            piece = new_node(graph, whole, aten.slice.Tensor, (x, 0, start, start + 2))
            part = new_node(graph, whole, aten.index.Tensor, (piece, [None, index]))
            witness.add(whole.name, Piece(part.name, 0, 1, start, 2))
            parts.append(part)
        joined = new_node(graph, whole, aten.cat.default, (parts,))
    witness.add(whole.name, Whole(joined.name))
    whole.replace_all_uses_with(joined)
    graph.erase_node(whole)
    return witness
