"""Options of the backend as a command line gives them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from domino_compile.errors import OptionError
from domino_compile.options import Options


def parsed_options(texts: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the backend from ``name=value``; a value is read as Python where it is some.

    Args:
        texts: what was given.
        known: options that were given in another way.

    Raises:
        OptionError: one is not ``name=value``, is unknown or has a bad value.
    """
    found = dict(known)
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"--option {text!r}: write name=value, such as slices=4")
        try:
            found[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name.strip()] = value
    Options.parse(found)
    return found
