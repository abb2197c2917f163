"""Sizes that are symbols have numbers: those seen, or chosen ones that the program allows."""

from typing import Any

import pytest
import torch

from domino_compile._compat.sizes import LEAST, number_of

pytestmark = pytest.mark.xdist_group("compat")


def sizes_of(program: Any, *inputs: torch.Tensor) -> list[Any]:
    """The sizes of all values, and the numbers among them, that Dynamo captures."""
    found: list[Any] = []

    def look(gm: torch.fx.GraphModule, _: Any) -> Any:
        for node in gm.graph.nodes:
            value = node.meta.get("example_value")
            found.extend(value.shape if isinstance(value, torch.Tensor) else [value])
        return gm.forward

    torch._dynamo.reset()
    with torch._dynamo.config.patch(
        capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True
    ):
        torch.compile(program, backend=look, fullgraph=True)(*inputs)
    return [x for x in found if isinstance(x, (torch.SymInt, torch.SymFloat, torch.SymBool))]


def test_sizes_that_depend_on_data_have_numbers_that_the_program_allows() -> None:
    def program(x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        first, second = counts.tolist()
        torch._check(first >= 2)
        torch._check(second >= 2)
        torch._check(first % 4 == 0)
        torch._check(first + second == 24)
        return torch.ones(first).sum() + torch.ones(second).sum() + x.nonzero().sum()

    found = sizes_of(program, torch.ones(5, 3), torch.tensor([8, 16]))
    numbers = {str(size): number_of(size) for size in found}
    assert all(type(n) in (int, bool) for n in numbers.values())
    symbols = {name: n for name, n in numbers.items() if name.startswith("u") and name.isalnum()}
    assert len(symbols) >= 2 and len(set(symbols.values())) == len(symbols)
    first = next(n for name, n in numbers.items() if name == "u0")
    second = numbers.get("u1", 24 - first)
    assert first % 4 == 0 and first + second == 24
    assert numbers == {str(size): number_of(size) for size in found}


def test_an_expression_of_a_size_has_the_number_that_follows() -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        chosen = x.nonzero()
        return torch.cat([chosen, chosen, chosen[:1]])

    numbers = {str(size): number_of(size) for size in sizes_of(program, torch.ones(7))}
    assert numbers["u0"] >= LEAST
    assert 2 * numbers["u0"] + 1 in numbers.values(), numbers


def test_a_size_that_was_seen_is_that_number() -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x])

    x = torch.ones(7)
    torch._dynamo.mark_dynamic(x, 0)
    assert {number_of(size) for size in sizes_of(program, x)} == {7, 14}
    assert number_of(3) == 3 and number_of("3") == "3"
