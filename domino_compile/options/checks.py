"""One check per kind of option value: `check(value) -> value`, or ValueError with the reason.

A check returns the value in its one stored spelling (a path as str, a list as a tuple), so that
equal options compare, print and hash alike. `allowed` is what documents and error messages say.
"""

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from domino_compile.errors import DominoError, did_you_mean

# Inductor options that the backend sets itself or that would undo the schedule, with the reason.
OWNED_INDUCTOR_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "joint_custom_post_pass": "the backend cuts the joint graph there",
        "post_grad_custom_post_pass": "the backend schedules each graph there",
        "reorder_for_compute_comm_overlap": "it would reorder the collectives after our schedule",
        "aten_distributed_optimizations.enable_overlap_scheduling": (
            "it would replace our schedule by another"
        ),
        "aten_distributed_optimizations.enable_simple_overlap": (
            "it would move launches and waits after our schedule"
        ),
        "inductor_choices_class": "the backend keeps slices apart there",
        "_micro_pipeline_tp": "it would rewrite the collectives that the schedule is made for",
    }
)


@dataclass(frozen=True)
class Check:
    """What an option accepts.

    Attributes:
        allowed: the accepted values in words, for documents and error messages.
        run: returns the stored spelling of a value; raises ValueError with a reason (which may be
            empty where `allowed` says it all).
    """

    allowed: str
    run: Callable[[Any], object]


def _refuse(reason: str = "") -> ValueError:
    return ValueError(reason)


def integer(minimum: int) -> Check:
    """Accept an int of at least `minimum`; a bool is not an int."""

    def run(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise _refuse()
        return value

    return Check(f"an int >= {minimum}", run)


def fraction() -> Check:
    """Accept a number of at least 0 and less than 1."""

    def run(value: object) -> object:
        found = number(minimum=0).run(value)
        if not isinstance(found, float) or found >= 1:
            raise _refuse()
        return found

    return Check("a number >= 0 and < 1", run)


def number(minimum: float, *, exclusive: bool = False) -> Check:
    """Accept a finite int or float of at least (or, if `exclusive`, above) `minimum`."""

    def run(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _refuse()
        try:
            found = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            found = math.inf
        if not math.isfinite(found) or found < minimum or (exclusive and found == minimum):
            raise _refuse()
        return found

    return Check(f"a finite number {'>' if exclusive else '>='} {minimum:g}", run)


def flag() -> Check:
    """Accept True or False and nothing that is merely true or false."""

    def run(value: object) -> bool:
        if not isinstance(value, bool):
            raise _refuse()
        return value

    return Check("True or False", run)


def one_of(*spellings: str) -> Check:
    """Accept one of `spellings`."""

    def run(value: object) -> str:
        if not isinstance(value, str) or value not in spellings:
            raise _refuse(did_you_mean(value, spellings).removeprefix("; "))
        return value

    return Check(" or ".join(map(repr, spellings)), run)


def some_of(*spellings: str) -> Check:
    """Accept a list, tuple or set of `spellings`; stored in the order of `spellings`, each once."""

    def run(value: object) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence | frozenset | set):
            raise _refuse(f"wrap it in a list: [{value!r}]" if isinstance(value, str) else "")
        for item in value:
            if not isinstance(item, str) or item not in spellings:
                raise _refuse(f"{item!r} is not one of them{did_you_mean(item, spellings)}")
        return tuple(spelling for spelling in spellings if spelling in value)

    return Check(f"a list of names out of {', '.join(map(repr, spellings))}", run)


def link() -> Check:
    """Accept the name of a link table, or the path of one's JSON file; stored as str."""

    def run(value: object) -> str:
        spelling = path().run(value)
        assert isinstance(spelling, str)
        from domino_compile.links import load_link

        try:
            load_link(spelling)
        except DominoError as error:
            raise _refuse(str(error)) from None
        return spelling

    return Check("the name of a table in domino_compile/links, or the path of a JSON file", run)


def device() -> Check:
    """Accept the name of a device whose rates are known."""

    def run(value: object) -> str:
        from domino_compile.cost.rates import device_names

        spelling = one_of(*device_names()).run(value)
        assert isinstance(spelling, str)
        return spelling

    return Check("the name of a device in domino_compile/cost/rates.py, like 'H200'", run)


def link_identity(value: str | None) -> str | None:
    """Return what a link table says, so that a changed file is a changed option."""
    from domino_compile.links import load_link

    return None if value is None else repr(load_link(value))


def path() -> Check:
    """Accept a str or Path that is not empty; stored as str."""

    def run(value: object) -> str:
        if not isinstance(value, str | os.PathLike):
            raise _refuse()
        spelling = os.fspath(value)
        if not isinstance(spelling, str) or not spelling.strip():
            raise _refuse()
        return spelling

    return Check("a path (str or Path)", run)


def dims_by_name() -> Check:
    """Accept a mapping from input names to the dimension (>= 0) that is the batch."""

    def run(value: object) -> Mapping[str, int]:
        if not isinstance(value, Mapping) or not value:
            raise _refuse()
        for name, dim in value.items():
            if not isinstance(name, str) or not name:
                raise _refuse(f"{name!r} is not the name of an input")
            if isinstance(dim, bool) or not isinstance(dim, int) or dim < 0:
                raise _refuse(f"dimension {dim!r} of {name!r} is not an int >= 0")
        return MappingProxyType(dict(value))

    return Check('a mapping from input names to dimensions >= 0, like {"tokens": 0}', run)


def inductor_options() -> Check:
    """Accept a mapping of Inductor's options, in the types that Inductor accepts."""

    def run(value: object) -> Mapping[str, object]:
        if not isinstance(value, Mapping):
            raise _refuse()
        if not all(isinstance(name, str) for name in value):
            raise _refuse("names are strings")
        options = {name.replace("-", "_"): setting for name, setting in value.items()}
        for name, setting in options.items():
            _check_inductor_option(name, setting)
        return MappingProxyType(options)

    return Check('a mapping of Inductor options, like {"max_autotune": True}', run)


def _check_inductor_option(name: str, setting: object) -> None:
    if name in OWNED_INDUCTOR_OPTIONS:
        raise _refuse(f"{name!r} is owned by this backend: {OWNED_INDUCTOR_OPTIONS[name]}")
    types = inductor_option_types()
    if name not in types:
        raise _refuse(f"Inductor has no option {name!r}{did_you_mean(name, types)}")
    expected = types[name]
    if expected is not None and not isinstance(setting, expected):
        raise _refuse(
            f"{name!r} is of type {expected.__name__}, got {setting!r} ({type(setting).__name__})"
        )
    try:
        canonical(setting)
    except TypeError as error:
        raise _refuse(f"{name!r} cannot be part of a cache key: {error}") from None


def inductor_option_types() -> Mapping[str, type | None]:
    """Return Inductor's option names and types; loads torch, so only where options are given."""
    from domino_compile import _compat

    return _compat.inductor_option_types()


def optional(check: Check) -> Check:
    """Accept None too."""
    return Check(
        f"{check.allowed}, or None", lambda value: None if value is None else check.run(value)
    )


def or_word(check: Check, word: str) -> Check:
    """Accept one word too."""
    return Check(
        f"{check.allowed}, or {word!r}", lambda value: word if value == word else check.run(value)
    )


def canonical(value: object) -> object:
    """Return `value` as JSON data that is the same in every process, for digests.

    Raises:
        TypeError: the value is neither plain data nor an object with a `uuid()`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        pairs = [[canonical(key), canonical(item)] for key, item in value.items()]
        return {"mapping": sorted(pairs, key=repr)}
    if isinstance(value, set | frozenset):
        return {"set": sorted(map(canonical, value), key=repr)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, Collection):
        return [canonical(item) for item in value]
    uuid = None if isinstance(value, type) else getattr(value, "uuid", None)
    if callable(uuid) and (identity := uuid()) is not None:
        return {"uuid": canonical(identity)}
    kind = type(value).__name__
    raise TypeError(f"a {kind} is neither plain data nor an object with a uuid()")
