"""The jobs of ``benchmarks.jobs``: models that people train and serve with TP in 2026.

This module does not import torch: the process that only distributes work does not load it.

The memory that each needs on an H200 is estimated (``--list``), for three programs in one process:

=================  =========================================================================
parameters         each program's parameters, and the same again for the gradients of a step
activations        one program's activations, because CUDA graphs of one process share their
                   memory. In units of ``tokens * hidden * 2`` bytes: those that a block keeps
                   for backward, and a dozen for temporaries
float64            during its turn to measure: parameters and gradients, the activations of one
                   block for one row of the batch, and the scores of a head
=================  =========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.grid_cells import CONTEXT_GIB, Cell

#: The emulated link; each job scales it to its own group.
LINK = "h200-nvlink-8"
#: The fraction of communication-free Inductor's speed to reach if a job names no goal.
OF_FREE = 0.88
#: The memory of CUDA graphs divided by the live memory in it.
POOL = 1.4
#: Operations per second of a mixed workload on one H200, in bf16 and float64 (estimates: the
#: bf16 number is that of communication-free gpt3-6.7b in ``results/targets.json``).
FLOPS, FLOPS64 = 5.5e14, 4e13
GIB = 2**30
#: The programs of a job in ``benchmarks.rivals`` that have parameters of their own.
RIVAL_PROGRAMS = 6


@dataclass(frozen=True)
class JobCell(Cell):
    """One job in one size.

    Attributes:
        job: its name.
        ac: activation checkpointing, as in ``domino bench``.
        granularity: the unit that is compiled as one program, as in ``domino bench``.
        to_reach: the goal as a fraction of communication-free Inductor's speed.
        faster: the goal as a fraction of Inductor's speed; 0 if there is none.
        programs: the number of programs in its process.
    """

    job: str = ""
    ac: str = "none"
    granularity: str = "whole"
    to_reach: float = OF_FREE
    faster: float = 0.0
    programs: int = 3

    def __str__(self) -> str:
        return (
            f"#{self.number} {self.job}: {self.model}, {self.layers} layers, {self.style} "
            f"tp{self.tp}, {self.batch}x{self.seq}, ac {self.ac}, {self.granularity}, {self.dtype}"
            + ("" if self.training else ", forward")
        )

    @property
    def parameters(self) -> float:
        """The number of parameters on this rank."""
        shape = self.shape
        attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
        feed_forward = (2 if shape.kind == "gpt" else 3) * shape.hidden * shape.ffn
        return self.layers * (attention + feed_forward) / self.tp

    @property
    def live_gib(self) -> float:
        """The approximate live memory."""
        shape, whole = self.shape, 1 / self.tp if self.divides_tokens else 1.0
        inner = (2 * shape.heads * shape.head_dim + 3 * shape.ffn) / shape.hidden / self.tp
        block = 4 * whole + 2 + inner
        kept = {"none": self.layers * block, "selective": 0.6 * self.layers * block + block}
        kept["full"] = self.layers * whole + block
        units = 12 + (kept[self.ac] if self.training else 0)
        activations = units * self.batch * self.seq * shape.hidden * 2
        programs = self.programs * (2 if self.training else 1) * self.parameters * 2
        return (programs + POOL * activations) / GIB

    @property
    def process_gib(self) -> float:
        """The approximate GPU memory of its process."""
        return CONTEXT_GIB + self.live_gib

    @property
    def judge_gib(self) -> float:
        """The approximate additional memory of the float64 reference."""
        row = self.seq * self.shape.hidden * 8
        activations = (10 if self.divides_tokens else 20) * row
        scores = 5 * self.seq**2 * 8
        return (16 * self.parameters + activations + scores) / GIB

    @property
    def is_float8(self) -> bool:
        """Whether its products are in float8."""
        return self.dtype.startswith("fp8")

    @property
    def divides_tokens(self) -> bool:
        """Whether it is sequence parallel."""
        return self.style in ("sp", "megatron-sp")

    @property
    def flops(self) -> float:
        """The floating-point operations of a step on this rank."""
        again = {"none": 0.0, "selective": 0.5, "full": 1.0}[self.ac]
        passes = 3.0 + again if self.training else 1.0
        shape, tokens = self.shape, self.batch * self.seq
        attention = 2 * tokens * self.seq * shape.heads * shape.head_dim / self.tp * self.layers
        return passes * (2 * tokens * self.parameters + 1.15 * attention)

    @property
    def step_ms(self) -> float:
        """The approximate compute time of a step."""
        return self.flops / FLOPS * 1e3

    @property
    def judge_s(self) -> float:
        """The approximate time of the float64 reference."""
        return 1.5 * self.flops / FLOPS64


def jobs() -> list[JobCell]:
    """Return all jobs, those with a goal in the issue tracker first."""
    found = [*_goals(), *_hugging_face(), *_titan(), *_megatron(), *_prefill(), *_paper()]
    found += _float8()
    return [replace(cell, number=number) for number, cell in enumerate(found)]


def _cell(job: str, model: str, layers: int, batch: int, seq: int, tp: int, style: str) -> JobCell:
    return JobCell(0, model, layers, batch, seq, tp, LINK, style, True, job=job)


def _goals() -> list[JobCell]:
    """Return Llama 3 8B on eight ranks, with a goal for each size of a step."""
    sizes = (
        # batch, seq, ac, granularity, of free
        (4, 2048, "none", "whole", 0.91),
        (4, 2048, "none", "block", 0.87),
        (2, 8192, "none", "whole", 0.93),
        (1, 8192, "none", "whole", 0.88),
        (1, 8192, "full", "whole", 0.88),
        (2, 8192, "full", "whole", 0.89),
        (4, 2048, "full", "block", 0.86),
    )
    found = [
        replace(
            _cell("sp-8b", "llama3-8b", 4, batch, seq, 8, "sp"),
            ac=ac,
            granularity=granularity,
            to_reach=of_free,
        )
        for batch, seq, ac, granularity, of_free in sizes
    ]
    return [*found, replace(_cell("ar-8b", "llama3-8b", 4, 8, 2048, 8, "dtensor"), ac="full")]


def _hugging_face() -> list[JobCell]:
    """Return jobs with the ``tp_plan`` of transformers: DTensor, all-reduce."""
    return [
        replace(
            _cell("hf-8b", "llama3-8b", 4, batch, seq, tp, "dtensor"),
            ac=ac,
            to_reach=0.90 if (tp, batch, ac) == (8, 1, "none") else OF_FREE,
        )
        for tp in (8, 4)
        for batch, seq in ((4, 2048), (1, 8192))
        for ac in ("none", "full")
    ]


def _titan() -> list[JobCell]:
    """Return torchtitan's registered llama3 jobs, and its benchmark of asynchronous TP."""
    small = [_cell("titan-8b", "llama3-8b", 4, 1, 8192, tp, "sp") for tp in (2, 4)]
    large = [_cell("titan-70b", "llama3-70b", 2, batch, 8192, 8, "sp") for batch in (2, 8)]
    found = [
        replace(cell, ac=ac, granularity=granularity)
        for cells, ac in ((small, "selective"), (large, "full"))
        for cell in cells
        for granularity in ("whole", "block")
    ]
    return [*found, replace(_cell("titan-405b", "llama3-405b", 2, 2, 8192, 8, "sp"), ac="full")]


def _megatron() -> list[JobCell]:
    """Return Megatron-Bridge's H100 recipe, where two ranks share 8192 tokens, and fine-tuning."""
    return [
        _cell("bridge-70b", "llama3-70b", 2, 1, 4096, 4, "megatron-sp"),
        replace(_cell("sft-70b", "llama3-70b", 2, 1, 4096, 4, "megatron-sp"), ac="selective"),
    ]


def _prefill() -> list[JobCell]:
    """Return forward-only jobs, as vLLM runs them (#44677, #39505)."""
    return [
        replace(_cell(job, model, 4, batch, seq, tp, "megatron"), training=False)
        for job, model, batch, seq, tp in (
            ("prefill-32b", "qwen3-32b", 4, 4096, 4),
            ("prefill-70b", "llama3-70b", 1, 8192, 8),
        )
    ]


def _float8() -> list[JobCell]:
    """Return training in float8, where collectives take as long and products half the time."""
    cells = [
        replace(
            _cell(f"fp8-{model.removeprefix('llama3-')}", model, layers, batch, 8192, 8, "sp"),
            ac=ac,
            dtype="fp8-rowwise",
            to_reach=0.83,
            faster=1.30 if batch == 2 else 0.99,
        )
        for model, layers in (("llama3-8b", 4), ("llama3-70b", 2), ("llama3-405b", 2))
        for batch in (2, 1)
        for ac in ("none", "full")
    ]
    scaled_whole = [
        replace(cell, dtype="fp8-tensorwise", faster=0.99) for cell in cells if cell.batch == 2
    ]
    return [*cells, *scaled_whole]


def _paper() -> list[JobCell]:
    """Return the paper's models, whose earlier results must not get worse."""
    return [
        replace(
            _cell("paper", model, 4, 8, 1024, 8, "megatron"), training=training, to_reach=of_free
        )
        for model, training, of_free in (
            ("gpt3-6.7b", True, 0.90),
            ("llama2-7b", True, 0.95),
            ("gpt3-13b", True, 0.97),
            ("gpt3-6.7b", False, 0.80),
        )
    ]


def real_jobs(ranks: int) -> list[JobCell]:
    """Return the jobs of ``benchmarks.rivals``, on real links (``link`` is empty).

    Args:
        ranks: the number of ranks.
    """
    kinds = (
        # style, batch, seq, ac, granularity, faster than Inductor
        ("sp", 4, 2048, "none", "whole", 1.08),
        ("sp", 4, 2048, "none", "block", 0.99),
        ("sp", 1, 8192, "none", "whole", 1.06),
        ("sp", 1, 8192, "full", "whole", 0.99),
        ("dtensor", 4, 2048, "none", "whole", 1.12),
        ("dtensor", 1, 8192, "none", "whole", 0.99),
    )
    return [
        replace(
            _cell(
                f"{'sp' if style == 'sp' else 'ar'}-8b", "llama3-8b", 4, batch, seq, ranks, style
            ),
            number=number,
            link="",
            ac=ac,
            granularity=granularity,
            faster=faster,
            programs=RIVAL_PROGRAMS,
        )
        for number, (style, batch, seq, ac, granularity, faster) in enumerate(kinds)
    ]


def dry_real_jobs(ranks: int) -> list[JobCell]:
    """Return small jobs for a dry run on real gloo ranks."""
    small = {"model": "tiny-llama", "layers": 1, "seq": 64, "dtype": "fp32", "job": "dry"}
    chosen = [real_jobs(ranks)[number] for number in (0, 1, 4)]
    return [replace(cell, **small) for cell in chosen]  # type: ignore[arg-type]


def dry_jobs() -> list[JobCell]:
    """Return small jobs of every style, granularity and kind of checkpointing, for the CPU."""
    # torch 2.13.0 cannot compile checkpointed attention with DTensor with any backend.
    kinds = (
        ("sp", "none", "whole", True),
        ("dtensor", "none", "block", True),
        ("megatron-sp", "full", "block", True),
        ("megatron-sp", "selective", "whole", True),
        ("megatron", "none", "whole", False),
    )
    return [
        replace(
            JobCell(number, "tiny-llama", 1, 2, 32, 2, "demo-2", style, training, job="dry"),
            ac=ac,
            granularity=granularity,
        )
        for number, (style, ac, granularity, training) in enumerate(kinds)
    ]
