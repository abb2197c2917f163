"""Intercepts every request for a compile, from ``torch.compile`` or directly from Dynamo.

Each call of ``torch.compile`` makes an object that stands for the backend, and Dynamo calls that
object with each graph that it captures. The two classes of these objects are wrapped here, and not
``torch.compile`` itself: a library may have imported the function by name long ago. Dynamo shares
compiled code between backends that are equal, so equality takes the answer into account.

A request for Inductor that goes to Dynamo without ``torch.compile`` is looked up by name in
Dynamo's registry, and is answered there.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from domino_compile._compat.wrap import wrap_once

#: A function that compiles one graph that Dynamo captured, given the graph and its example inputs.
#: Equal functions share their compiled code, as Dynamo shares the code of equal layers.
GraphCompiler = Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Any]]
#: The attribute in which an object that stands for a backend keeps the answer.
_KEPT = "_domino_compile_answer"
#: Marks a backend that was wrapped.
_WRAPS = "_domino_compile_wraps"


@dataclass(frozen=True)
class Asked:
    """A program's request for a compile.

    Attributes:
        backend: The name of the backend.
        options: The options of that backend.
        mode: The mode; ``None`` for the default one.
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


#: A function that answers a request with a compiler of its graphs, or ``None`` for its backend.
Answer = Callable[[Asked], GraphCompiler | None]

_answer: Answer | None = None


def answer_requests(answer: Answer | None) -> None:
    """Let a function answer all requests from now on; ``None`` stops that.

    Requests that were made before keep their backend.
    """
    global _answer
    if answer is not None:
        _install()
    _answer = answer


def answer_for(backend: Any) -> GraphCompiler | None:
    """Return what compiles in the place of a backend, as Dynamo holds it; None: the backend."""
    if hasattr(backend, _WRAPS):
        return _ask(Asked("inductor", {}))
    answer: GraphCompiler | None = getattr(backend, _KEPT, None)
    return answer


def _ask(asked: Asked) -> GraphCompiler | None:
    return None if _answer is None else _answer(asked)


def _install() -> None:
    """Wrap the classes that stand for a backend, once per process."""
    for owner, request in (
        (torch._TorchCompileInductorWrapper, _of_inductor),
        (torch._TorchCompileWrapper, _of_other),
    ):
        wrap_once(owner, "__init__", functools.partial(_asking, owner, request))
        wrap_once(owner, "__call__", _answering)
        wrap_once(owner, "__eq__", _equal)
    if "torch._dynamo" in sys.modules:  # otherwise the first request loads it
        _install_lookup()


def _asking(owner: type, request: Callable[..., Asked], original: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _install_lookup()
        if type(self) is owner:  # ahead-of-time Inductor is a subclass
            setattr(self, _KEPT, _ask(request(self, *args, **kwargs)))

    return __init__


def _answering(original: Any) -> Any:
    def __call__(self: Any, gm: torch.fx.GraphModule, inputs: list[Any], **kwargs: Any) -> Any:
        compile_graph = getattr(self, _KEPT, None)
        # A region that names its own Inductor options stays Inductor's; the options arrive here.
        if compile_graph is None or kwargs.get("config_patches"):
            return original(self, gm, inputs, **kwargs)
        return compile_graph(gm, inputs)

    return __call__


def _equal(original: Any) -> Any:
    def __eq__(self: Any, other: object) -> Any:
        return original(self, other) and getattr(self, _KEPT, None) == getattr(other, _KEPT, None)

    return __eq__


def _of_inductor(request: Any, mode: str | None = None, *_: Any, **__: Any) -> Asked:
    """Describe a request for Inductor, without the settings that its mode stands for."""
    from torch._inductor import list_mode_options

    mode = None if mode == "default" else mode
    implied = list_mode_options(mode) if mode else {}
    options = {k: v for k, v in request.config.items() if k not in implied or implied[k] != v}
    return Asked("inductor", options, mode)


def _of_other(request: Any, *_: Any, **__: Any) -> Asked:
    """Describe a request for any other backend, which may be a function."""
    name = str(request.compiler_name)
    settings = request.kwargs
    if request.compiler_fn is not _registered(name):
        name = getattr(request.compiler_fn, "__qualname__", name)
    return Asked(name, dict(settings.get("options") or {}), settings.get("mode"))


def _registered(name: str) -> Any:
    from torch._dynamo.backends import registry

    return registry._COMPILER_FNS.get(name)


def load_dynamo() -> None:
    """Load Dynamo, so that requests that only go to Dynamo are seen."""
    importlib.import_module("torch._dynamo")


def _install_lookup() -> None:
    """Wrap Inductor in Dynamo's registry; the answer is asked again for every graph."""
    from torch._dynamo.backends import registry

    original = registry.lookup_backend("inductor")
    if hasattr(original, _WRAPS):
        return

    def inductor(gm: torch.fx.GraphModule, inputs: list[Any], **settings: Any) -> Any:
        compile_graph = None if settings else _ask(Asked("inductor", {}))
        return (compile_graph or functools.partial(original, **settings))(gm, inputs)

    functools.update_wrapper(inductor, original)
    setattr(inductor, _WRAPS, original)
    registry._COMPILER_FNS["inductor"] = inductor
