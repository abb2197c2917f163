"""What random programs found, shrunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import domino_compile
from tests.property import lone_rank
from tests.property.collectives import all_reduce
from tests.property.fuzz import run_captured
from tests.property.programs import parse, run
from tests.property.test_eager_lowering import check, domino

PROGRAMS = {
    # A collective of several tensors has several results: an error while the graph was read.
    "a coalesced collective": """
    # 2 slices, training
    # x0: grad[4, 3, 4]
    # self.w1: parameter[4, 4]
    # self.w2: parameter[4, 4]
    def forward(self, x0):
        h = all_reduce_both((x0 @ self.w1).contiguous(), (x0 @ self.w2).contiguous(), world)
        return (h + all_reduce(torch.tanh(h @ self.w1), world),)
    """,
    # The wait of an all-reduce that stays whole was pulled: each slice waited for its part.
    "the wait of a whole collective is whole": """
    # 2 slices, training
    # x0: float[6, 3, 4]
    # self.w2: parameter[4, 4]
    # self.w3: parameter[4]
    # self.w4: parameter[4, 6]
    # self.w5: parameter[6, 4]
    def forward(self, x0):
        part = reduce_scatter(x0 @ self.w2, 0, tp)
        h = all_gather(F.layer_norm(part, (4,), self.w3), 0, tp)
        h = h + all_reduce(torch.tanh((h @ self.w4)) @ self.w5, tp)
        h = all_reduce(torch.tanh((h @ self.w4)) @ self.w5, tp)
        return (h,)
    """,
    # In torch 2.11 an all-to-all refuses a payload whose strides the cut had changed.
    "an all-to-all of slices with other strides": """
    # 2 slices, training
    # x0: grad[4, 3, 4]
    # self.w0: parameter[4, 4]
    # self.w1: parameter[4, 4]
    def forward(self, x0):
        h = x0 * 1.0
        there = all_to_all((h @ self.w0).contiguous(), tp)
        h = all_to_all((F.silu(there) @ self.w1).contiguous(), tp)
        return (h,)
    """,
    # The checker drew indices beyond a dimension of one element.
    "a roll over one column": """
    # 3 slices, training
    # x0: grad[6, 1, 4]
    # self.w0: parameter[4, 6]
    # self.w1: parameter[6, 4]
    def forward(self, x0):
        h = x0 * 1.0
        h = h + h.roll(1, 1)
        h = h + all_reduce_mean(F.silu((h @ self.w0)) @ self.w1, tp)
        return (h.pow(2).mean(),)
    """,
    # A view of a value whose strides the cut had changed failed in the eager lowering.
    "views of slices with other strides": """
    # 4 slices, training
    # x0: float[2, 1, 4]
    # x2: labels[2, 1] < 7
    # self.w0: parameter[4, 4]
    # self.w1: parameter[4, 4]
    # self.w2: parameter[4, 6]
    # self.w3: parameter[6, 4]
    # self.w5: parameter[6, 4]
    # self.w7: parameter[7, 4]
    def forward(self, x0, x2):
        h = x0 + x0.flip(2)
        q = (h @ self.w0).unflatten(-1, (2, -1)).permute(1, 2, 0, 3)
        k = (h @ self.w0).unflatten(-1, (2, -1)).permute(1, 2, 0, 3)
        v = (h @ self.w1).unflatten(-1, (2, -1)).permute(1, 2, 0, 3)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + all_reduce(a.permute(2, 0, 1, 3).flatten(2) @ self.w0, tp)
        h = torch.stack([h, h.tanh()], 3).sum(3)
        h = h + reduce_from(F.silu(copy_to(h, world) @ self.w2) @ self.w3, world)
        rows = h.reshape(-1, 4)
        h = h + (rows @ rows.t()).softmax(-1).matmul(rows).view(2, 1, -1)
        h = h + h.repeat(2, 1, 1).view(2, 2, 1, 4).mean(0)
        h = h + all_reduce_in_place(torch.tanh(h @ self.w2) @ self.w5, tp)
        loss = F.cross_entropy((h @ self.w7.t()).flatten(0, 1), x2.flatten(), reduction='sum')
        return (loss,)
    """,
    # The cost model took a value that is query, key and value for one operand.
    "one value is query, key and value": """
    # 2 slices, training
    # x0: grad[1, 4, 4]
    # self.w0: parameter[4, 4]
    # self.w1: parameter[4, 4]
    def forward(self, x0):
        q = (x0 @ self.w0).unflatten(-1, (2, -1)).transpose(1, 2)
        a = F.scaled_dot_product_attention(q, q, q, is_causal=True)
        h = all_reduce(a.transpose(1, 2).flatten(2) @ self.w1, tp)
        return (h.pow(2).mean(),)
    """,
    # A value that is put together again lay otherwise in memory.
    "a transposed value is read by places in memory": """
    # 2 slices, training
    # x0: float[4, 3, 4]
    # self.w0: parameter[4, 4]
    def forward(self, x0):
        h = all_reduce(x0 @ self.w0, tp)
        h = all_reduce(h @ self.w0, tp)
        h = all_reduce(h.relu() @ self.w0, tp).transpose(0, 1) * 2
        y = torch.as_strided(h.detach(), (4, 12), (12, 1))
        return (h * 1.5, y * 1.5,)
    """,
    "a part of a value is read by places in memory": """
    # 2 slices, training
    # x0: float[4, 3, 4]
    # self.w0: parameter[4, 4]
    def forward(self, x0):
        h = all_reduce(torch.tanh(x0 @ self.w0) @ self.w0, tp)
        h = all_reduce(h @ self.w0, tp)
        return (h[:, 1:].as_strided((4, 2, 2), (12, 4, 1)) * 2,)
    """,
    # Torch makes the views that a program returns anew, of the value that it returns as well.
    "a transposed value and a view of it are returned": """
    # 2 slices, training
    # x0: float[4, 3, 4]
    # self.w0: parameter[4, 4]
    def forward(self, x0):
        h = all_reduce(torch.tanh(x0 @ self.w0) @ self.w0, tp).transpose(0, 1) * 2
        return (h, h.transpose(0, 1).view(-1, 4),)
    """,
    # A pointwise value of no elements has no buffer, which the estimate of memory looked for.
    "a value without elements": """
    # 2 slices, training
    # x0: float[4, 3, 4]
    # self.w0: parameter[4, 4]
    def forward(self, x0):
        h = all_reduce(torch.tanh(x0 @ self.w0), tp)
        h = all_reduce(torch.tanh((h + x0) @ self.w0), tp)
        return (h[:, :0].exp().sum(0), all_reduce(torch.tanh(h @ self.w0), tp),)
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_regression(name: str) -> None:
    program = parse(PROGRAMS[name])
    expected = run(program)
    check(program, expected)
    check(program, expected, slices=1, columns=2)


def reduced(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return all_reduce((x @ weight).tanh(), lone_rank.start()["tp"])


@pytest.mark.parametrize("padding", [lambda n: -n % 8, lambda n: (n + 1) // 2])
def test_sizes_that_are_no_sums_and_products(padding: Callable[[Any], Any]) -> None:
    """Of a dynamic dimension that is not cut, in a graph that is."""
    weight = torch.randn(4, 4, dtype=torch.float64)

    def program(x: torch.Tensor) -> torch.Tensor:
        h = F.pad(reduced(x, weight), (0, 0, 0, padding(x.shape[1])))
        return reduced(h, weight).sum(0)

    torch._dynamo.reset()
    options = {"slices": 2, "lowering": "eager", "check_ranks": False}
    compiled = torch.compile(program, backend="domino", dynamic=True, options=options)
    for shape in ((6, 5, 4), (7, 12, 4)):
        x = torch.randn(shape, dtype=torch.float64)
        assert torch.allclose(compiled(x), program(x), rtol=1e-12)
    assert domino_compile.reports()[-1].status == "sliced"


@pytest.mark.parametrize("slices", [1, 2])
def test_draws_of_checkpointed_regions_stay_in_order(slices: int) -> None:
    def block(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        first = F.dropout(x, 0.5)
        return F.dropout(reduced(first, weight), 0.5) + F.dropout(x, 0.5) @ weight

    def program(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = checkpoint(block, x, weight, use_reentrant=False)
        return x

    def step(wrap: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        inputs = [torch.randn(4, 3, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)]
        for x in inputs:
            x.requires_grad_()
        out = wrap(program)(*inputs)
        out.square().sum().backward()
        return [out.detach(), *(x.grad for x in inputs if x.grad is not None)]

    uncut = step(domino(1, disable_passes=("normalise", "slice", "schedule")))
    for found, expected in zip(step(domino(slices)), uncut, strict=True):
        assert torch.allclose(found, expected, rtol=1e-10)


def test_extents_that_are_equal_by_a_guard_alone() -> None:
    """Rows times tokens of two inputs, both dynamic: torch knows that they are equal, not why."""
    weight = torch.randn(4, 4, dtype=torch.float64)

    def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            x = x + reduced(x, weight)
        return (x.flatten(0, 1) * y.flatten(0, 1)).sum()

    torch._dynamo.reset()
    options = {"slices": 2, "lowering": "eager", "check_ranks": False}
    compiled = torch.compile(program, backend="domino", options=options)
    for shape in ((6, 5, 4), (7, 3, 4)):
        x, y = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
        for value in (x, y):
            torch._dynamo.mark_dynamic(value, 0)
            torch._dynamo.mark_dynamic(value, 1)
        assert torch.allclose(compiled(x, y), program(x, y), rtol=1e-12)
    assert domino_compile.reports()[-1].status == "sliced"


PARTS = {
    "layers in one parameter": """
    # 2 slices, training
    # x0: grad[4, 4, 32]
    # self.w0: parameter[2, 32, 32]
    def forward(self, x0):
        h = x0 + all_reduce(torch.tanh(x0 @ self.w0[0]), tp)
        return (all_reduce(torch.tanh(h @ self.w0[1]), tp).pow(2).mean(),)
    """,
    "columns of one parameter": """
    # 2 slices, training
    # x0: grad[4, 4, 32]
    # self.w0: parameter[32, 96]
    # self.w1: parameter[32, 32]
    def forward(self, x0):
        q, k = x0 @ self.w0[:, :32], x0 @ self.w0[:, 32:64]
        h = torch.tanh(q * k * (x0 @ self.w0[:, 64:]))
        return (all_reduce(h @ self.w1, tp).pow(2).mean(),)
    """,
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_parameters_do_not_stand_against_the_batch(name: str) -> None:
    """Their gradients are put together: that is not computed with, and costs no slice anything."""
    program = parse(PARTS[name])
    assert check(program, run(program)) == "sliced"


def test_what_is_sorted_along_a_dimension_of_one_row_is_proved() -> None:
    """Its gradient is scattered by an index that has one value."""
    text = """
    # 2 slices, training
    # x0: grad[1, 2, 4]
    # self.w0: parameter[4, 6]
    # self.w1: parameter[6, 4]
    def forward(self, x0):
        h = (x0 * 1.0).sort(0).values
        return (h + reduce_from((copy_to(h, tp) @ self.w0).sigmoid() @ self.w1, tp),)
    """
    options = {"slices": 4, "disable_passes": ("normalise",), "verify": "on"}
    error, status = run_captured(parse(text), options)
    assert error < 1e-10 and status == "sliced"
