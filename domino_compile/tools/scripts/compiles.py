"""``torch.compile`` redirected: what a script asks for is known, and another may answer it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from domino_compile.host.replaced import replaced

#: Compiles one graph for a script that asked in some way.
Compile = Callable[["Asked", torch.fx.GraphModule, list[Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Asked:
    """How a script called ``torch.compile``.

    Attributes:
        backend: ``inductor`` or ``domino``.
        options: of that backend.
        mode: None for the default one.
    """

    backend: str
    options: dict[str, Any]
    mode: str | None = None

    @property
    def inductor(self) -> dict[str, Any]:
        """The options for Inductor among them."""
        if self.backend == "inductor":
            return self.options
        return dict(self.options.get("inductor") or {})

    @property
    def domino(self) -> dict[str, Any]:
        """The same as options of this package's backend."""
        return self.options if self.backend == "domino" else {"inductor": self.options}


@dataclass
class Compiles:
    """The compiles of a script.

    Attributes:
        calls: how many times it called ``torch.compile`` with a backend that is redirected.
        others: the backends that it asked for and that were left alone.
        graphs: how many graphs were compiled.
    """

    calls: int = 0
    others: list[str] = field(default_factory=list)
    graphs: int = 0


@contextmanager
def compiles_redirected(found: Compiles, compile_graph: Compile) -> Iterator[None]:
    """Let ``torch.compile`` (and ``Module.compile``, which calls it) compile in another way.

    Args:
        found: is told of every call.
        compile_graph: takes the place of the backends ``inductor`` and ``domino``.
    """
    original = torch.compile

    def compile_(model: Any = None, **settings: Any) -> Any:
        backend = settings.pop("backend", "inductor")
        if backend not in ("inductor", "domino"):
            found.others.append(str(backend))
            return original(model, backend=backend, **settings)
        found.calls += 1
        options = dict(settings.pop("options", None) or {})
        mode = settings.pop("mode", None)
        asked = Asked(str(backend), options, None if mode == "default" else mode)

        def backend_of_graphs(gm: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            compiled = compile_graph(asked, gm, inputs)
            found.graphs += 1
            return compiled

        return original(model, backend=backend_of_graphs, **settings)

    with replaced(torch, "compile", compile_):
        yield
