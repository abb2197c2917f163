"""How long our passes take, against the whole compile, by the number of layers.

Usage: ``python -m benchmarks.compile_time [--layers 8 16 32 64] [--device cpu] [--json FILE]``.

A GPT of Megatron-style blocks on a lone rank of a two-rank group; forward and backward are compiled
with Inductor, caches off. Prints one line a depth.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch

import domino_compile
from domino_compile.pipeline import seconds_in_passes
from tests.emitted.harness import SEQ, VOCAB, Model, fake_world


def measure(layers: int, device: str, lowering: str) -> dict[str, float]:
    """Compile one training step; returns seconds in all and in our passes."""
    torch._dynamo.reset()
    domino_compile.reset_reports()
    model = Model(layers, dropout=0.1).to(device)
    tokens = torch.randint(0, VOCAB, (4, SEQ), device=device)
    before, began = seconds_in_passes(), time.perf_counter()
    program = torch.compile(model, backend="domino", options={"lowering": lowering})
    program(tokens, tokens).backward()
    total = time.perf_counter() - began
    ours = seconds_in_passes() - before
    (report,) = domino_compile.reports()
    assert report.status == "sliced", report.summary()
    return {"layers": layers, "total_s": total, "passes_s": ours, "share": ours / total}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lowering", default="inductor", choices=("inductor", "eager"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    fake_world()
    measure(1, args.device, args.lowering)  # imports and warm-up
    rows = []
    for layers in args.layers:
        row = measure(layers, args.device, args.lowering)
        rows.append(row)
        print(
            f"{layers:3d} layers: compile {row['total_s']:7.2f} s,"
            f" our passes {row['passes_s']:6.2f} s"
            f" ({row['share']:.1%}, {1e3 * row['passes_s'] / layers:.1f} ms a layer)",
            flush=True,
        )
    if args.json:
        args.json.write_text(
            json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
