"""The operations compute what ``aten`` computes, and what is chosen is kept and shared."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from domino_compile import _compat
from domino_compile.gemm import choices
from domino_compile.gemm.choices import NOTHING, Question, choose
from domino_compile.gemm.cublaslt import Algorithm, LtError, MatrixLayout, Problem, library
from domino_compile.gemm.tune import GAIN, PARTS, Way, Ways, best, operands, tune
from domino_compile.ops import products as op
from domino_compile.ops.products import addmm_beside, mm_beside

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
BF16 = torch.bfloat16


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, dtype=BF16)


def question(m: int = 64, held: int = 16) -> Question:
    left, right = torch.ones(m, 32, dtype=BF16), torch.ones(32, 48, dtype=BF16)
    problem = Problem.of(left, right)
    assert problem is not None
    return Question(problem, held, "a device", 1)


def test_on_the_cpu_they_are_the_plain_products() -> None:
    left, right = torch.randn(6, 4), torch.randn(4, 5)
    assert torch.equal(mm_beside(left, right, 16, 1.0), left @ right)
    for added in (torch.randn(5), torch.randn(6, 5)):
        found = addmm_beside(added, left, right, 16, 1.0)
        assert torch.equal(found, torch.addmm(added, left, right))


def test_results_go_where_they_are_wanted() -> None:
    left, right, out = torch.randn(6, 4), torch.randn(4, 5), torch.empty(6, 5)
    assert op.run_mm(left, right, 0, 0.0, out=out) is out
    assert torch.equal(out, left @ right)
    added = torch.randn(6, 5)
    assert op.run_addmm(added, left, right, 0, 0.0, out=out) is out
    assert torch.equal(out, torch.addmm(added, left, right))


def test_fake_results_have_shape_and_type() -> None:
    meta = {"device": "meta", "dtype": BF16}
    left, right = torch.empty(6, 4, **meta), torch.empty(4, 5, **meta)
    for found in (
        mm_beside(left, right, 16, 1.0),
        addmm_beside(torch.empty(5, **meta), left, right, 16, 1.0),
    ):
        assert found.shape == (6, 5) and found.dtype == BF16 and found.is_contiguous()


def test_operands_in_memory() -> None:
    left, right = torch.ones(6, 4, dtype=BF16), torch.ones(5, 4, dtype=BF16).t()
    assert Problem.of(left, right) == Problem(
        BF16, 6, 5, 4, MatrixLayout(4, 6, 4, False), MatrixLayout(4, 5, 4, True)
    )
    part = torch.ones(6, 8, dtype=BF16)[:, :4]
    problem = Problem.of(part, right)
    assert problem is not None and problem.left == MatrixLayout(4, 6, 8, False)
    bias, whole = torch.ones(5, dtype=BF16), torch.ones(6, 5, dtype=BF16)
    with_bias, with_whole = Problem.of(left, right, bias), Problem.of(left, right, whole)
    assert with_bias is not None and with_bias.bias and not with_bias.added
    assert with_whole is not None and with_whole.added == 5 and not with_whole.bias


@pytest.mark.parametrize(
    ("left", "right", "added"),
    [
        (torch.ones(6, 4), torch.ones(4, 5), None),  # float32
        (ones(6, 4), torch.ones(4, 5, dtype=torch.half), None),
        (ones(6, 1), ones(1, 5), None),
        (ones(1, 1).expand(6, 4), ones(4, 5), None),
        (ones(12, 8)[::2, ::2], ones(4, 5), None),
        (ones(6, 4), ones(4, 5), torch.ones(6, 5)),
        (ones(6, 4), ones(4, 5), ones(5, 6).t()),
        (ones(6, 4), ones(4, 5), ones(1, 5)),
    ],
)
def test_what_is_left_to_torch(left: Any, right: Any, added: Any) -> None:
    assert Problem.of(left, right, added) is None


def test_the_same_question_has_the_same_name() -> None:
    assert question().digest() == question().digest()
    assert len({question(m, held).digest() for m in (64, 96) for held in (0, 8, 16)}) == 6


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    with (
        mock.patch.object(_compat, "cache_folder", lambda: str(tmp_path)),
        mock.patch.object(_compat, "caches_enabled", lambda: True),
    ):
        yield tmp_path


CHOSEN = (
    Way(None, 70.5, 130.25),
    Way(Algorithm(116, (1, 2**63, 3, 4, 5, 6, 7, 8), 0), 90.0, 90.5, 1.25),
)


def test_the_fastest_for_its_part_beside_a_collective_is_taken() -> None:
    own, made_for_it = CHOSEN
    assert best(CHOSEN, 0.0) is own
    assert best(CHOSEN, 1.0) is made_for_it
    assert best(CHOSEN, 0.25) is own  # 85.4 and 90.1
    assert best(CHOSEN, 0.5) is made_for_it  # 100.4 and 90.25
    hardly = Way(made_for_it.algorithm, 70.5 * (1 - GAIN / 2), 130.25)
    assert best((own, hardly), 0.0) is own
    assert best(NOTHING, 0.5) is NOTHING[0]


def test_an_algorithm_that_delays_collectives_is_avoided() -> None:
    own, made_for_it = CHOSEN
    faster = Way(Algorithm(116, (9, 2, 3, 4, 5, 6, 7, 8), 0), 80.0, 84.0, 120.0)
    assert best((own, made_for_it, faster), 1.0) is made_for_it
    assert best((own, faster), 1.0) is faster  # later still, but torch's own takes longer
    assert best((own, made_for_it, replace(faster, late_us=5.0)), 1.0).alone_us == 80.0


def test_a_choice_is_made_once_and_kept(folder: Path) -> None:
    asked = []

    def decide() -> Ways:
        asked.append(1)
        return CHOSEN

    assert choose(question(), decide) == CHOSEN
    assert choose(question(), decide) == CHOSEN
    assert len(asked) == 1
    assert choose(question(held=8), lambda: NOTHING) == NOTHING
    for number, broken in enumerate(("not JSON", "[]"), start=2):
        for path in folder.rglob("product-*.json"):
            path.write_text(broken)
        assert choose(question(), decide) == CHOSEN
        assert len(asked) == number


def chosen_by(rank: int, store: dist.Store, decide: Any) -> Ways:
    """What a rank chooses."""
    with (
        mock.patch.object(_compat, "shared_store", lambda group: (store, [0, 1], rank)),
        mock.patch.object(choices.dist, "is_initialized", lambda: True),
        mock.patch.object(choices.dist, "group", mock.Mock()),
        mock.patch.object(choices, "TIMEOUT", timedelta(seconds=0.1)),
    ):
        return choose(question(), decide)


def never() -> Ways:
    raise AssertionError("only the first that asks decides")


def test_the_first_that_asks_decides_for_all(folder: Path) -> None:
    store = dist.HashStore()
    assert chosen_by(1, store, lambda: CHOSEN) == CHOSEN
    with mock.patch.object(_compat, "caches_enabled", lambda: False):
        assert chosen_by(0, store, never) == CHOSEN
        assert chosen_by(1, store, never) == CHOSEN  # what was told is not decided again


def test_if_the_first_fails_the_others_do_not_wait(folder: Path) -> None:
    store = dist.HashStore()

    def fails() -> Ways:
        raise LtError("nothing here")

    with pytest.raises(LtError):
        chosen_by(0, store, fails)
    assert chosen_by(1, store, never) == NOTHING


def test_if_the_first_says_it_too_late_all_leave_it_to_torch(folder: Path) -> None:
    """Whoever uses the algorithm that the others have given up on computes something else."""
    store = dist.HashStore()

    def decides_late() -> Ways:
        assert chosen_by(1, store, never) == NOTHING
        return CHOSEN

    assert chosen_by(0, store, decides_late) == NOTHING
    assert chosen_by(1, store, never) == chosen_by(0, store, never) == NOTHING


def test_a_process_asks_once_for_all_parts_of_the_time() -> None:
    asked = []

    def timed(*args: Any) -> Ways:
        asked.append(args)
        return (CHOSEN[0],)

    problem = question().problem
    with mock.patch.object(op, "_ways", {}), mock.patch.object(op, "_timed_ways", timed):
        device = torch.device("cuda", 0)
        assert [op._program(problem, device, 16, share) for share in PARTS] == [None] * len(PARTS)
        assert asked == [(problem, device, 16)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[ON_GPU, pytest.mark.cuda])])
@pytest.mark.parametrize("added", [None, (5,), (6, 5)])
def test_what_is_timed_takes_no_random_numbers_from_the_job(
    device: str, added: tuple[int, ...] | None
) -> None:
    """One rank times, all ranks draw their dropout."""
    of = torch.cuda if device == "cuda" else torch
    left, right = ones(6, 4), ones(5, 4).t()
    problem = Problem.of(left, right, None if added is None else ones(*added))
    assert problem is not None
    before = of.get_rng_state()
    found = operands(problem, torch.device(device))
    assert torch.equal(of.get_rng_state(), before)
    assert Problem.of(*found) == problem
    assert all(len(x.unique()) > 1 for x in found if x is not None)


@ON_GPU
@pytest.mark.cuda
def test_to_choose_leaves_the_devices_generator_where_it_is() -> None:
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    problem = Problem.of(ones(512, 256).cuda(), ones(256, 384).cuda())
    assert problem is not None
    tune(problem, torch.device("cuda", torch.cuda.current_device()), 16)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_without_a_gpu_there_is_no_library() -> None:
    library.cache_clear()
    with pytest.raises(LtError, match="NVIDIA"):
        library()


@ON_GPU
@pytest.mark.cuda
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("extra", ["none", "bias", "whole"])
def test_on_a_gpu_they_are_as_exact_as_torch(share: float, transposed: bool, extra: str) -> None:
    torch.manual_seed(0)
    left = torch.randn(512, 256, device="cuda", dtype=BF16)
    right = torch.randn(256, 384, device="cuda", dtype=BF16)
    if transposed:
        right = right.t().contiguous().t()
    added = {
        "none": None,
        "bias": torch.randn(384, device="cuda", dtype=BF16),
        "whole": torch.randn(512, 384, device="cuda", dtype=BF16),
    }[extra]
    exact = left.double() @ right.double() + (0 if added is None else added.double())
    if added is None:
        found, plain = mm_beside(left, right, 16, share), left @ right
    else:
        found, plain = (
            addmm_beside(added, left, right, 16, share),
            torch.addmm(added, left, right),
        )
    off, plain_off = ((x.double() - exact).norm() / exact.norm() for x in (found, plain))
    assert off <= 1.25 * plain_off
