"""Samples of collectives, creation and random draws."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.ops.own_part import own_part
from tests.rules import reference  # noqa: F401  (registers the stand-ins)
from tests.rules.harness import Sample
from tests.rules.samples_pointwise import real

aten = torch.ops.aten
prims: Any = torch.ops.prims
c10d: Any = torch.ops._c10d_functional

WHOLE = "a collective on a whole value stays whole"
RANKS = "scatters the cut dimension itself"
COLLECTIVES = [
    Sample(
        c10d.all_reduce.default,
        (real(4, 6), "sum", "g"),
        ranks=2,
        pull_refused={0: WHOLE, 1: WHOLE},
    ),
    Sample(
        c10d.broadcast.default, (real(4, 6), 1, "g"), ranks=2, pull_refused={0: WHOLE, 1: WHOLE}
    ),
    Sample(c10d.wait_tensor.default, (real(4, 6),), ranks=2),
    Sample(c10d.all_gather_into_tensor.default, (real(4, 6), 2, "g"), ranks=2),
    Sample(
        c10d.reduce_scatter_tensor.default,
        (real(12, 6), "sum", 2, "g"),
        ranks=2,
        refused={(0, 0): RANKS},
        blocks_refused={(0, 0): ""},
    ),
    Sample(
        own_part,
        (real(12, 6), 0, 2, "g"),
        ranks=2,
        refused={(0, 0): "takes a rank's part of the cut dimension"},
        blocks_refused={(0, 0): ""},
    ),
]
EXCHANGED = "exchanges the cut dimension itself"
OWN_SIZES = "blocks of different sizes"
SOME = "some of the tensors that travel together are not cut"
#: Each tensor alone; and a second one beside it, which would have to be cut too.
COALESCED = [
    Sample(c10d.all_reduce_coalesced.default, ([real(4, 6)], "sum", "g"), ranks=2),
    Sample(c10d.all_gather_into_tensor_coalesced.default, ([real(4, 6)], 2, "g"), ranks=2),
    Sample(
        c10d.reduce_scatter_tensor_coalesced.default,
        ([real(12, 6)], "sum", 2, "g"),
        ranks=2,
        refused={(0, 0): RANKS},
        blocks_refused={(0, 0): ""},
    ),
    *(
        Sample(
            op,
            ([real(12, 6), real(12, 3)], *rest),
            ranks=2,
            refused={(i, d): SOME if (i, d) != (0, 0) else "" for i in (0, 1) for d in (0, 1)},
            blocks_refused={(i, d): "" for i in (0, 1) for d in (0, 1)},
        )
        for op, *rest in (
            (c10d.all_reduce_coalesced.default, "sum", "g"),
            (c10d.all_gather_into_tensor_coalesced.default, 2, "g"),
            (c10d.reduce_scatter_tensor_coalesced.default, "sum", 2, "g"),
        )
    ),
]
ALL_TO_ALL = [
    Sample(
        c10d.all_to_all_single.default,
        (real(12, 6), [6, 6], [6, 6], "g"),
        ranks=2,
        refused={(0, 0): EXCHANGED},
        blocks_refused={(0, 0): ""},
    ),
    Sample(  # as of two ranks that send each other different numbers of rows
        c10d.all_to_all_single.default,
        (real(12, 6), [8, 4], [8, 4], "g"),
        refused={(0, 0): OWN_SIZES},
        blocks_refused={(0, 0): OWN_SIZES},
    ),
]
INTERLEAVED = "blocks are interleaved"
CREATION = [
    Sample(aten.full.default, ([4, 6], 2.5), {"dtype": torch.float64}),
    Sample(aten.zeros.default, ([4, 6],)),
    Sample(aten.ones.default, ([4, 6],)),
    Sample(aten.empty.memory_format, ([4, 6],), values=False),
    Sample(aten.new_empty.default, (real(2), [4, 6]), values=False, refused={(0, 0): "*"}),
    Sample(aten.new_full.default, (real(2), [4, 6], 3), refused={(0, 0): "*"}),
    Sample(aten.new_ones.default, (real(2), [4, 6]), refused={(0, 0): "*"}),
    Sample(aten.new_zeros.default, (real(2), [4, 6]), {"dtype": torch.bool}, refused={(0, 0): "*"}),
    Sample(
        prims.iota.default,
        (12,),
        {
            "start": 3, "step": -2, "dtype": torch.int64, "device": torch.device("cpu"),
            "requires_grad": False,
        },
        pull_refused={0: ""},
    ),
    Sample(
        prims.inductor_random.default,
        ([4, 6], torch.tensor(7), "rand"),
        pull_refused={0: "", 1: ""},
    ),
]  # fmt: skip
SAMPLES = COLLECTIVES + COALESCED + ALL_TO_ALL + CREATION
