"""Wraps torch functions with functions of ours that call them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MARK = "domino_compile_wraps"


def wrap_once(
    owner: Any, name: str, wrap: Callable[[Any], Any], kind: Callable[[Any], Any] | None = None
) -> None:
    """Replace a function with a wrapper of it, unless that has already been done.

    Args:
        owner: The module or class that has the function.
        name: The function's name there.
        wrap: A function that makes the wrapper from the original.
        kind: ``staticmethod`` if the function is called on a class without an instance.
    """
    original = getattr(owner, name)
    if getattr(original, _MARK, False):
        return
    wrapper = functools.wraps(original)(wrap(original))
    setattr(wrapper, _MARK, True)
    setattr(owner, name, wrapper if kind is None else kind(wrapper))
