"""What a single statement or expression of emitted code says, without what came before it."""

from __future__ import annotations

import ast

import torch

from domino_compile.verify.plain import EXCHANGE as PLAIN_EXCHANGE
from domino_compile.verify.transported import EMITTED, NAMESPACE, STARTS, command_of

#: The namespace of the collectives that are followed, and what waits for them.
COLLECTIVES, WAIT = "torch.ops._c10d_functional.", "wait_tensor"
#: The operation of this package that is followed like one of these.
EXCHANGE = f"torch.ops.{PLAIN_EXCHANGE}"
#: Other ways to communicate, which are not followed.
OTHER_COMMUNICATION = (
    *("torch.ops.symm_mem.", "torch.ops.c10d.", "torch.ops._c10d_functional_autograd."),
    *("torch.distributed.", "dist.all_", "empty_strided_p2p("),
    *(
        f"torch.ops.domino_compile.{x}_"
        for x in ("scatter", "exchange", "gather", "reduce", "inbox")
    ),
)
#: Functions that return a view of their first argument.
VIEWS = ("reinterpret_tensor", "as_strided")

#: Functions that look at a tensor's metadata only, or at no tensor.
NO_USE = ("assert_size_stride", "assert_alignment", "get_raw_stream", "set_device")
#: What runs an operation with a state of random numbers, and which argument the operation is.
WITH_STATE = {
    "torch.ops.higher_order.run_and_save_rng_state": 0,
    "torch.ops.higher_order.run_with_rng_state": 1,
    "torch.ops.higher_order.graphsafe_run_with_rng_state": 0,
}
#: The name of the argument that is the state, where it is not given in front of the operation.
STATE = "rng_state"
#: Methods of a tensor that read it and return a number.
NUMBERS = ("item",)


def functions_of(module: ast.Module) -> dict[str, ast.FunctionDef]:
    """Return the functions of the module and of its class ``Runner``, by name."""
    functions: dict[str, ast.FunctionDef] = {}
    for node in module.body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        functions |= {x.name: x for x in inside if isinstance(x, ast.FunctionDef)}
    return {name: x for name, x in functions.items() if x.args.args}


def stored_by(statement: ast.stmt) -> list[str]:
    """Return the names that a statement assigns to, or to members of which it does."""
    stored = [x for x in ast.walk(statement) if isinstance(getattr(x, "ctx", None), ast.Store)]
    bases = [x.value if isinstance(x, ast.Subscript) else x for x in stored]
    return list(dict.fromkeys(x.id for x in bases if isinstance(x, ast.Name)))


def takes_apart(statement: ast.stmt, name: str) -> bool:
    """Return whether a statement assigns the members of a list that has this name."""
    if not isinstance(statement, ast.Assign):
        return False
    return isinstance(statement.value, ast.Name) and statement.value.id == name


def communicates(text: str) -> bool:
    """Return whether code names an operation that communicates."""
    return any(part in text for part in (COLLECTIVES, EXCHANGE, *OTHER_COMMUNICATION))


def collective_in(name: str) -> str:
    """Return the collective, or the wait, that is called; empty if it is none.

    Args:
        name: The called function, such as ``torch.ops._c10d_functional.all_reduce_.default``.
    """
    if name == EXCHANGE:
        return EXCHANGE.split(".")[-2]
    return name.removeprefix(COLLECTIVES).split(".")[0] if name.startswith(COLLECTIVES) else ""


def transport_command(text: str) -> str:
    """Return the operation of the transport that is called, as it is emitted; empty if it is none.

    Args:
        text: The called function, such as ``torch.ops.domino_compile.inbox_wait_only.default``.
    """
    name, _, overload = text.removeprefix(f"torch.ops.{NAMESPACE}.").partition(".")
    command = command_of(f"{NAMESPACE}.{name.removesuffix(EMITTED)}")
    is_start, returns_nothing = command in STARTS, name.endswith(EMITTED)
    is_whole = text == f"torch.ops.{NAMESPACE}.{name}.default" and overload == "default"
    return command if is_whole and is_start != returns_nothing else ""


def literal(node: ast.expr) -> object:
    """Return a constant, or the text of anything else (a size that is not known yet)."""
    try:
        constant: object = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return tuple(constant) if isinstance(constant, list) else constant


def name_in(node: ast.expr) -> str:
    """Return the name of the tensor that an expression views."""
    while isinstance(node, ast.Call) and node.args:
        node = node.args[0]
    return node.id if isinstance(node, ast.Name) else ""


def shape_of_view(node: ast.expr) -> str:
    """Return the shape that a view gives to a tensor; empty if it is not one."""
    is_view = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(VIEWS[0])
    return ast.unparse(node.args[1]) if is_view and isinstance(node, ast.Call) else ""


def bytes_of(node: ast.Call) -> int | None:
    """Return the size of an allocation: size, strides and dtype; ``None`` if it is not constant."""
    try:
        size, strides = ast.literal_eval(node.args[0]), ast.literal_eval(node.args[1])
        dtype = getattr(torch, ast.unparse(node.args[2]).removeprefix("torch."))
    except (ValueError, IndexError, AttributeError):
        return None
    if not all(size):
        return 0
    last = sum((extent - 1) * stride for extent, stride in zip(size, strides, strict=True))
    return int((last + 1) * dtype.itemsize)
