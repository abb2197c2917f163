"""Errors are one line, survive pickling, and reach the user of torch.compile as themselves."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo

from domino_compile.errors import (
    DominoError,
    InternalError,
    OptionError,
    RankMismatchError,
    did_you_mean,
    nearest,
    refusal,
)
from domino_compile.options import Options

Program = Callable[..., Any]


@pytest.mark.parametrize("kind", [DominoError, OptionError, RankMismatchError, InternalError])
def test_messages_are_one_line_and_pickle(kind: type[DominoError]) -> None:
    error = kind("first\n   second")
    assert str(error) == "first second"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_builtin_bases() -> None:
    assert issubclass(OptionError, ValueError)
    assert issubclass(RankMismatchError, RuntimeError)


def test_internal_error_names_its_dump() -> None:
    error = InternalError("pass slice failed", dump_folder="out/0/slice")
    assert str(error) == "pass slice failed (dump: out/0/slice)"
    again = pickle.loads(pickle.dumps(error))
    assert again.dump_folder == "out/0/slice"
    assert str(again) == str(error)


def test_nearest_ignores_case_and_gives_up_on_the_far() -> None:
    assert nearest("Slcies", ["slices", "link"]) == "slices"
    assert nearest("zzzz", ["slices", "link"]) is None
    assert nearest(3, ["slices"]) is None
    assert did_you_mean("zzzz", ["slices"]) == ""


def backend(gm: torch.fx.GraphModule, inputs: list[Any], **kwargs: Any) -> Program:
    """Refuse as the real backend does."""
    try:
        Options.parse(kwargs.get("options"), kwargs.get("mode"))
    except OptionError as error:
        return refusal(error)
    return gm.forward


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("suppress_errors", [False, True])
def test_option_error_reaches_the_user_as_itself(suppress_errors: bool, fullgraph: bool) -> None:
    torch._dynamo.reset()
    model = torch.nn.Linear(2, 2)
    compiled = torch.compile(model, backend=backend, options={"slice": 2}, fullgraph=fullgraph)
    with torch._dynamo.config.patch(suppress_errors=suppress_errors):
        for _ in range(2):  # the second call is refused too
            with pytest.raises(OptionError) as caught:
                compiled(torch.ones(1, 2))
            assert type(caught.value) is OptionError
            assert "\n" not in str(caught.value)
            assert "did you mean 'slices'?" in str(caught.value)


def test_good_options_run() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(torch.nn.Linear(2, 2), backend=backend, options={"slices": 3})
    assert compiled(torch.ones(1, 2)).shape == (1, 2)


def test_refusal_does_not_grow_its_traceback() -> None:
    refuse = refusal(OptionError("no"))
    depths = []
    for _ in range(3):
        with pytest.raises(OptionError) as caught:
            refuse(1, 2)
        depths.append(len(caught.traceback))
    assert len(set(depths)) == 1
