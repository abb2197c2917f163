"""One check per kind of option value: `check(value) -> value`, or a ValueError with the reason.

A check returns the value in its canonical form (a path as str, a list as a tuple), so that equal
options compare, print and hash alike. Documents and error messages quote `allowed`.
"""

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from domino_compile.errors import DominoError, did_you_mean

# Inductor options that the backend sets itself or that would undo the schedule, and the reason.
OWNED_INDUCTOR_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "joint_custom_post_pass": "the backend uses it to cut the joint graph",
        "post_grad_custom_post_pass": "the backend uses it to schedule each graph",
        "reorder_for_compute_comm_overlap": "it would reorder the scheduled collectives",
        "aten_distributed_optimizations.enable_overlap_scheduling": (
            "it would replace our schedule with another one"
        ),
        "aten_distributed_optimizations.enable_simple_overlap": (
            "it would move the scheduled launches and waits"
        ),
        "inductor_choices_class": "the backend uses it to keep slices in separate kernels",
        "_micro_pipeline_tp": "it would rewrite the collectives that the schedule relies on",
    }
)


@dataclass(frozen=True)
class Check:
    """The check of one option's values.

    Attributes:
        allowed: The accepted values in words, for documents and error messages.
        run: Returns the canonical form of a value, or raises ValueError with a reason (empty if
            `allowed` is explanation enough).
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
        checked = number(minimum=0).run(value)
        if not isinstance(checked, float) or checked >= 1:
            raise _refuse()
        return checked

    return Check("a number >= 0 and < 1", run)


def number(minimum: float, *, exclusive: bool = False) -> Check:
    """Accept a finite int or float of at least (or, if `exclusive`, above) `minimum`."""

    def run(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _refuse()
        try:
            converted = float(value)
        except OverflowError:  # an int with hundreds of digits
            converted = math.inf
        too_small = converted < minimum or (exclusive and converted == minimum)
        if not math.isfinite(converted) or too_small:
            raise _refuse()
        return converted

    return Check(f"a finite number {'>' if exclusive else '>='} {minimum:g}", run)


def flag() -> Check:
    """Accept True or False, but no other truthy or falsy value."""

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
    """Accept a list, tuple or set of `spellings`; store each once, in the order given here."""

    def run(value: object) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence | frozenset | set):
            raise _refuse(f"wrap it in a list: [{value!r}]" if isinstance(value, str) else "")
        for item in value:
            if not isinstance(item, str) or item not in spellings:
                raise _refuse(f"{item!r} is not one of them{did_you_mean(item, spellings)}")
        return tuple(spelling for spelling in spellings if spelling in value)

    return Check(f"a list of names from {', '.join(map(repr, spellings))}", run)


def link() -> Check:
    """Accept the name of a link table, or the path of its JSON file; stored as str."""

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
    """Accept the name of a device with known rates."""

    def run(value: object) -> str:
        from domino_compile.cost.rates import device_names

        known = device_names()
        if not isinstance(value, str) or value not in known:
            raise _refuse(f"known: {', '.join(known)}{did_you_mean(value, known)}")
        return value

    return Check("the name of a device in domino_compile/cost/rates.py, like 'H200'", run)


def link_identity(value: str | None) -> str | None:
    """Return the contents of a link table, so that a changed file counts as a changed option."""
    from domino_compile.links import load_link

    return None if value is None else repr(load_link(value))


def path() -> Check:
    """Accept a non-empty str or Path; stored as str."""

    def run(value: object) -> str:
        if not isinstance(value, str | os.PathLike):
            raise _refuse()
        spelling = os.fspath(value)
        if not isinstance(spelling, str) or not spelling.strip():
            raise _refuse()
        return spelling

    return Check("a path (str or Path)", run)


def dims_by_name() -> Check:
    """Accept a mapping from input names to their batch dimension (>= 0)."""

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
    """Accept a mapping of Inductor options whose values have the types that Inductor expects."""

    def run(value: object) -> Mapping[str, object]:
        if not isinstance(value, Mapping):
            raise _refuse()
        if not all(isinstance(name, str) for name in value):
            raise _refuse("names must be strings")
        options = {name.replace("-", "_"): setting for name, setting in value.items()}
        for name, setting in options.items():
            _check_inductor_option(name, setting)
        return MappingProxyType(options)

    return Check('a mapping of Inductor options, like {"max_autotune": True}', run)


def _check_inductor_option(name: str, setting: object) -> None:
    if name in OWNED_INDUCTOR_OPTIONS:
        raise _refuse(f"{name!r} is reserved for this backend: {OWNED_INDUCTOR_OPTIONS[name]}")
    types = inductor_option_types()
    if name not in types:
        raise _refuse(f"Inductor has no option {name!r}{did_you_mean(name, types)}")
    expected = types[name]
    if expected is not None and not isinstance(setting, expected):
        raise _refuse(
            f"{name!r} must be a {expected.__name__}, got {setting!r} ({type(setting).__name__})"
        )
    try:
        canonical(setting)
    except TypeError as error:
        raise _refuse(f"{name!r} cannot be part of a cache key: {error}") from None


def inductor_option_types() -> Mapping[str, type | None]:
    """Return Inductor's option names and types. Loads torch, so call it only when needed."""
    from domino_compile import _compat

    return _compat.inductor_option_types()


def optional(check: Check) -> Check:
    """Also accept None."""
    return Check(
        f"{check.allowed}, or None", lambda value: None if value is None else check.run(value)
    )


def or_word(check: Check, word: str) -> Check:
    """Also accept one particular word."""
    return Check(
        f"{check.allowed}, or {word!r}", lambda value: word if value == word else check.run(value)
    )


def canonical(value: object) -> object:
    """Return `value` as JSON data that is the same in every process, for digests.

    Raises:
        TypeError: The value is neither plain data nor an object with a `uuid()`.
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
