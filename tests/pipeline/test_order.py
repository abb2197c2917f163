"""The passes as data: names and numbers derive from one table, and outcomes tell the truth."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import fx

from domino_compile import explain, fake_ranks, reports, reset_reports
from domino_compile.analysis import CutPlan, infer_cut
from domino_compile.analysis.found import find_collectives
from domino_compile.cost import CostModel
from domino_compile.options import PASS_NAMES, Options
from domino_compile.pipeline.contract import Context, Lowering, Pass
from domino_compile.pipeline.decision import Decision
from domino_compile.pipeline.order import CUT, GRAPH, JOINT, PREPARE, TRIED, title
from domino_compile.report.graph_text import readable
from tests.emitted.harness import SEQ, VOCAB, Model
from tests.passes import graphs
from tests.paths import FAST_LINK, ROOT

MADE: dict[str, Callable[[], fx.Graph]] = {
    "mlp.joint": graphs.mlp_joint,
    "mlp.forward": graphs.mlp_forward,
    "attention.forward": graphs.attention_forward,
    "qkv.backward": graphs.three_inputs_reduced,
}


def test_numbers_are_places_in_the_order() -> None:
    assert [title(name) for name in PASS_NAMES] == [
        f"{number:02}.{made.name}" for number, made in enumerate((*JOINT, *GRAPH), 1)
    ]
    assert len(set(PASS_NAMES)) == len(PASS_NAMES)


def test_an_optional_pass_is_the_last_of_its_stage() -> None:
    for stage in (PREPARE, TRIED, CUT, GRAPH):
        assert not any(made.optional for made in stage[:-1])


def test_each_pass_has_the_file_of_its_name() -> None:
    for name in PASS_NAMES:
        assert (ROOT / "passes" / f"{name}.py").is_file()


def test_documents_name_every_pass() -> None:
    for document in ("README.md", "docs/adding_a_pass.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        assert not [name for name in PASS_NAMES if f"`{name}`" not in text and name not in text]


def context(graph: fx.Graph) -> Context:
    cost = CostModel("H200", FAST_LINK, lambda group: 2, configured=True)
    found = find_collectives(graph)
    rows = infer_cut(graph, 2)
    return Context(
        cost=cost,
        lowering=Lowering(fuses=True, products=True),
        on_gpu=True,
        memory_cap=0.05,
        found=found,
        decision=Decision(True, rows, parts=2),
    )


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("made", [*JOINT, *GRAPH], ids=lambda made: made.name)
def test_a_false_outcome_means_an_unchanged_graph(made: Pass[object], name: str) -> None:
    graph = MADE[name]()
    at = context(graph)
    if made in GRAPH:
        for earlier in GRAPH[: GRAPH.index(made)]:
            at.outcomes.put(earlier, earlier.run(graph, at))
    elif made.name == "slice" and not isinstance(at.decision and at.decision.rows, CutPlan):
        pytest.skip("nothing to cut in this graph")
    elif made.name in ("regroup", "exchange"):
        pytest.skip("no ranks divide tokens in these graphs: see tests/rules/test_regroup.py")
    before = readable(graph)
    outcome = made.run(graph, at)
    graph.lint()
    if not outcome:
        assert readable(graph) == before
    elif made.name != "schedule":  # the order may be good already
        assert readable(graph) != before


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"slices": 2, "disable_passes": ["slice"]}, "the pass 'slice' is disabled"),
        ({"columns": 2, "slices": 1, "disable_passes": ["columns"]}, "slices=1"),
    ],
)
def test_a_pass_is_disabled_alone(options: dict[str, object], what: str) -> None:
    import torch

    with fake_ranks(2):
        torch._dynamo.reset()
        reset_reports()
        tokens = torch.zeros(4, SEQ, dtype=torch.long) % VOCAB
        explain(Model(1), tokens, tokens, options={"link": FAST_LINK, **options})
        report = reports()[-1]
    assert report.status == "reordered" and what in report.reason
    assert not report.slices and not report.columns and report.schedules


def test_disabled_columns_leave_rows() -> None:
    import torch

    with fake_ranks(2):
        torch._dynamo.reset()
        reset_reports()
        tokens = torch.zeros(4, SEQ, dtype=torch.long) % VOCAB
        chosen = {"link": FAST_LINK, "slices": 2, "columns": 2, "disable_passes": ["columns"]}
        explain(Model(1), tokens, tokens, options=chosen)
        report = reports()[-1]
    assert report.slices and not report.columns


def test_unknown_passes_are_refused_by_name() -> None:
    with pytest.raises(Exception, match="columns"):
        Options.parse({"disable_passes": ["colums"]})
