"""The demo's configuration, shared by the parent and the ranks, without importing torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _demo_model import Shape

RANKS = 2
VARIANTS = ("inductor", "domino")  # backends of torch.compile, in the order in which they run
TRANSPORT_TIMEOUT_S = 600  # one rank may compile much longer than the other


@dataclass(frozen=True)
class Config:
    """One run of the demo.

    Attributes:
        steps: Measured steps of each variant.
        block: Steps of one variant before the other one takes its turn.
        warm_up: Steps before measuring, the first of which compiles.
        link: The name or file of the emulated link's table.
        slices: The same as domino's option.
        dumps: The folder for domino's dumps.
        seed: The seed of weights and batches.
        layers: of the model; so are ``dim`` (its width) and ``heads``.
        batch: rows of a batch; ``sequence`` is their length in bytes.
    """

    steps: int
    block: int
    warm_up: int
    link: str
    slices: int
    dumps: str
    seed: int
    layers: int
    dim: int
    heads: int
    batch: int
    sequence: int

    @property
    def shape(self) -> Shape:
        from _demo_model import Shape

        return Shape(self.layers, self.dim, self.heads, self.batch, self.sequence)

    def problem(self) -> str | None:
        """Return what is wrong with the numbers, in one line."""
        for name in ("steps", "block", "warm_up", "slices", "layers", "dim", "heads", "batch"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                return f"--{flag} must be at least 1, not {getattr(self, name)}"
        if self.sequence < 2:
            return f"--sequence must be at least 2, not {self.sequence}"
        if self.heads % RANKS:
            return f"--heads must be divisible by the {RANKS} ranks, not {self.heads}"
        if self.dim % self.heads:
            return f"--dim must be divisible by --heads: {self.dim} and {self.heads}"
        return None

    def domino_options(self) -> dict[str, object]:
        """Return the options of ``torch.compile(model, backend="domino", options=...)``."""
        return {"slices": self.slices, "link": self.link, "dump_dir": self.dumps}

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Config:
        return Config(**data)
