"""The switch: while it is on, what asks ``torch.compile`` for Inductor compiles with domino.

For programs whose framework writes ``backend="inductor"`` and offers no other choice::

    domino_compile.enable(slices=2)             # from here on
    with domino_compile.enable(slices=2): ...   # in this block
    with domino_compile.disable(): ...          # not in this block

What counts is when ``torch.compile`` is called: a model that was compiled while the switch was on
keeps domino, one that was compiled before keeps Inductor. Compiles that name another backend, or
domino itself, are not touched.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from domino_compile import _compat
from domino_compile._compat import Answer, Asked, GraphCompiler
from domino_compile._compat.async_collectives import capture_async_collectives, captures_async
from domino_compile.errors import DominoError, OptionError
from domino_compile.options import Options
from domino_compile.runtime.async_work import launched

log = logging.getLogger(__name__)

#: As pyproject.toml says.
OLDEST_TORCH = "2.11"
#: Inductor's own ways to order collectives: domino takes their place, so they can be left out.
#: (What else it owns are hooks, and to leave out a user's function would change the program.)
REPLACED = frozenset(
    {
        "reorder_for_compute_comm_overlap",
        "aten_distributed_optimizations.enable_overlap_scheduling",
        "aten_distributed_optimizations.enable_simple_overlap",
        "_micro_pipeline_tp",
    }
)


@dataclass(frozen=True)
class _Position:
    """Where the switch stands.

    Attributes:
        options: The options of domino for what asks for Inductor; None: it compiles with Inductor.
        chosen: Whether ``enable`` or ``disable`` has set it.
    """

    options: Mapping[str, Any] | None = None
    chosen: bool = False


_position = _Position()
_tool: Answer | None = None


class _Turned(AbstractContextManager[None]):
    """Turns the switch back at the end of a block. Outside of ``with`` it does nothing."""

    def __init__(self, before: _Position) -> None:
        self._before = before

    def __exit__(self, *_: object) -> None:
        _turn(self._before)


def enable(**options: object) -> AbstractContextManager[None]:
    """Let what asks for Inductor compile with domino from now on, or in a ``with`` block.

    This covers ``torch.compile`` and ``Module.compile`` with the backend ``inductor``, given or by
    default, and Dynamo itself. Inductor's options in such a compile stay in force, except those
    that would undo domino's schedule, which are left out with a warning. Another call with other
    options replaces the options.

    Args:
        **options: The options, as in ``torch.compile(..., backend="domino", options={...})``.

    Raises:
        DominoError: This torch is too old.
        OptionError: An option is unknown or has a bad value.
    """
    _compat.load_dynamo()  # what is asked of Dynamo itself is seen from now on, too
    return _enable(options)


def _enable(options: Mapping[str, object]) -> AbstractContextManager[None]:
    _require_torch()
    described = Options.parse(options).describe()
    before = _position
    if _turn(_Position(dict(options), chosen=True)):
        log.info('backend="inductor" compiles with domino from now on (%s)', described)
    return _Turned(before)


def disable() -> AbstractContextManager[None]:
    """Let what asks for Inductor have it from now on, or in a ``with`` block.

    Models that were compiled with domino stay as they are. Under ``domino run`` this takes compiles
    out.
    """
    before = _position
    if _turn(_Position(None, chosen=True)) and before.options is not None:
        log.info('backend="inductor" compiles with Inductor again')
    return _Turned(before)


def enable_from_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Turn the switch on if ``DOMINO_COMPILE_ENABLE`` says so.

    This may run while torch is imported, in programs that never compile: it does not load Dynamo.

    Raises:
        OptionError: The variable, or ``DOMINO_COMPILE_OPTIONS`` beside it, has a bad value.
    """
    wanted = environment.get("DOMINO_COMPILE_ENABLE", "").strip()
    if wanted not in ("", "0", "1"):
        raise OptionError(f"DOMINO_COMPILE_ENABLE: got {wanted!r}, allowed: '0' or '1'")
    if wanted == "1":
        _enable(_options_in(environment.get("DOMINO_COMPILE_OPTIONS", "")))


def _options_in(text: str) -> dict[str, object]:
    try:
        options = json.loads(text or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise OptionError(
            f"DOMINO_COMPILE_OPTIONS: got {text!r}, allowed: a JSON object like "
            '{"slices": 2, "dump_dir": "out"}'
        )
    return options


@contextmanager
def requests_answered(answer: Answer) -> Iterator[None]:
    """Let a tool answer every request for a compile in a block, wherever the switch stands.

    Where the switch is on, what asks for Inductor arrives as a request for domino; in the reach of
    ``disable`` it does not arrive.
    """
    global _tool
    before, _tool = _tool, answer
    _compat.answer_requests(_answer)
    try:
        yield
    finally:
        _tool = before
        _install()


def domino_options(asked: Asked, options: Mapping[str, Any] = MappingProxyType({})) -> Asked:
    """Make any request one for domino, without the options that domino takes the place of.

    Args:
        asked: The request.
        options: The options of domino. They are defaults for a request for Inductor, whose own mode
            and options are more special, and take the place of those of a request for domino.
    """
    if asked.backend == "inductor":
        inductor = dict(options.get("inductor") or {}) | asked.options
        chosen, mode = dict(options), asked.mode or options.get("mode")
    else:
        chosen = {**asked.options, **options}
        inductor, mode = dict(chosen.get("inductor") or {}), options.get("mode") or asked.mode
    for name in REPLACED & inductor.keys():
        if inductor.pop(name):
            _warn_once(
                f"Inductor's option {name!r} is left out, domino orders the collectives: call "
                "domino_compile.disable() before a compile that is to have it"
            )
    if inductor or "inductor" in chosen:
        chosen["inductor"] = inductor
    chosen.pop("mode", None)
    return Asked("domino", chosen, mode)


def compile_with_domino(
    asked: Asked, options: Mapping[str, Any], gm: torch.fx.GraphModule, inputs: list[Any]
) -> Callable[..., Any]:
    """Compile a graph with domino, or with Inductor as asked if domino refuses what is asked of it.

    Args:
        asked: The request; if it is one for domino itself, a refusal is an error, as always.
        options: The options, as for ``domino_options``.
        gm: The captured graph.
        inputs: The example inputs of the graph.
    """
    from domino_compile.backend import domino

    chosen = domino_options(asked, options)
    if asked.backend == "inductor":
        try:
            Options.parse(chosen.options, chosen.mode)
        except OptionError as error:
            _warn_once(
                "compiled with Inductor alone, because domino refuses an option of this compile: "
                f"{error}; leave it out, or call domino_compile.disable() before this compile"
            )
            settings = _compat.mode_options(asked.mode) if asked.mode else {}
            return _compat.compile_with_inductor(gm, inputs, settings | asked.options)
    return domino(gm, inputs, mode=chosen.mode, options=chosen.options)


@captures_async
@dataclass(frozen=True)
class _Switched:
    """Compiles the graphs of one request; equal where request and options are."""

    asked: Asked
    options: Mapping[str, Any]

    def __call__(self, gm: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        return compile_with_domino(self.asked, self.options, gm, inputs)


def _answer(asked: Asked) -> GraphCompiler | None:
    """Return what compiles for a request; None leaves it to its backend."""
    options = None
    if asked.backend == "inductor":
        options = _position.options
        if options is None and _position.chosen:
            return None
    if _tool is None and options is None:
        return None
    capture_async_collectives(launched)  # before Dynamo traces what is asked for
    if _tool is not None:
        return _tool(asked if options is None else domino_options(asked, options))
    assert options is not None
    return _Switched(asked, options)


def _turn(position: _Position) -> bool:
    """Put the switch somewhere; return whether it was elsewhere."""
    global _position
    changed = position != _position
    _position = position
    _install()
    return changed


def _install() -> None:
    """See requests only while there is something to answer."""
    wanted = _tool is not None or _position.options is not None
    _compat.answer_requests(_answer if wanted else None)


def _require_torch() -> None:
    """Refuse a torch that the package was not made for (pip would, unless it is told not to)."""
    if torch.__version__ < OLDEST_TORCH:
        raise DominoError(
            f"domino_compile needs torch {OLDEST_TORCH} or newer, this is {torch.__version__}: "
            "upgrade torch, or leave the switch off"
        )


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)
