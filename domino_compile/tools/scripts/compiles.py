"""Redirects a script's requests to compile: each is recorded and handled by us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from domino_compile._compat import Asked, GraphCompiler
from domino_compile._compat.async_collectives import captures_async
from domino_compile.switch import requests_answered

__all__ = ["Asked", "Compile", "Compiles", "compiles_redirected"]

#: Compiles one graph for a script's request.
Compile = Callable[[Asked, torch.fx.GraphModule, list[Any]], Callable[..., Any]]


@dataclass
class Compiles:
    """The compiles of a script.

    Attributes:
        calls: The number of requests for a backend that is redirected.
        others: The requested backends that are not redirected.
        graphs: The number of graphs that were compiled.
    """

    calls: int = 0
    others: list[str] = field(default_factory=list)
    graphs: int = 0


@dataclass(frozen=True)
class _Redirected:
    """Compiles the graphs of one request. Equal requests share code, as they do in torch."""

    asked: Asked
    compile_graph: Compile
    found: Compiles = field(compare=False)

    def __call__(self, gm: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compiled = self.compile_graph(self.asked, gm, inputs)
        self.found.graphs += 1
        return compiled


@captures_async
class _ToDomino(_Redirected):
    """Redirected to domino, whose graphs include ``async_op=True`` collectives."""


def _always(asked: Asked) -> bool:
    return True


@contextmanager
def compiles_redirected(
    compiles: Compiles, compile_graph: Compile, to_domino: Callable[[Asked], bool] = _always
) -> Iterator[None]:
    """Redirect all requests for a compile, however a script makes them.

    Args:
        compiles: Records every request.
        compile_graph: Replaces the backends ``inductor`` and ``domino``.
        to_domino: Whether it compiles the graphs of a request with domino.
    """

    def answer(asked: Asked) -> GraphCompiler | None:
        if asked.backend not in ("inductor", "domino"):
            compiles.others.append(asked.backend)
            return None
        compiles.calls += 1
        redirected = _ToDomino if to_domino(asked) else _Redirected
        return redirected(asked, compile_graph, compiles)

    with requests_answered(answer):
        yield
