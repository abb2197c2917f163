"""Describes where a node comes from in the user's terms, without folders and addresses."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx

from domino_compile.graph.collectives import user_line

#: Dynamo's names: ``L['self']._modules['blocks']``, ``G['model'].blocks[0]`` ...
_ROOT = re.compile(r"^[LG]\[['\"]([^'\"]*)['\"]\]")
_HOLDER = re.compile(r"\._(modules|parameters|buffers)\b")
_ITEM = re.compile(r"\[['\"]?([^\]'\"]*)['\"]?\]")

_DTYPES = {
    "float": "f",
    "bfloat": "bf",
    "uint": "u",
    "int": "i",
    "complex": "c",
}


def module_of(node: fx.Node) -> str:
    """Return the path of the node's module, such as ``blocks.0.attention.query``."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return ""
    return _inside(str(list(stack.values())[-1][0]))


def input_path(source: str) -> str:
    """Return the user's name of an input: ``L['tokens']`` is ``tokens``.

    For a parameter this is its path in the model:
    ``L['self']._modules['up']._parameters['weight']`` is ``up.weight``.
    """
    root = _ROOT.match(source)
    return _inside(source) or (root.group(1) if root else source)


def _inside(source: str) -> str:
    """Return a path without the name of the model: ``L['self'].blocks[0]`` is ``blocks.0``."""
    path = _HOLDER.sub("", _ROOT.sub("", source))
    return _ITEM.sub(r".\1", path).strip(".")


def line_of(node: fx.Node) -> str:
    """Return the user's line as ``file.py:12: code``, or an empty string."""
    return short_line(user_line(node))


def short_line(source: str) -> str:
    """Shorten ``file:line in function: code`` to file name, line and code; empty if unknown."""
    if source == "unknown":
        return ""
    short = re.sub(r"^\S*[/\\]", "", source)
    return re.sub(r"^(\S+?:\d+), in [^:]*:", r"\1:", short)


def place_of(node: fx.Node) -> str:
    """Return the module, or the file and line if there is no module."""
    return module_of(node) or line_of(node).split(": ", 1)[0]


def shape_text(value: Any) -> str:
    """Return a value as ``f32[2,8]``, with tuples in parentheses and ``-`` for non-tensors."""
    if isinstance(value, torch.Tensor):
        return f"{dtype_text(value.dtype)}[{','.join(str(extent) for extent in value.shape)}]"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(shape_text(member) for member in value) + ")"
    return type(value).__name__ if isinstance(value, (int, float, torch.SymInt)) else "-"


def dtype_text(dtype: torch.dtype) -> str:
    """Return the short name of a type: ``torch.bfloat16`` is ``bf16``."""
    name = str(dtype).removeprefix("torch.")
    for long, short in _DTYPES.items():
        if re.fullmatch(rf"{long}\d+", name):
            return short + name.removeprefix(long)
    return name


def bytes_text(count: float) -> str:
    """Format a number of bytes with a unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def time_text(microseconds: float) -> str:
    """Format a time with a unit."""
    return f"{microseconds:.1f} us" if microseconds < 1000 else f"{microseconds / 1000:.3f} ms"


def piece_text(slice_: int | None, part: int | None) -> str:
    """Return a slice and a part in short: ``s0``, ``c1``, ``s0c1``, or nothing for whole work."""
    return "".join(f"{k}{n}" for k, n in (("s", slice_), ("c", part)) if n is not None)


def piece_words(slice_: int | None, part: int | None) -> str:
    """Return a slice and a part in words: ``slice 0``, ``part 1``, ``part 1 of slice 0``."""
    named = (f"{what} {n}" for what, n in (("part", part), ("slice", slice_)) if n is not None)
    return " of ".join(named)


def slice_or_part(slice_: int | None, part: int | None) -> int | None:
    """Return the slice of the rows, or the part of the columns where those alone are cut."""
    return part if slice_ is None else slice_


def count_text(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 kernel``, ``2 kernels``."""
    return f"{count} {noun}{'s' * (count != 1)}"
