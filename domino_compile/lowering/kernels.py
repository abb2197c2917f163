"""Rules for the kernels of a program that hides communication.

Beside a collective a kernel has fewer multiprocessors, and a slice has fewer rows to fill them.
Inductor's choices leave some of them unused, which is a large part of the cost of slicing. These
rules make better choices, and ``_compat.kernels`` makes Inductor ask them. Only the rule that keeps
slices apart is about slices; the others help every kernel beside a collective.

Times below are for bf16 and 4096 rows, with 16 of an H200's multiprocessors held, on torch 2.11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import fx

from domino_compile.graph.tags import is_overlapped, piece_of

#: The widest rows that a thread block keeps in registers during the whole kernel. Inductor keeps
#: rows of up to 1024 elements, and reads wider rows two or three times. (Norms of 4096 behind
#: dropout: 82 us instead of 124; without dropout 34 instead of 44.)
WIDEST_ROW = 4096
#: How many elements of a row a thread block takes at a time if it does not keep the row, best
#: first, and how many of these each thread takes. Inductor takes 2048, 4 per thread, and so draws
#: 6144 random numbers for a row of 5120, in 179 us. Five pieces of 1024 take 117 us, and a row that
#: is kept in registers, padded to 8192, takes 165 us.
PIECES_OF_A_ROW, ELEMENTS_A_THREAD = (1024, 512), 8
#: Rows that are wider than this are taken in larger pieces, with which no kernel is slower than
#: Inductor's. (12288 behind dropout: 323 us with Inductor, 276 in pieces of 1024, 291 in pieces of
#: 2048; without random numbers 107, 111 and 107.)
WIDE_ROW, PIECES_OF_A_WIDE_ROW = 8192, (2048, *PIECES_OF_A_ROW)
#: The range that was measured: at least this many rows, at most this wide.
LEAST_ROWS, WIDEST_IN_PIECES = 512, 16384
#: With fewer columns Inductor's blocks take several rows of a norm's gradients at a time.
NARROWEST_NORM = 1024
#: From this many columns on, a thread block of a norm's gradients has 16 warps. With Inductor's 8,
#: each thread holds 16 to 32 columns, and two sums of each. (71 us instead of 84 with 4096 columns,
#: 101 instead of 108 with 5120, 128 instead of 138 with 8192; but 74 instead of 47 with 2560,
#: padded to 4096.)
MANY_COLUMNS, WARPS_OF_MANY = 4096, 16
#: With fewer rows, both of a norm's gradients in one kernel take longer than in two: its blocks
#: take their rows one after another, and few blocks do not fill the device. (28 us instead of 18
#: with 512 rows of 4096, 36 instead of 22 with 1024; 47 instead of 85 with 4096.)
LEAST_ROWS_OF_BOTH = 2048
#: With more rows per block, Inductor's blocks take several at a time.
MOST_ROWS_A_BLOCK = 64
#: The narrowest and the widest rows whose variance is computed in two steps. Torch 2.13 does so for
#: these, but only if the variance itself is bf16 or fp16, which a norm's is not.
ROWS_IN_TWO_STEPS = 1024, 32768


@dataclass(frozen=True)
class OverlapKernels:
    """The rules for the kernels of one program (``_compat.kernels.KernelRules``).

    Attributes:
        block_rows: A function that returns the rows of a norm's gradients per thread block, given
            the number of all rows; ``None`` leaves that to Inductor.
    """

    block_rows: Callable[[int], int] | None = None

    def keeps_apart(self, origins: Iterable[fx.Node]) -> bool:
        """Return whether nodes belong to different slices, so that no kernel may compute both.

        Such a kernel would have to wait for the collectives of both. Whole work (joins) fuses with
        either slice.
        """
        return len({piece for node in origins if (piece := piece_of(node)) is not None}) > 1

    def applies_to(self, origins: Iterable[fx.Node]) -> bool:
        """Return whether nodes belong to a program that hides communication, and to one slice."""
        nodes = list(origins)
        return any(map(is_overlapped, nodes)) and not self.keeps_apart(nodes)

    def keeps_rows(self, width: int) -> bool:
        """Return whether a block keeps a row, padded to a power of two, and so reads it once.

        Args:
            width: The elements of a row.
        """
        if width > WIDEST_ROW:
            return False
        block = 1 << (width - 1).bit_length()
        return block <= -(-width // _piece(width)) * _piece(width)

    def piece(self, rows: int, width: int) -> tuple[int, int] | None:
        """Return the elements of a row that a thread block takes at a time, and its warps.

        ``None`` leaves that to Inductor.

        Args:
            rows: The number of rows; 0 if unknown.
            width: The elements of a row.
        """
        if rows < LEAST_ROWS or not PIECES_OF_A_ROW[0] < width <= WIDEST_IN_PIECES:
            return None
        piece = _piece(width)
        return piece, piece // (32 * ELEMENTS_A_THREAD)

    def reduces_both(self, rows: int) -> bool:
        """Return whether one kernel computes both of a norm's gradients.

        Args:
            rows: The number of rows; a rank has few of them with sequence parallelism.
        """
        return rows >= LEAST_ROWS_OF_BOTH

    def rows_a_block(self, rows: int, columns: int) -> int | None:
        """Return the rows per block of a norm's gradients; ``None`` leaves it to Inductor."""
        if self.block_rows is None or columns < NARROWEST_NORM:
            return None
        return self.block_rows(rows)

    def warps(self, columns: int, rows_a_block: int) -> int | None:
        """Return the warps per block of a norm's gradients; ``None`` leaves it to Inductor."""
        many = columns >= MANY_COLUMNS and rows_a_block < MOST_ROWS_A_BLOCK
        return WARPS_OF_MANY if many else None

    def varies_in_two_steps(self, rows: int, width: int) -> bool:
        """Return whether to compute variances in two steps, to avoid a division per element.

        With this many rows no kernel reduces parts of a row.
        """
        least, most = ROWS_IN_TWO_STEPS
        return least <= width <= most and rows >= LEAST_ROWS


def _piece(width: int) -> int:
    """Return the piece of a row that a block handles at a time, without padding if possible."""
    pieces = PIECES_OF_A_ROW if width <= WIDE_ROW else PIECES_OF_A_WIDE_ROW
    return next((piece for piece in pieces if not width % piece), PIECES_OF_A_ROW[0])
