"""Collectives with ``async_op=True``, which Dynamo itself does not capture.

``work = dist.all_reduce(x, async_op=True); ...; work.wait()`` breaks Dynamo's graph at the call, in
torch 2.11 to 2.14. For a backend that asks for it, Dynamo traces one of our functions instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from domino_compile._compat.requests import answer_for
from domino_compile._compat.wrap import wrap_once

_MARK = "domino_compile_captures_async"
Backend = TypeVar("Backend", bound=Callable[..., Any])


def captures_async(backend: Backend) -> Backend:
    """Mark a ``torch.compile`` backend whose graphs include ``async_op=True`` collectives."""
    setattr(backend, _MARK, True)
    return backend


def capture_async_collectives(launched: Callable[..., Any]) -> None:
    """Let Dynamo capture collectives with ``async_op=True`` if the graph is for a marked backend.

    Graphs for other backends stay as they are.

    Args:
        launched: A module's function that returns the handle. Dynamo traces it in place of the
            call, as ``launched(collective, *arguments)`` without ``async_op``.
    """
    from torch._dynamo.source import AttrSource
    from torch._dynamo.variables import functions
    from torch._dynamo.variables.base import VariableTracker

    def wrap(original: Any) -> Any:
        def call_function(self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
            names = list(inspect.signature(self.fn).parameters)
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            wanted = _is_wanted(tx.output.compiler_fn) and _constant(arguments.get("async_op"))
            if not (wanted and _can_be_captured(self.fn, arguments)):
                return original(self, tx, args, kwargs)
            del arguments["async_op"]
            positional = [arguments.pop(name) for name in names[:2] if name in arguments]
            source = AttrSource(tx.import_source(launched.__module__), launched.__name__)
            traced = VariableTracker.build(tx, launched, source)
            return traced.call_function(tx, [self, *positional], arguments)

        return call_function

    wrap_once(functions.CollectiveFunctionRewriteVariable, "call_function", wrap)


def _can_be_captured(collective: Any, arguments: dict[str, Any]) -> bool:
    """Return whether Dynamo's version of a collective does the same as eager code.

    Eager code differentiates no collective. It ignores an all-reduce (and warns), which can be
    captured; the gradients of others are not defined.

    Args:
        collective: The function of ``torch.distributed``.
        arguments: Dynamo's variables by the names of the function's parameters.
    """
    from torch.distributed._functional_collectives import REDUCE_OP_TO_STR

    operation = getattr(arguments.get("op"), "value", dist.ReduceOp.SUM)
    group = _constant(arguments.get("group"))
    if operation not in REDUCE_OP_TO_STR or group is dist.GroupMember.NON_GROUP_MEMBER:
        return False
    tensors = [t for variable in arguments.values() for t in _tensors(variable)]
    differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if differentiated and collective is not dist.all_reduce:
        return False
    gathered = {t.shape for t in _tensors(arguments.get("tensor_list"))}
    return len(gathered) <= 1 and not any(t.is_complex() or t.is_sparse for t in tensors)


def _tensors(variable: Any) -> list[torch.Tensor]:
    """Return the (fake) tensors of a variable that is a tensor or a list of tensors."""
    from torch._dynamo.variables import BaseListVariable, TensorVariable

    variable = variable.realize() if variable is not None else None
    members = variable.items if isinstance(variable, BaseListVariable) else [variable]
    return [
        member.realize().as_proxy().node.meta["example_value"]
        for member in members
        if member is not None and isinstance(member.realize(), TensorVariable)
    ]


def _constant(variable: Any) -> Any:
    """Return the value of a variable that Dynamo treats as a constant, or None."""
    if variable is None or not variable.is_python_constant():
        return None
    return variable.as_python_constant()


#: Attributes that hold a wrapped backend: torch's for debugging and options, and functools'.
_WRAPPED = ("_torchdynamo_orig_backend", "compiler_fn", "__wrapped__", "func")


def _is_wanted(backend: Any) -> bool:
    """Return whether the backend, one that it wraps, or what answers for it is marked."""
    while backend is not None:
        backend = answer_for(backend) or backend
        if getattr(backend, _MARK, False):
            return True
        inside = (getattr(backend, name, None) for name in _WRAPPED)
        backend = next((b for b in inside if b is not None), None)
    return False
