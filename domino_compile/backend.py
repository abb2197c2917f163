"""The ``torch.compile`` backend ``domino``: options, hints, compile, and what goes round a program.

Two lowerings run the same passes: Inductor, and ``eager``, which runs the rewritten graphs
operation by operation (``lowering``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from domino_compile._compat.async_collectives import capture_async_collectives, captures_async
from domino_compile.errors import OptionError, RankMismatchError, refusal
from domino_compile.lowering.inductor import inductor_alone
from domino_compile.lowering.request import Request
from domino_compile.options import Options
from domino_compile.report.explanation import OverlapError
from domino_compile.runtime.async_work import launched
from domino_compile.runtime.guard import guarded
from domino_compile.runtime.watch import watched

capture_async_collectives(launched)  # Dynamo traces before it calls a backend


@captures_async
def domino(
    gm: fx.GraphModule,
    example_inputs: list[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Callable[..., Any]:
    """Compile a captured graph with its tensor-parallel communication under its computation.

    Called by ``torch.compile(model, backend="domino", options={...})``; see ``Options``.
    """
    try:
        chosen = Options.parse(options, mode).with_environment(os.environ)
        if chosen.disable:
            return inductor_alone(gm, example_inputs, chosen)
        request = Request.of(gm, example_inputs, chosen)
        return watched(guarded(request.compile())).program
    except (OptionError, RankMismatchError, OverlapError) as error:
        return refusal(error)
