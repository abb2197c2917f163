"""Hugging Face Trainer: `torch_compile=True` means Inductor, and the switch turns it into domino.

    torchrun --nproc-per-node 2 examples/hf_trainer.py             (2 or 4 ranks)
    python examples/hf_trainer.py                                  (starts 2 ranks itself)

Instead of calling `domino_compile.enable(...)` you can run

    torchrun --nproc-per-node 2 -m domino_compile run --slices 2 train.py

It needs `pip install transformers accelerate`.
"""

import tempfile
from typing import Any

from _hf import SIZES, accelerate_sees_one_rank, small_llama
from _launch import compare, run, tokens
from hf_tensor_parallel import load
from transformers import Trainer, TrainerCallback, TrainingArguments

import domino_compile


class Losses(TrainerCallback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_log(self, arguments, state, control, logs=None, **_):  # type: ignore[no-untyped-def]
        if "loss" in logs:
            self.found.append(logs["loss"])


class OnCPU(Trainer):
    """Does not tell accelerate of tensor parallelism (`accelerate_sees_one_rank` says why)."""

    def _build_accelerator_args(self, **arguments: Any) -> dict[str, Any]:
        found = super()._build_accelerator_args(**arguments)
        del found["parallelism_config"]
        return found


def train(folder: str, world: int, *, compiled: bool) -> list[float]:
    texts = [text for text, _ in tokens(3, (4, 8), SIZES["vocab_size"])]
    rows = [{"input_ids": row, "labels": row} for text in texts for row in text]
    losses = Losses()
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            use_cpu=True,
            per_device_train_batch_size=4,
            max_steps=3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            torch_compile=compiled,
        )
        trainer = OnCPU(load(folder, world), arguments, train_dataset=rows, callbacks=[losses])
        trainer.train()
    return losses.found


def main(rank: int, world: int) -> None:
    folder = small_llama()
    with accelerate_sees_one_rank():
        uncut = train(folder, world, compiled=False)
    with accelerate_sees_one_rank(), domino_compile.enable(slices=2):
        compare(uncut, train(folder, world, compiled=True))


if __name__ == "__main__":
    run(main)
