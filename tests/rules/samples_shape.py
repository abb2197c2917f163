"""Samples of operations that move elements."""

from __future__ import annotations

from typing import Any

import torch

from tests.rules.harness import Sample
from tests.rules.samples_pointwise import real

aten = torch.ops.aten
prims: Any = torch.ops.prims

MIX = "mixes the cut axis"
ALONG = "acts along the cut dimension"
INT_MAX = 2**63 - 1
SHAPE = [
    Sample(aten.view.default, (real(4, 6), [24]), pull_refused={0: ""}),
    Sample(
        aten.view.default,
        (real(4, 6), [4, -1, 3]),
        refused={(0, 1): MIX},
        blocks_refused={(0, 1): ""},
    ),
    Sample(
        aten.view.default,
        (real(4, 6), [-1, 2, 3]),
        refused={(0, 1): MIX},
        blocks_refused={(0, 1): ""},
    ),
    Sample(aten.view.default, (real(4, 6), [1, 4, 6, 1])),
    Sample(
        aten.view.default,
        (real(4, 6), [8, 3]),
        refused={(0, 1): MIX},
        blocks_refused={(0, 1): ""},
        pull_refused={0: "", 1: ""},
    ),
    Sample(aten.view.default, (real(4, 6, 2), [24, 2]), pull_refused={0: ""}),
    Sample(
        aten.view.default,
        (real(24, 2), [4, 6, 2]),
        refused={(0, 0): MIX},
        blocks_refused={(0, 0): MIX},
    ),
    Sample(aten.view.dtype, (real(4, 6), torch.int64)),
    Sample(
        aten.view.dtype,
        (real(4, 6), torch.int32),
        refused={(0, 1): "of another size"},
        blocks_refused={(0, 1): "of another size"},
    ),
    Sample(aten._unsafe_view.default, (real(6, 4), [6, 2, 2]), refused={(0, 1): MIX}),
    Sample(aten.reshape.default, (real(6, 4).t(), [24]), pull_refused={0: ""}),
    Sample(aten.permute.default, (real(4, 6, 2), [2, -3, 1])),
    Sample(aten.transpose.int, (real(4, 6, 2), -1, 0)),
    Sample(aten.t.default, (real(4, 6),)),
    Sample(aten.t.default, (real(6),)),
    Sample(aten.unsqueeze.default, (real(4, 6), -1)),
    Sample(aten.unsqueeze.default, (real(4, 6), 1)),
    Sample(aten.squeeze.default, (real(1, 4, 1, 6),)),
    Sample(aten.squeeze.dim, (real(1, 4, 1, 6), -2)),
    Sample(aten.squeeze.dim, (real(4, 6), 0)),
    Sample(aten.squeeze.dims, (real(1, 4, 1, 6), [0, 1, 2])),
    Sample(aten.expand.default, (real(4, 1, 6), [-1, 3, -1])),
    Sample(aten.expand.default, (real(4, 1), [2, 4, 6]), {"implicit": True}),
    Sample(aten.expand.default, (real(6), [4, -1])),
    Sample(aten.repeat.default, (real(4, 6), [2, 1, 3])),
    Sample(
        aten.repeat.default,
        (real(4, 6), [0, 1]),
        refused={(0, 0): "zero times"},
        blocks_refused={(0, 0): "zero times"},
    ),
]
SPLITS = "a slice of the cut dimension that splits the cut axis"
ITSELF = "a slice of the cut dimension itself"
PIECES = [
    Sample(aten.slice.Tensor, (real(4, 6), 1, 0, INT_MAX)),
    Sample(aten.slice.Tensor, (real(4, 6), -1, -6, 6)),
    Sample(aten.slice.Tensor, (real(4, 6),)),
    Sample(aten.slice.Tensor, (real(4, 6), 0, None, 100)),
    Sample(
        aten.slice.Tensor,
        (real(4, 6), 1, 0, 3),
        refused={(0, 1): SPLITS},
        blocks_refused={(0, 1): ""},
        pull_refused={1: "the wanted dimension"},
    ),
    Sample(
        aten.slice.Tensor,
        (real(4, 6), 1, -3, INT_MAX),
        refused={(0, 1): SPLITS},
        blocks_refused={(0, 1): ""},
        pull_refused={1: "the wanted dimension"},
    ),
    Sample(
        aten.slice.Tensor,
        (real(4, 6), 1, 1, -1, 2),
        refused={(0, 1): ITSELF},
        blocks_refused={(0, 1): ITSELF},
        pull_refused={1: "the wanted dimension"},
    ),
    Sample(
        aten.slice.Tensor,
        (real(4, 6), 1, 5, 2),
        refused={(0, 1): SPLITS},
        blocks_refused={(0, 1): SPLITS},
        pull_refused={},
    ),
    Sample(
        aten.select.int,
        (real(4, 6, 2), 1, -1),
        refused={(0, 1): "one row"},
        blocks_refused={(0, 1): "one row"},
    ),
    Sample(
        aten.unbind.int,
        (real(4, 3, 6), -2),
        refused={(0, 1): "unbinds the cut"},
        blocks_refused={(0, 1): "unbinds the cut"},
    ),
    Sample(aten.unbind.int, (real(3, 4),), refused={(0, 0): "unbinds"}),
    Sample(
        aten.split.Tensor,
        (real(4, 10), 4, 1),
        refused={(0, 1): "splits the cut axis"},
        blocks_refused={(0, 1): ""},
    ),
    Sample(
        aten.split.Tensor,
        (real(4, 6), 3, -1),
        refused={(0, 1): "splits the cut axis"},
        blocks_refused={(0, 1): ""},
    ),
    Sample(aten.split.Tensor, (real(4, 6), 9)),
    Sample(
        aten.split_with_sizes.default,
        (real(4, 6), [2, 4], 1),
        refused={(0, 1): "splits the cut axis"},
        blocks_refused={(0, 1): ""},
    ),
    Sample(
        aten.split_with_sizes.default,
        (real(4, 6), [6, 0], 1),
        refused={(0, 1): "splits the cut axis"},
        blocks_refused={(0, 1): ""},
    ),
    Sample(
        aten.cat.default,
        ([real(4, 6), real(4, 2)], -1),
        refused={(0, 1): "along", (1, 1): "along"},
        blocks_refused={(0, 1): "along", (1, 1): "along"},
        pull_refused={1: "along the wanted"},
    ),
    Sample(
        aten.cat.default,
        ([real(4, 6), real(0)],),
        refused={(0, 0): "empty", (0, 1): "empty"},
        blocks_refused={(0, 0): "empty", (0, 1): "empty"},
        pull_refused={0: "empty", 1: "empty"},
    ),
    Sample(aten.stack.default, ([real(4, 6), real(4, 6) + 1], -1)),
    Sample(aten.stack.default, ([real(4, 6), real(4, 6) + 1],)),
    Sample(
        aten.flip.default,
        (real(4, 6, 2), [-2]),
        refused={(0, 1): ALONG},
        blocks_refused={(0, 1): ALONG},
    ),
    Sample(
        prims.rev.default,
        (real(4, 6, 2), [1]),
        refused={(0, 1): ALONG},
        blocks_refused={(0, 1): ALONG},
    ),
    Sample(
        aten.roll.default,
        (real(4, 6), [1], [1]),
        refused={(0, 1): ALONG},
        blocks_refused={(0, 1): ALONG},
    ),
    Sample(
        aten.roll.default,
        (real(4, 6), [1]),
        refused={(0, 0): ALONG, (0, 1): ALONG},
        blocks_refused={(0, 0): ALONG, (0, 1): ALONG},
    ),
    Sample(
        aten.constant_pad_nd.default,
        (real(4, 6, 2), [0, 0, 2, -1], 1.5),
        refused={(0, 1): "pads"},
        blocks_refused={(0, 1): "pads"},
    ),
    Sample(
        aten.slice_scatter.default,
        (real(4, 6), real(4, 2), 1, 1, 5, 2),
        refused={(0, 1): "writes a slice", (1, 1): "writes a slice"},
        blocks_refused={(0, 1): "writes a slice", (1, 1): ""},
    ),
    Sample(
        aten.select_scatter.default,
        (real(4, 6, 2), real(4, 2), 1, 3),
        refused={(0, 1): "writes one row"},
        blocks_refused={(0, 1): "writes one row"},
    ),
]
SAMPLES = SHAPE + PIECES
