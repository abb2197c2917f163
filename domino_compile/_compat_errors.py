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

    types = {name: config.get_type(name) for name in config.get_config_copy()}
    return {name: t if isinstance(t, type) and get_origin(t) is None else None for name, t in types.items()}
