"""What is chosen for steps of a GPT on an H200, captured on the CPU; held to the real passes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from benchmarks.predict import FREE, planned
from domino_compile import fake_ranks
from domino_compile.links import Contention, load_link, save_link
from domino_compile.report import CompileReport
from tests.emitted.harness import SEQ, VOCAB, Model, ReduceFromTensorParallel
from tests.emitted.test_uncut import report_of

LINK = "h200-nvlink-8"


@pytest.fixture(scope="module", autouse=True)
def h200(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if dist.is_initialized():
        dist.destroy_process_group()
    folder = tmp_path_factory.mktemp("rates")
    (folder / "free.json").write_text(json.dumps(FREE))
    with fake_ranks(8):
        yield folder


def step(**options: Any) -> CompileReport:
    sizes = {"batch": 8, "seq": 1024, "layers": 2, "link": LINK} | options
    return planned(**sizes)


def predicted_us(report: CompileReport) -> float:
    return sum(schedule.predicted_us for schedule in report.schedules)


def test_a_large_step_is_cut_and_says_what_was_compared() -> None:
    report = step()
    assert report.status == "sliced" and len(report.slices) == 2 and not report.columns
    (chosen,) = [c for c in report.candidates if c.chosen]
    alone = report.candidates[0]
    assert alone.split == "inductor" and chosen.split == "rows"
    assert report.slices == [str(rows) for rows in chosen.slices] and sum(chosen.slices) == 8
    assert chosen.predicted_us < 0.94 * alone.predicted_us
    times = report.times
    assert times is not None and f"predicted {times.change}" in report.summary()
    assert times.inductor.step_us == pytest.approx(alone.predicted_us, rel=1e-3)
    assert times.planned.step_us < 0.94 * times.inductor.step_us
    assert all(c.chosen != bool(c.reason) for c in report.candidates)
    again = step()
    assert again.candidates == report.candidates and again.digest() == report.digest()


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_candidates_are_predicted_as_the_real_passes_come_out(slices: int) -> None:
    """The planner cuts nothing; slicing, partitioning and scheduling for real says the same."""
    forced = step(slices=slices)
    assert not forced.candidates and len(forced.slices) == (slices if slices > 1 else 0)
    planned_for = {max(1, len(c.slices)): c for c in step().candidates[1:]}
    assert predicted_us(forced) == pytest.approx(planned_for[slices].predicted_us, rel=0.07)


def test_a_free_link_is_not_worth_a_cut(h200: Path) -> None:
    report = step(link=str(h200 / "free.json"))
    assert report.status == "reordered" and not report.slices  # its norms' kernels are faster
    (rows,) = [c for c in report.candidates if c.split == "rows" and c.slices == [4, 4]]
    (chosen,) = [c for c in report.candidates if c.chosen]
    assert rows.predicted_us > chosen.predicted_us and rows.reason
    anyway = step(link=str(h200 / "free.json"), guard="off")
    assert anyway.status == "sliced"


def test_a_link_that_slows_compute_down_is_not_worth_a_cut(h200: Path) -> None:
    found = Contention((8192, 4096, 4096), 2.5, 1.5, {"all_reduce": 1.5}, 0.3)
    save_link(replace(load_link(LINK), contention=found), h200 / "contended.json")
    report = step(link=str(h200 / "contended.json"))
    assert report.status == "reordered" and not report.slices
    (rows,) = [c for c in report.candidates if c.split == "rows" and c.slices == [4, 4]]
    (chosen,) = [c for c in report.candidates if c.chosen]
    assert rows.predicted_us > chosen.predicted_us and rows.reason


def test_a_batch_of_one_is_cut_along_its_tokens() -> None:
    report = step(batch=1, seq=8192, guard="off")
    assert report.status == "sliced"
    assert sum(int(rows) for rows in report.slices) == 8192


def test_columns_are_cut_only_where_compute_would_wait() -> None:
    """Backward's collectives hide under weight gradients: cutting products there would only cost.

    (Tokens would be cut instead, were the pass not disabled.)
    """
    report = step(batch=1, seq=2048, guard="off", disable_passes=["slice"])
    (chosen,) = [c for c in report.candidates if c.chosen]
    forward = [c.name for c in report.collectives if c.phase == "forward"]
    assert chosen.split == "columns" and chosen.at == sorted(forward)
    assert report.columns == ["2048", "2048"]
    assert {(c.phase, c.action, c.reason) for c in report.collectives} == {
        ("forward", "sliced", ""),
        ("backward", "reordered", "hidden without a cut"),
    }
    assert [c.reason for c in report.candidates if c.split == "reordered"] == [
        "faster, but a cut is wanted"
    ]


def test_forced_columns_go_with_the_best_rows() -> None:
    report = step(columns=2)
    assert len(report.columns) == 2
    assert all("columns" in c.split for c in report.candidates[1:])
    assert any(c.split == "rows and columns" for c in report.candidates)
    (chosen,) = [c for c in report.candidates if c.chosen]
    known = [c for c in report.candidates[1:] if not c.estimated]
    assert chosen.predicted_us == min(c.predicted_us for c in known)
    assert not step(columns=1, slices=1).columns


def test_sums_of_weight_gradients_do_not_pile_up() -> None:
    """Each slice adds to what the slice before has left, so that one of them lives at a time."""
    report = step(seq=128, guard="off", columns=1)
    peaks = {c.split: c.peak_bytes for c in report.candidates if not c.estimated}
    assert report.collectives and peaks["rows"] < 1.10 * peaks["inductor"]


def test_no_memory_no_cut() -> None:
    """Slices of small products: a weight's gradient is summed up out of place."""
    little = {"seq": 128, "guard": "off"}
    assert step(**little, columns=1, memory_cap=1.0).status == "sliced"
    report = step(**little, columns=1, memory_cap=0.0)
    assert report.status == "reordered" and "memory_cap=0 allows" in report.reason


def test_columns_that_are_too_few_are_named() -> None:
    tokens = torch.randint(0, VOCAB, (4, SEQ))
    report = report_of(Model(1), tokens, tokens, columns=100, slices=1)
    assert report.status == "reordered"
    said = f"{report.reason}; {report.advice}"
    for words in ("have 32 columns, too few for 100", "'slices': 2"):
        assert words in said, said


def test_one_row_is_cut_into_tokens() -> None:
    tokens = torch.randint(0, VOCAB, (1, SEQ))
    report = report_of(Model(1), tokens, tokens, slices=2)
    assert report.tokens and report.slices == [str(SEQ // 2)] * 2
    assert f"sliced into tokens {SEQ // 2}+{SEQ // 2}" in report.summary()
    assert {c.action for c in report.collectives} == {"sliced"} and not report.joins


def test_one_row_whose_tokens_all_meet_is_not_cut() -> None:
    tokens = torch.randint(0, VOCAB, (1, SEQ))
    causal = F.scaled_dot_product_attention

    def full(*args: Any, is_causal: bool) -> torch.Tensor:
        return causal(*args)

    with mock.patch.object(F, "scaled_dot_product_attention", full):
        report = report_of(Model(1), tokens, tokens, slices=3)
    assert report.status == "reordered"
    said = f"{report.reason}; {report.advice}"
    for words in ("along tokens[1]", "without a causal mask", "test_plan.py", "'columns': 2"):
        assert words in said, said


class Sorted(Model):
    """The rows of the batch meet in front of the collective."""

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).flatten(0, 1)
        block = self.blocks[0]
        hidden = torch.cumsum(block.up(x), 0).cumsum(1)
        return ReduceFromTensorParallel.apply(block.down(hidden)).square().sum()


def test_the_operation_that_stops_a_cut_is_named() -> None:
    tokens = torch.randint(0, VOCAB, (4, SEQ))
    report = report_of(Sorted(1), tokens, tokens, slices=2)
    assert report.status == "reordered"
    said = f"{report.reason}; {report.advice}"
    for words in ("all_reduce of", "cumsum", "tokens[", "is stopped at", "'columns': 2"):
        assert words in said, said


class OnePartial(Model):
    """What is between product and collective needs whole rows: no columns can be cut."""

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        block = self.blocks[0]
        whole = ReduceFromTensorParallel.apply(block.down(block.up(x)).softmax(-1))
        return whole.square().sum()


def test_columns_that_cannot_be_cut_are_as_if_not_asked_for() -> None:
    tokens = torch.randint(0, VOCAB, (4, SEQ))
    plain, asked = (
        report_of(OnePartial(1), tokens, tokens, device="H200", **options)
        for options in ({"columns": 1}, {"columns": 2})
    )
    assert (asked.status, asked.slices) == (plain.status, plain.slices)
    assert [c.predicted_us for c in asked.candidates] == [c.predicted_us for c in plain.candidates]
    assert "no collective carries the columns" in asked.reason and not asked.columns
