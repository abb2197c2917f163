"""The errors users can meet. Every message is one line and says what to change or where to look.

torch.compile calls a backend deep inside Dynamo, which renames what a backend raises to
`BackendCompilerFailed`, appends lines to its message and, under `suppress_errors`, drops it and
runs the model uncompiled. A mistake in the options must not be lost like that. `refusal` is the way
out that needs nothing private of torch: the backend returns a program that raises the error when it
is run. Nothing was compiled, and the user gets the error itself from the first call of the model.
"""

from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import NoReturn

#: The variable that makes a fault of our passes an error, as in our tests. Without it the graph is
#: put back and Inductor goes on alone.
STRICT = "DOMINO_COMPILE_STRICT"


class DominoError(Exception):
    """Base of every error this package raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class OptionError(DominoError, ValueError):
    """An option has an unknown name or a bad value."""


class RankMismatchError(DominoError, RuntimeError):
    """Ranks of one group made different plans; running them would hang in a collective."""


class InternalError(DominoError):
    """A fault of this package.

    Attributes:
        dump_folder: the folder that holds the graphs before and after the failing pass and a
            stand-alone repro; None if nothing was written.
    """

    def __init__(self, message: str, dump_folder: str | None = None) -> None:
        super().__init__(message if dump_folder is None else f"{message} (dump: {dump_folder})")
        self._message = message
        self.dump_folder = dump_folder

    def __reduce__(self) -> tuple[type["InternalError"], tuple[str, str | None]]:
        """Keep both arguments when the error travels between processes."""
        return type(self), (self._message, self.dump_folder)


def refusal(error: DominoError) -> Callable[..., NoReturn]:
    """Return a compiled program that does nothing but raise `error`, for a backend to return.

    Args:
        error: raised anew by each call, with the traceback of that call alone.
    """

    def refuse(*_inputs: object) -> NoReturn:
        raise error.with_traceback(None)

    return refuse


def nearest(name: object, allowed: Collection[str]) -> str | None:
    """Return the spelling in `allowed` nearest to `name`, or None if none is near."""
    by_lower_case = {spelling.lower(): spelling for spelling in allowed}
    matches = get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.5)
    return by_lower_case[matches[0]] if matches else None


def did_you_mean(name: object, allowed: Collection[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest spelling, or an empty string."""
    match = nearest(name, allowed)
    return "" if match is None else f"; did you mean {match!r}?"


def first_line(error: BaseException) -> str:
    """What an error says, without the stack that torch appends."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
