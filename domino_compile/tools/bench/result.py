"""The result of a benchmark as plain data and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from domino_compile.tools.bench.gradients import MOST_RATIO
from domino_compile.tools.bench.kernels import Account

#: To be increased whenever a field of the JSON is renamed, removed or changes its meaning.
SCHEMA_VERSION = 2


@dataclass
class VariantResult:
    """The numbers of one variant; ``None`` means not measured.

    Attributes:
        variant: The name on the command line.
        slices: The number of slices; 1 if rows were not cut.
        columns: The number of column parts; 1 if columns were not cut.
        status: The outcome of the compile (``sliced``, ``reordered``, ``inductor``), or ``failed``.
        error: One line, if it failed.
        note: One line, if its CUDA graphs differ from the other variants' (GPU).
        step_ms: The slowest rank's median step time over the rounds.
        spread_ms: The middle half of the rounds: lower and upper quartile.
        ratio_to_inductor: ``step_ms`` divided by Inductor's; below 1 is faster.
        speedup: Inductor's step time divided by ``step_ms``.
        fraction_of_free: The step time of Inductor with free communication, divided by ``step_ms``.
        fraction_of_bound: The bound divided by ``step_ms``. The bound is the longer of the step of
            Inductor with free communication and the uncut program's time on the wire.
        wire_ms: Time with collectives in flight.
        exposed_ms: The share of ``wire_ms`` during which nothing was computed.
        hidden_fraction: ``1 - exposed_ms / wire_ms``.
        compute_ms: Time during which something was computed.
        inflation: ``compute_ms`` divided by that of Inductor with free communication.
        parts_ms: Kernel time by kind (GPU).
        kernels: The number of kernels per step, without collectives (GPU).
        host_ms: The host's time to issue a step with nothing else queued (GPU).
        peak_mib: The peak memory during a step (GPU).
        predicted_peak_mib: The plan's estimate of ``peak_mib`` (this package's variants).
        compile_s: The time of the first step, including compilation.
        grad_error: The largest relative difference of a parameter's gradient from Inductor's; for
            a forward pass, that of the output.
        grad_error_float64: The same from float64, without dropout; ``None`` unless requested.
        grad_error_ratio: The largest ratio of a gradient's error to Inductor's, both against
            float64; see ``gradients``.
        grad_worst: The parameter with that ratio, as named on the first rank.
        grad_passes: Whether that ratio is at most ``gradients.MOST_RATIO``.
    """

    variant: str
    slices: int = 1
    columns: int = 1
    status: str = ""
    error: str = ""
    note: str = ""
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
        """Record the error against float64, and its ratio to Inductor's."""
        self.grad_error_float64, self.grad_error_ratio = error, ratio
        self.grad_worst, self.grad_passes = name, ratio <= MOST_RATIO

    def take(self, account: Account) -> None:
        """Record the numbers of a kernel trace."""
        self.wire_ms, self.exposed_ms = account.wire_ms, account.exposed_ms
        self.compute_ms, self.parts_ms = account.compute_ms, account.parts_ms
        self.kernels = account.kernels


@dataclass
class BenchResult:
    """A benchmark: its settings, where it ran, and the variants.

    Attributes:
        link: The link table, or the backend of the real group.
        emulated: Whether the link is emulated.
        device: The device's name as reported by torch.
        wire_ctas: The thread blocks that a collective occupied (GPU), as emulated, or the most in a
            trace of real collectives.
        high_priority: Whether collectives ran on high-priority streams (GPU).
        rounds: The number of measured rounds, each with ``steps`` steps of every variant.
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
        """Return the result of a variant, if it was measured."""
        return next((v for v in self.variants if v.variant == variant and v.step_ms), None)

    def compare(self) -> None:
        """Fill in the numbers that relate variants to each other."""
        base, free = self.by_name("inductor"), self.by_name("free")
        wire = base.wire_ms if base is not None and base.wire_ms is not None else 0.0
        for result in self.variants:
            if result.step_ms is None:
                continue
            if base is not None and base.step_ms is not None:
                result.ratio_to_inductor = result.step_ms / base.step_ms
                result.speedup = base.step_ms / result.step_ms
            if free is not None and free.step_ms is not None:
                result.fraction_of_free = free.step_ms / result.step_ms
                result.fraction_of_bound = max(free.step_ms, wire) / result.step_ms
                if result.compute_ms and free.compute_ms:
                    result.inflation = result.compute_ms / free.compute_ms
            if result.wire_ms and result.exposed_ms is not None:
                result.hidden_fraction = max(0.0, 1 - result.exposed_ms / result.wire_ms)

    def rounded(self) -> dict[str, Any]:
        """Return plain data, rounded to four decimals (small numbers to four digits)."""
        plain: dict[str, Any] = _rounded(asdict(self))
        return plain

    def to_json(self) -> str:
        """Return ``rounded`` as indented JSON."""
        return json.dumps(self.rounded(), indent=1) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 1e-2 else round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(member) for member in value]
    return value
