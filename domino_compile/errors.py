"""The errors that users can see. Each message is one line: what to change, or where to look.

torch.compile calls a backend deep inside Dynamo. Dynamo wraps a backend's exception in
`BackendCompilerFailed`, appends lines to its message and, under `suppress_errors`, drops it and
runs the model uncompiled. A mistake in the options must not get lost that way. `refusal` avoids
this without private torch APIs: the backend returns a program that raises the error when it runs.
Nothing is compiled, and the first call of the model raises the original error.
"""

from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import NoReturn

#: The environment variable that turns a fault in our passes into an error, as in our tests.
#: Without it the graph is restored and compiled by Inductor alone.
STRICT = "DOMINO_COMPILE_STRICT"


class DominoError(Exception):
    """The base class of all errors that this package raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class OptionError(DominoError, ValueError):
    """An option has an unknown name or a bad value."""


class RankMismatchError(DominoError, RuntimeError):
    """The ranks of a group made different plans; running them would hang in a collective."""


class InternalError(DominoError):
    """A bug in this package.

    Attributes:
        dump_folder: The folder with the graphs before and after the failing pass and a stand-alone
            script that reproduces the fault; None if nothing was written.
    """

    def __init__(self, message: str, dump_folder: str | None = None) -> None:
        super().__init__(message if dump_folder is None else f"{message} (dump: {dump_folder})")
        self._message = message
        self.dump_folder = dump_folder

    def __reduce__(self) -> tuple[type["InternalError"], tuple[str, str | None]]:
        """Keep both arguments when the error is pickled to another process."""
        return type(self), (self._message, self.dump_folder)


def refusal(error: DominoError) -> Callable[..., NoReturn]:
    """Return a program that only raises `error`, for a backend to return.

    Args:
        error: The error that each call raises, with the traceback of that call only.
    """

    def refuse(*_inputs: object) -> NoReturn:
        raise error.with_traceback(None)

    return refuse


def nearest(name: object, allowed: Collection[str]) -> str | None:
    """Return the spelling in `allowed` closest to `name`, or None if none is close."""
    by_lower_case = {spelling.lower(): spelling for spelling in allowed}
    matches = get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.5)
    return by_lower_case[matches[0]] if matches else None


def did_you_mean(name: object, allowed: Collection[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest spelling, or an empty string."""
    match = nearest(name, allowed)
    return "" if match is None else f"; did you mean {match!r}?"


def first_line(error: BaseException) -> str:
    """Return an error's message without the stack that torch appends."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
