"""What a benchmark found. Plain data, and the JSON that is written of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from domino_compile.tools.bench.gradients import MOST_RATIO
from domino_compile.tools.bench.kernels import Account

#: Raised whenever a field of the JSON is renamed, removed or changes its meaning.
SCHEMA_VERSION = 2


@dataclass
class VariantResult:
    """One variant's numbers. ``None``: not measured there.

    Attributes:
        variant: as on the command line.
        slices: rows that the program was cut into; 1 if they were not cut.
        columns: parts that products were cut into by columns; 1 if they were not cut.
        status: what the compile did (``sliced``, ``reordered``, ``inductor``), or ``failed``.
        error: one line, if it failed.
        step_ms: median over the rounds, of the slowest rank.
        spread_ms: the middle half of the rounds: lower and upper quartile.
        ratio_to_inductor: ``step_ms`` over Inductor's: below 1 is faster.
        speedup: Inductor's over ``step_ms``.
        fraction_of_free: communication-free Inductor's step over ``step_ms``.
        fraction_of_bound: the bound over ``step_ms``; the bound is the longer of
            communication-free Inductor's step and the uncut program's time on the wire.
        wire_ms: collectives in flight.
        exposed_ms: of that, while nothing was computed.
        hidden_fraction: ``1 - exposed_ms / wire_ms``.
        compute_ms: something was computed.
        inflation: ``compute_ms`` over communication-free Inductor's.
        parts_ms: kernel time by kind (GPU).
        kernels: number of kernels a step, collectives left out (GPU).
        host_ms: the host's time to issue a step, nothing else being queued (GPU).
        peak_mib: most memory during a step (GPU).
        predicted_peak_mib: the plan's estimate of that (this package's variants).
        compile_s: first step, compiling included.
        grad_error: the largest relative difference of a parameter's gradient from Inductor's; of a
            forward pass, that of the output.
        grad_error_float64: likewise from float64, without dropout; None unless asked for.
        grad_error_ratio: the largest ratio of the error of a parameter's gradient to that of
            Inductor's, both against float64, see ``gradients``.
        grad_worst: the parameter of that ratio, as named on the first rank.
        grad_passes: whether that ratio is at most ``gradients.MOST_RATIO``.
    """

    variant: str
    slices: int = 1
    columns: int = 1
    status: str = ""
    error: str = ""
    step_ms: float | None = None
    spread_ms: tuple[float, float] | None = None
    ratio_to_inductor: float | None = None
    speedup: float | None = None
    fraction_of_free: float | None = None
    fraction_of_bound: float | None = None
    wire_ms: float | None = None
    exposed_ms: float | None = None
    hidden_fraction: float | None = None
    compute_ms: float | None = None
    inflation: float | None = None
    parts_ms: dict[str, float] = field(default_factory=dict)
    kernels: int | None = None
    host_ms: float | None = None
    peak_mib: float | None = None
    predicted_peak_mib: float | None = None
    compile_s: float | None = None
    grad_error: float | None = None
    grad_error_float64: float | None = None
    grad_error_ratio: float | None = None
    grad_worst: str = ""
    grad_passes: bool | None = None

    def judge(self, error: float, ratio: float, name: str) -> None:
        """Say how far the results are from float64, and from Inductor's distance to it."""
        self.grad_error_float64, self.grad_error_ratio = error, ratio
        self.grad_worst, self.grad_passes = name, ratio <= MOST_RATIO

    def take(self, account: Account) -> None:
        """The numbers of a kernel trace."""
        self.wire_ms, self.exposed_ms = account.wire_ms, account.exposed_ms
        self.compute_ms, self.parts_ms = account.compute_ms, account.parts_ms
        self.kernels = account.kernels


@dataclass
class BenchResult:
    """A benchmark: what was asked, where it ran, and the variants.

    Attributes:
        link: the link table, or the backend of the real group.
        emulated: whether the link is emulated.
        device: its name as torch reports it.
        wire_ctas: thread blocks that a collective held (GPU): as emulated, or the most in a
            trace of the real ones.
        high_priority: whether collectives ran on streams of high priority (GPU).
        rounds: measured rounds, in each of which every variant runs ``steps`` steps.
    """

    model: str
    layers: int
    batch: int
    seq: int
    tp: int
    style: str
    training: bool
    head: bool
    dropout: float
    dtype: str
    link: str
    emulated: bool
    cuda_graphs: bool
    device: str
    torch: str
    command: str
    rounds: int
    steps: int
    ac: str = "none"
    granularity: str = "whole"
    wire_ctas: int | None = None
    high_priority: bool = False
    schema: int = SCHEMA_VERSION
    variants: list[VariantResult] = field(default_factory=list)

    def by_name(self, variant: str) -> VariantResult | None:
        """The result of a variant that was measured."""
        return next((v for v in self.variants if v.variant == variant and v.step_ms), None)

    def compare(self) -> None:
        """Fill in what relates variants to each other."""
        base, free = self.by_name("inductor"), self.by_name("free")
        wire = base.wire_ms if base is not None and base.wire_ms is not None else 0.0
        for found in self.variants:
            if found.step_ms is None:
                continue
            if base is not None and base.step_ms is not None:
                found.ratio_to_inductor = found.step_ms / base.step_ms
                found.speedup = base.step_ms / found.step_ms
            if free is not None and free.step_ms is not None:
                found.fraction_of_free = free.step_ms / found.step_ms
                found.fraction_of_bound = max(free.step_ms, wire) / found.step_ms
                if found.compute_ms and free.compute_ms:
                    found.inflation = found.compute_ms / free.compute_ms
            if found.wire_ms and found.exposed_ms is not None:
                found.hidden_fraction = max(0.0, 1 - found.exposed_ms / found.wire_ms)

    def rounded(self) -> dict[str, Any]:
        """As plain types, numbers rounded to four digits behind the point (small ones, in all)."""
        found: dict[str, Any] = _rounded(asdict(self))
        return found

    def to_json(self) -> str:
        """``rounded`` as indented JSON."""
        return json.dumps(self.rounded(), indent=1) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 1e-2 else round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(member) for member in value]
    return value
