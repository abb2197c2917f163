"""Collectives with ``async_op=True`` are in the graphs of backends that want them, and of no other.

The group is a fake one: what the numbers are is tested on ranks (``tests/ranks/test_async.py``).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import fx

import domino_compile
from domino_compile._compat.async_collectives import capture_async_collectives, captures_async
from domino_compile.graph.collectives import user_line
from domino_compile.runtime.async_work import CapturedWork, launched, unstacked
from domino_compile.switch import compile_with_domino
from domino_compile.tools.scripts import Compiles, compiles_redirected
from tests.emitted.harness import fake_world

pytestmark = pytest.mark.xdist_group("compat")
capture_async_collectives(launched)

Program = Callable[[torch.Tensor], Any]


@pytest.fixture(autouse=True)
def ranks() -> Iterator[None]:
    fake_world()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    dist.destroy_process_group()


class Seen:
    """A backend that keeps the graphs, and runs them as they are."""

    def __init__(self) -> None:
        self.graphs: list[fx.Graph] = []

    def __call__(self, gm: fx.GraphModule, inputs: list[Any]) -> Any:
        self.graphs.append(gm.graph)
        return gm.forward

    @property
    def calls(self) -> list[str]:
        """The functions and operations that are called, in the order of the graphs."""
        nodes = [n for graph in self.graphs for n in graph.nodes]
        return [getattr(n.target, "__name__", str(n.target)) for n in nodes if n.op[:4] == "call"]

    @property
    def collectives(self) -> list[str]:
        """The collectives among them."""
        kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
        return [kind for call in self.calls for kind in kinds if call.startswith(kind)]


def captured(program: Program, x: torch.Tensor, whole: bool = True) -> tuple[Seen, Any]:
    """The graphs of a program for a backend that wants such collectives, and its result."""
    seen = captures_async(Seen())
    return seen, torch.compile(program, backend=seen, fullgraph=whole)(x)


def waited(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    work = dist.all_reduce(y, async_op=True)
    z = x + 1
    work.wait()
    return y * z


def by_position(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    work = dist.all_reduce(y, dist.ReduceOp.MAX, dist.group.WORLD, True)
    assert work is not None and work.wait()
    return y


def never_waited(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    dist.all_reduce(y, async_op=True)
    return y


def gathered(x: torch.Tensor) -> torch.Tensor:
    y = x.new_empty(8, 3)
    dist.all_gather_into_tensor(y, x, async_op=True).wait()
    return y


def stacked(x: torch.Tensor) -> torch.Tensor:
    y = x.new_empty(2, 4, 3)
    dist.all_gather_into_tensor(y, x, async_op=True).wait()
    return y


def scattered(x: torch.Tensor) -> torch.Tensor:
    y = x.new_empty(2, 3)
    dist.reduce_scatter_tensor(y, x, async_op=True).wait()
    return y


def listed(x: torch.Tensor) -> torch.Tensor:
    parts = [torch.empty_like(x) for _ in range(2)]
    dist.all_gather(parts, x, async_op=True).wait()
    return parts[0] + parts[1]


def exchanged(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    dist.all_to_all_single(y, x, async_op=True).wait()
    return y


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        (waited, "all_reduce"),
        (by_position, "all_reduce"),
        (never_waited, "all_reduce"),
        (gathered, "all_gather"),
        (stacked, "all_gather"),
        (scattered, "reduce_scatter"),
        (listed, "all_gather"),
        (exchanged, "all_to_all"),
    ],
)
def test_a_program_is_one_graph(program: Program, kind: str) -> None:
    seen, result = captured(program, torch.ones(4, 3))
    assert len(seen.graphs) == 1
    assert seen.collectives == [kind]
    assert result.shape == program(torch.ones(4, 3)).shape


def test_a_program_for_another_backend_ends_its_graph_as_before() -> None:
    captured(waited, torch.ones(4, 3))
    torch._dynamo.reset()
    other = Seen()
    torch.compile(waited, backend=other)(torch.ones(4, 3))
    assert other.collectives == []
    assert len(other.graphs) > 1


def test_the_line_that_is_reported_is_the_users() -> None:
    seen, _ = captured(waited, torch.ones(4, 3))
    (launch,) = (n for n in seen.graphs[0].nodes if "all_reduce" in str(n.target))
    assert user_line(launch).endswith("in waited: work = dist.all_reduce(y, async_op=True)")


def test_gradients_pass_an_all_reduce_as_in_eager_code() -> None:
    gradients = []
    for program in (waited, torch.compile(waited, backend=captures_async(Seen()), fullgraph=True)):
        x = torch.full((4, 3), 3.0, requires_grad=True)
        program(x).sum().backward()
        gradients.append(x.grad)
    assert gradients[0] is not None and gradients[1] is not None
    assert torch.equal(*gradients)


def test_a_handle_outlives_its_graph() -> None:
    def started(x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        y = x * 2
        return y, dist.all_reduce(y, async_op=True)

    _, (y, work) = captured(started, torch.ones(4, 3))
    assert isinstance(work, CapturedWork)
    assert work.wait() and work.is_success() and work.exception() is None
    assert torch.equal(work.result()[0], y) and torch.equal(work.get_future().wait()[0], y)


def test_a_graph_may_end_between_call_and_wait() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        work = dist.all_reduce(y, async_op=True)
        torch._dynamo.graph_break()
        work.wait()
        return y + 1

    seen, y = captured(broken, torch.ones(4, 3), whole=False)
    assert len(seen.graphs) == 2 and seen.collectives == ["all_reduce"]
    assert torch.equal(y, broken(torch.ones(4, 3)))


def of_complex_numbers(x: torch.Tensor) -> torch.Tensor:
    y = torch.complex(x, x)
    dist.all_reduce(y, async_op=True).wait()
    return y.real


def differentiated(x: torch.Tensor) -> torch.Tensor:
    y = x.new_empty(2, 3)
    dist.reduce_scatter_tensor(y, x.requires_grad_(), async_op=True).wait()
    return y.detach()


@pytest.mark.parametrize("program", [of_complex_numbers, differentiated])
def test_what_torchs_own_version_does_otherwise_stays_out_of_the_graph(program: Program) -> None:
    seen, result = captured(program, torch.ones(4, 3), whole=False)
    assert seen.collectives == []
    assert result.shape == program(torch.ones(4, 3)).shape


def test_synchronous_collectives_are_captured_as_ever() -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        dist.all_reduce(y)
        return y

    seen, _ = captured(program, torch.ones(4, 3))
    assert seen.collectives == ["all_reduce"]


@pytest.mark.parametrize(
    ("written", "read"),
    [((2, 4, 3), (4, 3)), ((4, 3), (2, 4, 3)), ((2,), ()), ((), (2,))],
)
def test_unstacked_sides_differ_in_the_first_dimension_only(
    written: tuple[int, ...], read: tuple[int, ...]
) -> None:
    memory = torch.zeros(written)
    a, b = unstacked(memory, torch.zeros(read))
    assert a.dim() == b.dim() and a.shape[1:] == b.shape[1:]
    assert a.data_ptr() == memory.data_ptr()


EAGER = {"lowering": "eager", "check_ranks": False}


def redirected() -> AbstractContextManager[None]:
    """What the commands run a script under."""
    return compiles_redirected(
        Compiles(), lambda asked, gm, inputs: compile_with_domino(asked, EAGER, gm, inputs)
    )


def by_dynamo(program: Program) -> Any:
    """What a program compiles with that asks Dynamo, and not ``torch.compile``."""
    return torch._dynamo.optimize("inductor")(program)


@pytest.mark.parametrize("turned_on", [lambda: domino_compile.enable(**EAGER), redirected])
@pytest.mark.parametrize("ask", [torch.compile, by_dynamo])
def test_programs_that_ask_for_inductor_have_them_captured(turned_on: Any, ask: Any) -> None:
    domino_compile.reset_reports()
    with turned_on():
        ask(waited)(torch.ones(4))
    (report,) = domino_compile.reports()
    assert [entry.kind for entry in report.collectives] == ["all_reduce"]
