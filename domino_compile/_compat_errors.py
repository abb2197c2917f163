"""What options.py must know of torch's private configuration. To be merged into _compat.py."""

from functools import cache
from typing import get_origin


@cache
def inductor_option_types() -> dict[str, type | None]:
    """Return the names of all Inductor options, each with its type.

    The type is None where a value cannot be checked with isinstance (unions, generics). This is
    the check torch.compile itself makes for `backend="inductor"`.
    """
    from torch._inductor import config

    result: dict[str, type | None] = {}
    for name in config.get_config_copy():
        kind = config.get_type(name)  # type: ignore[attr-defined]
        result[name] = kind if isinstance(kind, type) and get_origin(kind) is None else None
    return result
