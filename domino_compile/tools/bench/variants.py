"""The programs that ``domino bench`` compares, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from domino_compile import _compat
from domino_compile._compat.groups import enable_symmetric_memory
from domino_compile.backend import domino
from domino_compile.errors import did_you_mean
from domino_compile.tools.bench.shapes import BenchError

#: Inductor's own options for overlap. The first schedules collectives in the graph; the second
#: swaps neighbours in the scheduler and is on by default in the torch versions that have it; the
#: third (asynchronous TP) divides products and moves their parts through symmetric memory.
RIVALS: dict[str, str] = {
    "inductor-overlap": "aten_distributed_optimizations.enable_overlap_scheduling",
    "inductor-simple-overlap": "aten_distributed_optimizations.enable_simple_overlap",
    "inductor-async-tp": "_micro_pipeline_tp",
}
#: This package, which times its plan against the uncut program in the first steps.
MEASURED = "domino-measured"
#: This package, whose hidden collectives travel by copy engines.
WIRE = "domino-wire"
NAMES = ("inductor", *RIVALS, "domino", MEASURED, WIRE, "free", "domino-free")
#: A backend that does the same as Inductor, but generates no kernels.
WITHOUT_KERNELS = "aot_eager_decomp_partition"


@dataclass(frozen=True)
class Variant:
    """One way to compile the step.

    Attributes:
        name: ``inductor`` is Inductor alone, and ``domino`` this package. The names in ``RIVALS``
            are Inductor with one of its own options for overlap, ``domino-measured`` is this
            package with ``guard="measure"``, and ``domino-wire`` with ``transport="symmetric"``.
            ``free`` and ``domino-free`` are Inductor and this package with collectives that take
            no time.
        slices: The number of slices for ``domino``; ``None`` lets the package choose.
        columns: The number of column parts for ``domino``; ``None`` lets the package choose.
    """

    name: str
    slices: int | None = None
    columns: int | None = None

    @property
    def label(self) -> str:
        """Return the name as the user writes it."""
        if self.slices is None:
            return self.name
        columns = "" if self.columns is None else f"x{self.columns}"
        return f"{self.name}:{self.slices}{columns}"

    @property
    def free(self) -> bool:
        """Return whether its collectives take no time."""
        return self.name in ("free", "domino-free")

    @property
    def domino(self) -> bool:
        """Return whether this package compiles it."""
        return self.name.startswith("domino")

    @property
    def measures(self) -> bool:
        """Return whether its first steps decide which program it keeps."""
        return self.name == MEASURED

    @property
    def recordings(self) -> tuple[bool, ...]:
        """Return how to record its CUDA graphs on real links, best first: as a whole or not.

        Inductor records one graph of each compiled program. A step can also be recorded as a whole,
        which is to its advantage.
        """
        return {"free": (True,), "inductor-async-tp": (False, True)}.get(self.name, (False,))

    def missing(self) -> str:
        """Return why this torch cannot compile it; empty if it can."""
        option = RIVALS.get(self.name, "")
        if option and not _compat.inductor_has_option(option):
            return f"torch {torch.__version__} has no {option}"
        return ""

    def prepare(self, group: dist.ProcessGroup, nbytes: int = 0) -> None:
        """Give the group what the program needs, before it is compiled.

        Args:
            group: The group of the program's collectives.
            nbytes: The most bytes that a collective gathers or scatters.

        Raises:
            BenchError: This torch cannot compile the variant.
        """
        if problem := self.missing():
            raise BenchError(f"--variants: {self.name}: {problem}")
        if self.name == "inductor-async-tp":
            enable_symmetric_memory(group, nbytes)

    def compile(
        self,
        model: Callable[..., Any],
        cuda_graphs: bool = False,
        link: str | None = None,
        kernels: bool = True,
    ) -> Callable[..., Any]:
        """Call ``torch.compile`` with the variant's settings.

        Args:
            model: The model to compile.
            cuda_graphs: Whether Inductor records CUDA graphs.
            link: The link table that this package plans with; ``None`` uses the default.
            kernels: Whether Inductor generates kernels; otherwise operators run one by one (a dry
                run).
        """
        settings: dict[str, Any] = {"triton.cudagraphs": True} if cuda_graphs else {}
        if not self.domino:
            if not kernels:
                return torch.compile(model, backend=WITHOUT_KERNELS)
            if self.name in RIVALS:
                settings[RIVALS[self.name]] = True
            return torch.compile(model, backend="inductor", options=settings)
        options: dict[str, Any] = {"inductor": settings}
        if not kernels:
            options["lowering"] = "eager"
        if link is not None:
            options["link"] = link
        if self.measures:
            options["guard"] = "measure"
        if self.name == WIRE:
            options["transport"] = "symmetric"
        chosen = {"slices": self.slices, "columns": self.columns}
        options |= {name: parts for name, parts in chosen.items() if parts is not None}
        return torch.compile(model, backend=domino, options=options)


def parse_variant(text: str) -> Variant:
    """Parse ``name``, ``domino:slices`` or ``domino:slicesxcolumns``.

    Raises:
        BenchError: The name is unknown, or a count is not a number of at least 1.
    """
    name, colon, slices = text.strip().partition(":")
    if name not in NAMES:
        hint = did_you_mean(name, NAMES)
        raise BenchError(f"--variants: unknown {name!r}{hint}; known: {', '.join(NAMES)}")
    if not colon:
        return Variant(name)
    counts = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", slices)
    if not name.startswith("domino") or counts is None:
        raise BenchError(
            f"--variants: {text!r}: only domino takes a number of slices, such as domino:3, "
            "or numbers of slices and columns, such as domino:1x2"
        )
    return Variant(name, int(counts[1]), int(counts[2]) if counts[2] else None)


def parse_variants(text: str) -> list[Variant]:
    """Parse a comma-separated list of variants, and put ``inductor`` first as the baseline.

    Raises:
        BenchError: A variant is unknown.
    """
    chosen = [parse_variant(part) for part in text.split(",") if part.strip()]
    first = Variant("inductor")
    return [first, *dict.fromkeys(v for v in chosen if v != first)]
