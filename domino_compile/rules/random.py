"""Random values: each slice draws exactly its part of the uncut program's numbers.

After Inductor has replaced random operations, a draw is ``inductor_random(size, seed, mode)``:
a pure function of the seed and the element's linear index. Our operator
``domino_compile::random_slice`` is the same function at the indices of one slice, so the mask is
bit-identical and still fuses into its consumer. Other random operations have no rule: they run
whole.
"""

from __future__ import annotations

from typing import Any

from domino_compile._compat.operators import prims
from domino_compile.axes import WHOLE, Sliced
from domino_compile.ops.random_slice import random_slice
from domino_compile.rules.call import Call, Cut, Outcome, Refusal
from domino_compile.rules.creation import never_cut
from domino_compile.rules.rule import Trait, family


def pull_random(call: Call, want: Sliced) -> Outcome:
    """Pull the draw of one slice, given the whole shape, the dimension and the slice's rows."""
    if want.outer != 1 or call.kwargs.get("align_dtype") is not None:
        return Refusal("a draw whose blocks are interleaved")
    extent = call.out_shape[want.dim]

    def build(args: tuple[Any, ...], _: dict[str, Any], chunks: Any, index: int) -> Any:
        size, seed, mode = args
        start = chunks.start_in(extent, index)
        length = chunks.part_of(extent, index)
        return random_slice, (size, seed, mode, want.dim, start, length), {}

    return Cut((WHOLE,), want, build=build)


RULES = {
    **family(
        "random", never_cut, (prims.inductor_random.default,), pull_random, traits=Trait.CREATES
    )
}
