"""How the cut axis is divided into chunks."""

from __future__ import annotations

from dataclasses import dataclass

import sympy

from domino_compile.axes.sizes import Size, quotient, to_size


@dataclass(frozen=True)
class Chunks:
    """The extents of the slices of an axis of extent ``total``.

    Chunks are as even as whole numbers allow, with the larger ones first (5 = 3 + 2). If the
    extent is dynamic, chunk ``i`` is the symbol ``chunk_i``. It stands for
    ``(total + parts - 1 - i) // parts``, an expression that torch can bound from below.

    Attributes:
        total: The extent of the axis.
        sizes: The extent of each chunk.
    """

    total: Size
    sizes: tuple[Size, ...]

    @staticmethod
    def even(total: Size, parts: int, multiple: int = 1) -> Chunks:
        """Cut ``total`` into ``parts`` chunks of nearly equal extent.

        Args:
            total: The extent to cut.
            parts: The number of chunks.
            multiple: The number that must divide each chunk's extent; 1 if ``total`` is dynamic.

        Raises:
            ValueError: There are more parts than multiples, or ``total`` is not a multiple.
        """
        if isinstance(total, int):
            units, rest = divmod(total, multiple)
            if rest or not 1 <= parts <= units:
                raise ValueError(f"cannot cut an extent of {total} into {parts} non-empty chunks")
            low, more = divmod(units, parts)
            return Chunks(total, tuple(multiple * (low + (i < more)) for i in range(parts)))
        names = (f"chunk_{i}" for i in range(parts))
        return Chunks(
            total, tuple(sympy.Symbol(name, integer=True, positive=True) for name in names)
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def dynamic(self) -> bool:
        """Whether the extent is known only when the program runs."""
        return not isinstance(self.total, int)

    def start(self, index: int) -> Size:
        """Return the first row of chunk ``index``."""
        first: Size = 0
        for size in self.sizes[:index]:
            first = first + size
        return first

    def part_of(self, extent: Size, index: int) -> Size:
        """Return the part of ``extent = outer * total * inner`` that belongs to chunk ``index``."""
        return self._scale(extent, self.sizes[index])

    def start_in(self, extent: Size, index: int) -> Size:
        """Return where chunk ``index`` begins in ``extent = total * inner``."""
        return self._scale(extent, self.start(index))

    def _scale(self, extent: Size, rows: Size) -> Size:
        factor = quotient(extent, self.total)
        if factor is None:
            raise ValueError(f"{self.total} does not divide {extent}")
        if isinstance(factor, int) and isinstance(rows, int):
            return factor * rows
        return to_size(sympy.expand(factor * rows))
