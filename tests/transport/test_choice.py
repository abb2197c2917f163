"""Which collectives the option ``transport`` takes from NCCL."""

from typing import Any

import pytest
from torch import fx

from domino_compile.graph.collectives import WAIT, c10d, find_sites
from domino_compile.graph.tags import mark_alone
from domino_compile.options import Options
from domino_compile.transport import choice
from domino_compile.transport.choice import Choice
from tests.passes.graphs import Builder

MIB = 1 << 20
LARGE, SMALL = 1024, 8


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks can reach each other's memory, and there are two."""
    monkeypatch.setattr(choice, "against_group", lambda name, device: "")
    monkeypatch.setattr("domino_compile._compat.group_size", lambda name: 2)


def launches(rows: int) -> dict[str, fx.Node]:
    """An all-reduce, a reduce-scatter and an all-gather of ``rows`` by 1024 float32 numbers."""
    b = Builder()
    x = b.input("x", rows, 1024)
    made: dict[str, Any] = {
        "all_reduce": (c10d.all_reduce.default, x, "sum", "tp"),
        "reduce_scatter": (c10d.reduce_scatter_tensor.default, x, "sum", 2, "tp"),
        "all_gather": (c10d.all_gather_into_tensor.default, x, 2, "tp"),
    }
    nodes = {name: b.call(*call) for name, call in made.items()}
    b.output(*(b.call(WAIT, node) for node in nodes.values()))
    return nodes


def reasons(transport: choice.Transport, rows: int) -> dict[str, str]:
    nodes = launches(rows)
    (graph,) = {node.graph for node in nodes.values()}
    sites = {site.launch: site for site in find_sites(graph)}
    return {name: Choice(transport).against(sites[node]) for name, node in nodes.items()}


def test_auto_takes_what_was_measured_to_be_faster() -> None:
    nothing = dict.fromkeys(("all_reduce", "reduce_scatter", "all_gather"), "")
    assert reasons("symmetric", LARGE) == reasons("symmetric", SMALL) == nothing
    assert reasons("auto", LARGE) == {**nothing, "all_reduce": "NCCL is as fast"}
    assert set(reasons("auto", SMALL).values()) == {"smaller than 4 MiB"}


def test_products_have_all_multiprocessors_only_if_no_large_collective_needs_nccl() -> None:
    (graph,) = {node.graph for node in launches(LARGE).values()}
    sites = find_sites(graph)
    without = [site for site in sites if site.kind != "all_reduce"]
    auto = Choice("auto")
    assert Choice("symmetric").frees_multiprocessors(sites)
    assert auto.frees_multiprocessors(without) and not auto.frees_multiprocessors(sites)
    assert not auto.frees_multiprocessors([])


def test_collectives_of_other_parallelism_stay_with_nccl() -> None:
    """Ranks with other programs may meet in them."""
    node = launches(LARGE)["all_gather"]
    mark_alone(node)
    (site,) = [site for site in find_sites(node.graph) if site.launch is node]
    assert Choice("symmetric").against(site) == "it is not tensor parallel"


def test_options_that_forbid_it_are_named() -> None:
    verified = Choice.of(Options(transport="symmetric", verify="on"))
    unpinned = Choice.of(Options(transport="auto", disable_passes=("pin",)))
    assert verified == Choice("symmetric")
    assert unpinned is not None and "disable_passes" in unpinned.obstacle
    assert Choice.of(Options()) is None
