"""What a program computes beside its own asynchronous collectives stays there."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch._inductor.utils import run_and_get_code

import domino_compile
from domino_compile.backend import domino
from tests.emitted.harness import fake_world, kernels_unbuilt

pytestmark = pytest.mark.xdist_group("emitted")

Program = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
EVENTS = {"mm": "extern_kernels.mm(", "launch": ".all_reduce_", "wait": ".wait_tensor."}


@pytest.fixture(autouse=True)
def ranks() -> Iterator[None]:
    torch._dynamo.reset()
    domino_compile.reset_reports()
    fake_world()
    yield
    dist.destroy_process_group()


def emitted(program: Program) -> list[str]:
    """The events in the code that Inductor generates for a program that is left to it."""
    x, weight = torch.ones(16, 16), torch.ones(16, 16)
    with kernels_unbuilt():
        _, codes = run_and_get_code(torch.compile(program, backend=domino), x, weight)
    (report,) = domino_compile.reports()
    assert report.status == "inductor"
    lines = [line for code in codes for line in code.split("def call", 1)[1].splitlines()]
    lines = [line for line in lines if "#" not in line]
    return [name for line in lines for name, text in EVENTS.items() if text in line]


def read_last(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x @ weight
    work = dist.all_reduce(y, async_op=True)
    z = (x.t() @ x) @ weight
    work.wait()
    return y, z


def read_by_an_addition(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y, z = read_last(x, weight)
    return y + 1, z


def two_in_turn(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x @ weight
    first = dist.all_reduce(y, async_op=True)
    z = x.t() @ x
    second = dist.all_reduce(z, async_op=True)
    first.wait()
    u = y @ weight
    second.wait()
    return u, z


def synchronous(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x @ weight
    dist.all_reduce(y)
    return y, (x.t() @ x) @ weight


@pytest.mark.parametrize(
    ("program", "order"),
    [
        (read_last, "mm launch mm mm wait"),
        (read_by_an_addition, "mm launch mm mm wait"),
        (two_in_turn, "mm launch mm launch wait mm wait"),
        (synchronous, "mm launch wait mm mm"),
    ],
)
def test_the_emitted_order_is_the_programs(program: Program, order: str) -> None:
    assert emitted(program) == order.split()
