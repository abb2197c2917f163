"""Samples of embedding, gather, scatter and advanced indexing."""

from __future__ import annotations

from typing import Any

import torch

from tests.rules.harness import Sample, counted
from tests.rules.samples_pointwise import count, real

aten = torch.ops.aten

ROWS = "the rows of the table are cut"
GATHERS = "gathers along the cut dimension"
ALIKE = "have different extents along the cut dimension"


def no(reason: str, *operands_dims: tuple[int, int]) -> dict[tuple[int, int], str]:
    """These must not be cut."""
    return dict.fromkeys(operands_dims, reason)


def both(refused: dict[tuple[int, int], str]) -> dict[str, Any]:
    """Refused in every layout."""
    return {"refused": refused, "blocks_refused": refused}


def within(*shape: int) -> torch.Tensor:
    """Indices of two or three rows."""
    return count(*shape, below=2)


LOOKUPS = [
    Sample(
        aten.embedding.default,
        (real(6, 4), count(4, 5), 1),
        pull_refused={2: "columns of the"},
        **both(no(ROWS, (0, 0))),
    ),
    Sample(
        aten.embedding_dense_backward.default,
        (real(4, 5, 6), count(4, 5), 8, 1, False),
        **both(no("from all rows at once", *[(0, d) for d in range(3)], (1, 0), (1, 1))),
    ),
    Sample(aten.gather.default, (real(4, 6), 1, within(4, 6)), **both(no(GATHERS, (0, 1), (1, 1)))),
    Sample(
        aten.gather.default,
        (real(4, 6), -1, within(3, 2)),
        **both(no("", (0, 1), (1, 1), (0, 0), (1, 0))),
    ),
    Sample(
        aten.scatter.src,
        (real(4, 6), 1, count(4, 1), real(4, 2)),
        **both(no(GATHERS, (0, 1), (2, 1))),
    ),
    Sample(aten.scatter.value, (real(4, 6), -1, count(4, 1), 2.5), **both(no(GATHERS, (0, 1)))),
    Sample(
        aten.scatter.value,
        (real(4, 6), 1, count(2, 1), 2.5),
        **both(no("", (0, 0), (0, 1), (1, 0))),
    ),
    Sample(
        aten.scatter.reduce,
        (real(4, 6), 1, count(4, 2), real(4, 2)),
        {"reduce": "add"},
        exact=False,
        **both(no(GATHERS, (0, 1), (1, 1), (2, 1))),
    ),
    Sample(
        aten.scatter.value_reduce,
        (real(4, 6), 1, count(4, 2), 2.0),
        {"reduce": "multiply"},
        exact=False,
        **both(no(GATHERS, (0, 1), (1, 1))),
    ),
    Sample(
        aten.scatter_add.default,
        (real(4, 6), 1, count(4, 2), real(4, 2)),
        exact=False,
        **both(no(GATHERS, (0, 1), (1, 1), (2, 1))),
    ),
    Sample(
        aten.scatter_reduce.two,
        (real(4, 6), 1, count(4, 2), real(4, 2), "amax"),
        {"include_self": False},
        **both(no(GATHERS, (0, 1), (1, 1), (2, 1))),
    ),
    Sample(
        aten.index_select.default, (real(4, 6), -1, count(4)), **both(no("selects along", (0, 1)))
    ),
]

INDEXES = "indexes the cut dimension"
MASK = "depends on data"
INDEX = [
    Sample(aten.index.Tensor, (real(6, 4, 2), [count(4, 5)]), **both(no(INDEXES, (0, 0)))),
    Sample(
        aten.index.Tensor,
        (real(3, 4, 6), [None, within(2, 1), within(5)]),
        **both(no(INDEXES, (0, 1), (0, 2))),
    ),
    Sample(
        aten.index.Tensor,
        (real(3, 4, 6, 2), [None, within(4, 1), None, within(2)]),
        **both(no(INDEXES, (0, 1), (0, 3))),
    ),
    Sample(
        aten.index.Tensor,
        (real(3, 4, 6), [within(5), None, within(5)]),
        **both(no(INDEXES, (0, 0), (0, 2))),
    ),
    Sample(
        aten.index.Tensor,
        (real(4, 6, 2), [None, within()]),
        **both(no(INDEXES, (0, 1))),
    ),
    Sample(aten._unsafe_index.Tensor, (real(6, 4), [None, within(3)]), **both(no(INDEXES, (0, 1)))),
    Sample(
        aten._unsafe_masked_index.default,
        (real(6, 3), real(4, 5, 1) > 0.5, [count(4, 5, below=6)], 7.0),
        **both(no(INDEXES, (0, 0))),
    ),
    Sample(
        aten._unsafe_masked_index.default,
        (real(4, 6), real(5) > 0.5, [None, count(5, below=6)], 7.0),
        **both(no(INDEXES, (0, 1))),
    ),
]

WRITES = "writes along the cut dimension"
PLAIN = "writes without accumulating"
PUT = [
    Sample(
        aten.index_put.default,
        (real(6, 3), [count(4, 5)], real(4, 5, 3), True),
        **both(no(WRITES, (0, 0))),
    ),
    Sample(
        aten.index_put.default,
        (real(6, 3), [count(4, 5)], real(5, 3), True),
        **both(no(WRITES, (0, 0))),
    ),
    Sample(
        aten.index_put.default,
        (real(4, 6, 3), [None, count(5)], real(4, 5, 3), True),
        **both(no(WRITES, (0, 1))),
    ),
    Sample(
        aten.index_put.default,
        (real(4, 6, 3), [None, torch.arange(4)], real(4, 4, 1)),
        **both(no(WRITES, (0, 1)) | no(PLAIN, (1, 0), (2, 1))),
    ),
    Sample(
        aten.index_put.default,
        (real(4, 6, 3), [count(2), None, count(2, below=3)], real(2, 6), True),
        **both(no(WRITES, (0, 0), (0, 2))),
    ),
    Sample(
        aten.index_put.default,
        (real(4, 6), [real(4) > 0.5], real(), True),
    ),
    Sample(aten.index_put.default, (real(4, 6, 3), [real(4, 6) > 0.5], real())),
    Sample(
        aten.index_put.default,
        (real(4, 6, 3), [None, real(6) > 0.5], real(4, 1, 3)),
        **both(no("only the written values", (2, 0), (2, 2))),
    ),
    Sample(
        aten.index_put.default,
        (real(4, 3), [torch.tensor([True, False, True, True])], real(3, 3)),
        **both(no(MASK, (0, 0), (0, 1), (1, 0), (2, 0), (2, 1))),
    ),
    Sample(
        aten.index_put.default,
        (real(4, 3), [torch.tensor([True, False, True, True]), count(3, below=3)], real(3)),
        **both(no(MASK, (0, 0), (0, 1), (1, 0), (2, 0), (3, 0))),
    ),
    Sample(
        aten._unsafe_index_put.default,
        (real(6, 3), [count(4)], real(4, 3), True),
        **both(no(WRITES, (0, 0))),
    ),
    Sample(
        aten._unsafe_masked_index_put_accumulate.default,
        (real(6, 3), real(4, 5, 1) > 0.5, [count(4, 5)], real(4, 5, 3)),
        **both(no(WRITES, (0, 0))),
    ),
]
PUT += [
    Sample(
        aten._unsafe_masked_index_put_accumulate.default,
        (real(6), real(4, 5) > 0.5, [count(4, 5)], real(5)),
        **both(no(WRITES, (0, 0))),
    ),
    Sample(
        aten._unsafe_masked_index_put_accumulate.default,
        (real(4, 6), real(5) > 0.5, [None, count(5)], real(4, 5)),
        **both(no(WRITES, (0, 1))),
    ),
]
#: Each row is read and written at an index of its own, as in a loss whose classes are divided.
ROW_BY_ROW = [
    Sample(aten.index.Tensor, (real(6, 5), [counted(6), count(6)]), **both(no(INDEXES, (0, 1)))),
    Sample(
        aten.index.Tensor,
        (real(3, 6, 5), [None, counted(6, 1), count(6, 2)]),
        **both(no(INDEXES, (0, 2))),
    ),
    Sample(
        aten.index.Tensor,
        (real(6, 4, 5), [counted(6), None, count(6)]),
        **both(no(INDEXES, (0, 2))),
    ),
    Sample(aten.index.Tensor, (real(6, 6), [counted(6), counted(6)])),
    Sample(
        aten.index.Tensor, (real(7, 5), [counted(6), count(6)]), **both(no(INDEXES, (0, 0), (0, 1)))
    ),
    Sample(
        aten.index_put.default,
        (real(6, 5), [counted(6), count(6)], real(6)),
        **both(no(WRITES, (0, 1))),
    ),
    Sample(
        aten.index_put.default,
        (real(6, 5), [counted(6, 1), count(6, 2)], real(2), True),
        **both(no(WRITES, (0, 1))),
    ),
    Sample(aten.index_put.default, (real(6, 6), [counted(6), counted(6)], real(), True)),
]
SAMPLES = LOOKUPS + INDEX + PUT + ROW_BY_ROW
