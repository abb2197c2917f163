"""Facts about a graph's inputs from before it is captured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from domino_compile import _compat
from domino_compile.errors import OptionError
from domino_compile.options import Options
from domino_compile.report.origin import input_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hints:
    """Facts about the inputs, by position.

    Attributes:
        batch: The inputs that carry the batch according to the user, with the dimension.
        parameters: The inputs that are parameters, which are unlikely to carry the batch.
        names: The user's names of the inputs, for dumps and reports.
    """

    batch: Mapping[int, int] = field(default_factory=dict)
    parameters: frozenset[int] = frozenset()
    names: Mapping[int, str] = field(default_factory=dict)

    def parameters_in(self, graph: fx.Graph) -> frozenset[fx.Node]:
        """Return the inputs of a graph that are parameters."""
        inputs = graph.find_nodes(op="placeholder")
        return frozenset(n for n in inputs if _compat.input_position(n) in self.parameters)

    def identity(self) -> str:
        """Return the facts that decide the result of the passes, for cache keys."""
        return f"{sorted(self.batch.items())} {sorted(self.parameters)}"


def hints_of(gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options) -> Hints:
    """Return the facts that a captured graph gives about its inputs.

    Raises:
        OptionError: The option ``batch`` names a dimension that the input does not have.
    """
    parameters = frozenset(_compat.parameter_inputs(gm, list(example_inputs)))
    names = [_compat.input_name(n) for n in gm.graph.find_nodes(op="placeholder")]
    batch = _batch(names, example_inputs, options.batch or {})
    if options.batch and not batch:
        log.info(
            "batch: this graph has none of the inputs %s, so the batch is inferred",
            list(options.batch),
        )
    return Hints(batch, parameters, {i: input_path(name) for i, name in enumerate(names) if name})


def _batch(
    names: Sequence[str], example_inputs: Sequence[Any], asked: Mapping[str, int]
) -> dict[int, int]:
    """Return the positions of the inputs that the user names, with their dimensions."""
    batch: dict[int, int] = {}
    for name, dim in asked.items():
        for position, full in enumerate(names):
            if full in (name, f"L['{name}']") and position < len(example_inputs):
                rank = getattr(example_inputs[position], "ndim", 0)
                if dim >= rank:
                    raise OptionError(
                        f"batch: input {name!r} has {rank} dimensions, got dimension {dim}"
                    )
                batch[position] = dim
    return batch
