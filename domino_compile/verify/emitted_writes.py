"""Which of its arguments a function in emitted code may write, by its source or its schema."""

from __future__ import annotations

import ast
from typing import Any

import torch

from domino_compile.verify.emitted_events import NONE, NOTHING, Value


def kernels_of(module: ast.Module) -> dict[str, list[bool]]:
    """Return for each kernel of the module which of its leading arguments it writes."""
    kernels: dict[str, list[bool]] = {}
    for node in module.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        made, target = ast.unparse(node.value.func), node.targets[0]
        if not (isinstance(target, ast.Name) and made.startswith("async_compile.")):
            continue
        if made.endswith(".cpp_pybinding"):
            kinds = ast.literal_eval(node.value.args[0])
            kernels[target.id] = ["*" in kind and "const" not in kind for kind in kinds]
        elif made.endswith(".triton"):
            kernels[target.id] = _written_by_triton(ast.literal_eval(node.value.args[1]))
    return kernels


def _written_by_triton(source: str) -> list[bool]:
    """Return which arguments a Triton kernel writes; those that are not named as read."""
    kernels = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    kernel = next(n for n in kernels if n.name.startswith("triton_"))
    names = (a.arg for a in kernel.args.args if a.annotation is None)
    return [not name.startswith("in_ptr") for name in names]


def schema_of(name: str) -> Any:
    """Return the schema of one of torch's operations, if the name is that of one."""
    operation: Any = torch.ops
    if not name.startswith("torch.ops."):
        return None
    for part in name.removeprefix("torch.ops.").split("."):
        operation = getattr(operation, part, None)
    return getattr(operation, "_schema", None)


def by_schema(
    schema: Any, positional: list[Value], named: dict[str, Value]
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the buffers that an operation may write, and those that its result may be."""
    writes = shared = NONE
    for at, argument in enumerate(schema.arguments):
        value = positional[at] if at < len(positional) else named.get(argument.name, NOTHING)
        if argument.alias_info is not None:
            shared |= value.all
            writes |= value.all if argument.alias_info.is_write else NONE
    returns_shared = any(result.alias_info is not None for result in schema.returns)
    return writes, shared if returns_shared else NONE
