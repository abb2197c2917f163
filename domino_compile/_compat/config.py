"""Inductor's configuration."""

from __future__ import annotations

from typing import Any


def inductor_config() -> Any:
    """Return Inductor's configuration module."""
    from torch._inductor import config

    return config


def inductor_has_option(name: str) -> bool:
    """Return whether this torch's Inductor has a (dotted) option."""
    value: Any = inductor_config()
    for part in name.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True
