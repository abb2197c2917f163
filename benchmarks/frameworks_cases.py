"""The combinations of frameworks that ``benchmarks.frameworks`` measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One combination of a framework and what it is used with.

    Attributes:
        name: the name of the example, or of a function in ``module``.
        framework: the framework's name for users.
        packages: the packages besides torch whose versions belong to the result.
        style: the style of tensor parallelism.
        checkpointing: which activations are checkpointed.
        data: the data parallelism around it.
        pipeline: the pipeline schedule.
        ranks: the number of ranks.
        module: the module of this folder that has the program, if it is not an example.
        torch: the oldest torch on which the program runs, whatever the backend.
    """

    name: str
    framework: str
    packages: tuple[str, ...] = ()
    style: str = "DTensor"
    checkpointing: str = ""
    data: str = ""
    pipeline: str = ""
    ranks: int = 2
    module: str = ""
    torch: str = ""

    def described(self) -> str:
        """Return the combination in words."""
        checkpointed = f"{self.checkpointing} checkpointed" if self.checkpointing else ""
        with_it = ", ".join(filter(None, (self.style, checkpointed, self.data, self.pipeline)))
        return f"{self.framework} ({with_it})"


HF, ACCELERATE = ("transformers",), ("transformers", "accelerate")
MEGATRON = ("megatron_core",)
TITAN, SEQUENCE = ("torchtitan",), "DTensor, sequence"
TRIED, TITANS = "frameworks_attempts", "frameworks_titan"
#: torch 2.13 cannot compile checkpointed attention of DTensors, nor mix them with plain tensors.
NEWER = "2.14"
CASES = (
    Case("torchtitan_llama", "torchtitan", TITAN, SEQUENCE),
    Case("titan_all_reduce", "torchtitan", TITAN, module=TITANS),
    Case("titan_fsdp", "torchtitan", TITAN, SEQUENCE, data="FSDP2", ranks=4, module=TITANS),
    Case("titan_checkpointing", "torchtitan", TITAN, SEQUENCE, "full", module=TITANS, torch=NEWER),
    Case("titan_selective", "torchtitan", TITAN, SEQUENCE, "selective", module=TITANS, torch=NEWER),
    Case(
        "titan_fsdp_selective",
        "torchtitan",
        TITAN,
        SEQUENCE,
        "selective",
        data="FSDP2",
        ranks=4,
        module=TITANS,
        torch=NEWER,
    ),
    Case(
        "titan_pipeline",
        "torchtitan",
        TITAN,
        SEQUENCE,
        pipeline="1F1B",
        ranks=4,
        module=TITANS,
    ),
    Case("titan_flex", "torchtitan, FlexAttention", TITAN, SEQUENCE, module=TITANS),
    Case("titan_whole", "torchtitan, whole model", TITAN, SEQUENCE, module=TITANS),
    Case("titan_spmd_types", "torchtitan", TITAN, "`spmd_types`", module=TITANS, torch=NEWER),
    Case("megatron_core", "Megatron-core", MEGATRON, "Megatron, sequence"),
    Case("megatron_all_reduce", "Megatron-core", MEGATRON, "Megatron", module=TRIED),
    Case("deepspeed_autotp", "DeepSpeed AutoTP", ("deepspeed",), "Megatron"),
    Case("hf_tensor_parallel", "transformers, `tp_plan`", HF),
    Case(
        "hf_checkpointing",
        "transformers, `tp_plan`",
        HF,
        checkpointing="full",
        module=TRIED,
        torch=NEWER,
    ),
    Case("hf_trainer", "Trainer, `torch_compile=True`", ACCELERATE),
    Case("hf_accelerate", "accelerate, `dynamo_backend`", ACCELERATE),
    Case("hf_generate", "transformers, `generate`, static cache", HF),
    Case("hf_lora", "PEFT, LoRA on column-parallel layers", ("transformers", "peft")),
    Case(
        "hf_lora_rows",
        "PEFT, LoRA on row-parallel layers",
        ("transformers", "peft"),
        module=TRIED,
    ),
    Case("hf_experts", "transformers, experts, `all_reduce`", HF, style="DTensor and experts"),
    Case(
        "hf_experts_exchanged",
        "transformers, experts, `all_to_all`",
        HF,
        "DTensor and experts",
        module=TRIED,
    ),
    Case("lightning_fabric", "Lightning Fabric", ("lightning",), data="FSDP2", ranks=4),
    Case("pipeline", "torch pipelining", pipeline="GPipe and 1F1B", ranks=4),
    Case("fsdp_tp", "torch FSDP2", data="FSDP2", ranks=4),
    Case("ddp_tp", "torch DDP", style="Megatron", data="DDP", ranks=4),
    Case("ddp_dtensor", "torch DDP", data="DDP", ranks=4, module=TRIED),
    Case("context_parallel", "context parallel, keys gathered", style="all-gather of keys"),
)
