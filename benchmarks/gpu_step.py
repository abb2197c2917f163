"""Measure one training step on one GPU, acting as one rank of TP=8 on the *emulated* link.

Usage: ``python -m benchmarks.gpu_step [--layers 4] [--batch 8] [--slices 2] [--free]``.

The model is a GPT of Megatron-style blocks (f and g as ``autograd.Function``), hidden 4096,
32 heads, ffn 16384, bf16, dropout 0.1, on hidden states (no embedding, no head). Prints, and
writes to ``$OUT/gpu_step.json``:

- loss and gradients of domino compared with Inductor's;
- whether the emitted order is the planned one;
- peak memory and a kernel trace without CUDA graphs;
- step time with CUDA graphs (medians of device events, variants in turn);
- wire time, hidden and exposed, from a kernel trace.

``--free`` does the same with collectives that take no time (in a separate process, because a
captured CUDA graph keeps the link it was captured with). ``--check-only`` skips the times.
``--dry-run`` runs small models on the CPU, without times.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._inductor.utils import run_and_get_code

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import domino_compile
from domino_compile import emulate
from tests.emitted.harness import (
    CopyToTensorParallel,
    ReduceFromTensorParallel,
    events,
    fake_world,
)

#: The emulated link's kernel.
WIRE = "domino_emulated_wire"


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int, tp: int) -> None:
        super().__init__()
        self.head = hidden // heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden // tp)
        self.out = nn.Linear(hidden // tp, hidden)
        self.up = nn.Linear(hidden, 4 * hidden // tp)
        self.down = nn.Linear(4 * hidden // tp, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq, _ = x.shape
        qkv = self.qkv(CopyToTensorParallel.apply(self.norm1(x)))
        q, k, v = (t.view(batch, seq, -1, self.head).transpose(1, 2) for t in qkv.chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        a = ReduceFromTensorParallel.apply(self.out(a.transpose(1, 2).reshape(batch, seq, -1)))
        x = x + F.dropout(a, 0.1, self.training)
        h = ReduceFromTensorParallel.apply(
            self.down(
                F.gelu(self.up(CopyToTensorParallel.apply(self.norm2(x))), approximate="tanh")
            )
        )
        return x + F.dropout(h, 0.1, self.training)


class Model(nn.Module):
    def __init__(self, hidden: int, heads: int, tp: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(hidden, heads, tp) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x).float().square().mean()


class Variant:
    """One compiled copy of the step."""

    def __init__(self, name: str, backend: str, link: str | None, args: Any, mode: str) -> None:
        self.name = name
        # No torch._dynamo.reset() here: it drops the previous variants' CUDA graphs.
        if args.device == "cuda":
            emulate.use_link(link, device="cuda", ctas=args.ctas)
        torch.manual_seed(0)
        with torch.device(args.device):
            self.model = Model(args.hidden, args.heads, args.tp, args.layers).to(torch.bfloat16)
            torch.manual_seed(2)
            self.x = torch.randn(args.batch, args.seq, args.hidden, dtype=torch.bfloat16)
        options: Any = {"mode": mode, "slices": args.slices} if backend == "domino" else None
        domino_compile.reset_reports()
        kw = {"options": options} if options else ({"mode": mode} if mode != "default" else {})
        self.program = torch.compile(self.model, backend=backend, **kw)
        begin = time.perf_counter()
        self.loss, self.codes = run_and_get_code(self.seeded)
        self.grads = {n: p.grad.clone() for n, p in self.model.named_parameters()}
        self.compile_s = time.perf_counter() - begin
        self.reports = domino_compile.reports()
        for _ in range(4):  # CUDA graphs are captured with the link of this variant
            self.step()

    def seeded(self) -> float:
        torch.manual_seed(1)
        return float(self.step())

    def step(self) -> torch.Tensor:
        for parameter in self.model.parameters():
            parameter.grad = None
        if torch.cuda.is_available():
            torch.compiler.cudagraph_mark_step_begin()
        loss = self.program(self.x)
        loss.backward()
        return loss.detach()


def timed_rounds(variants: list[Variant], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds per step by device events, variants in turn; a round is three steps."""
    times: dict[str, list[float]] = {v.name: [] for v in variants}
    for number in range(rounds + 2):
        for variant in variants:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            variant.step()
            torch.cuda._sleep(8_000_000)
            begin.record()
            for _ in range(3):
                variant.step()
            end.record()
            torch.cuda.synchronize()
            if number >= 2:
                times[variant.name].append(begin.elapsed_time(end) / 3)
    return times


def trace(variant: Variant, out: Path) -> dict[str, float]:
    """Return one step's kernel time by kind, the wire time, and its exposed part."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(2):
        variant.step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        variant.step()
        torch.cuda.synchronize()
    path = out / f"{variant.name}.trace.json"
    recorded.export_chrome_trace(str(path))
    found = json.loads(path.read_text())["traceEvents"]
    kernels = [e for e in found if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    rows = [[e["name"][:60], e["ts"], e["dur"], e["args"].get("stream")] for e in kernels]
    path.write_text(json.dumps(rows))
    spans = [(WIRE in e["name"], (e["ts"], e["ts"] + e["dur"])) for e in kernels]
    wire = [span for is_wire, span in spans if is_wire]
    work = [span for is_wire, span in spans if not is_wire]
    parts: dict[str, float] = {}
    for e in kernels:
        kind = kind_of(e["name"].lower())
        parts[kind] = parts.get(kind, 0.0) + e["dur"] / 1e3
        parts[f"n_{kind}"] = parts.get(f"n_{kind}", 0) + 1
    exposed = uncovered(wire, work)
    parts["wire_union"] = length(wire) / 1e3
    parts["exposed"] = exposed / 1e3
    parts["compute_union"] = length(work) / 1e3
    everything = wire + work
    parts["span"] = (max(b for _, b in everything) - min(a for a, _ in everything)) / 1e3
    return {k: round(v, 3) for k, v in parts.items()}


def kind_of(name: str) -> str:
    """Return the kind of a kernel, by its name."""
    if WIRE in name:
        return "wire"
    if "flash" in name or "fmha" in name or "cudnn" in name:
        return "attention"
    if "gemm" in name or "nvjet" in name or "cutlass" in name:
        return "gemm"
    return "triton" if name.startswith("triton") else "other"


def merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    result: list[tuple[float, float]] = []
    for a, b in sorted(spans):
        if result and a <= result[-1][1]:
            result[-1] = (result[-1][0], max(b, result[-1][1]))
        else:
            result.append((a, b))
    return result


def length(spans: list[tuple[float, float]]) -> float:
    return sum(b - a for a, b in merged(spans))


def uncovered(spans: list[tuple[float, float]], cover: list[tuple[float, float]]) -> float:
    return length(spans + cover) - length(cover)


def peak_mib(variant: Variant) -> float:
    for _ in range(2):
        variant.step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    variant.step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def check_order(variant: Variant) -> bool:
    (report,) = variant.reports
    planned = {s.phase: [e.split(" ")[0] for e in s.events] for s in report.schedules}
    emitted = {"forward": events(variant.codes[0]), "backward": events(variant.codes[1])}
    for phase, plan in planned.items():
        if plan != emitted[phase]:
            print(f"ORDER DIFFERS in {phase}:\n  plan {plan}\n  code {emitted[phase]}")
    return planned == emitted


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    top = sum(float((a[n].double() - b[n].double()).square().sum()) for n in b)
    return (top / sum(float(b[n].double().square().sum()) for n in b)) ** 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"hidden": 4096, "heads": 32, "tp": 8, "layers": 4, "batch": 8, "seq": 1024}
    for name, value in {**sizes, "slices": 2, "ctas": 16, "rounds": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--link", default="h200-nvlink-8")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--check-only", action="store_true", help="numbers and order, no times")
    parser.add_argument("--free", action="store_true", help="collectives take no time")
    args = parser.parse_args()
    args.device = "cpu" if args.dry_run else "cuda"
    out = Path(os.environ.get("OUT", "out"))
    out.mkdir(parents=True, exist_ok=True)
    if args.dry_run:
        args.hidden, args.heads, args.tp, args.layers, args.batch, args.seq = 64, 4, 2, 1, 4, 16
        fake_world()
    else:
        emulate.init(args.link, device="cuda")
    result: dict[str, Any] = {"args": vars(args), "torch": torch.__version__, "emulated": True}
    mode = "default"
    base = Variant("inductor", "inductor", args.link, args, mode)
    ours = Variant("domino", "domino", args.link, args, mode)
    for report in ours.reports:
        print(report.summary())
    result |= {
        "loss": [base.loss, ours.loss],
        "grad_difference": relative(ours.grads, base.grads),
        "order_kept": check_order(ours),
        "compile_s": [base.compile_s, ours.compile_s],
    }
    (out / "domino_code.py").write_text("\n#=======\n".join(ours.codes))
    print(json.dumps(result, indent=1))
    (out / "plan.json").write_text(ours.reports[0].to_json())
    if not (args.dry_run or args.check_only):
        result["peak_mib"] = {v.name: peak_mib(v) for v in (base, ours)}
        result["trace_plain"] = {v.name: trace(v, out) for v in (base, ours)}
        print("without CUDA graphs", result["trace_plain"])
        del base, ours
        graphs = "reduce-overhead"
        link = None if args.free else args.link
        variants = [
            Variant("inductor", "inductor", link, args, graphs),
            Variant("domino", "domino", link, args, graphs),
        ]
        times = timed_rounds(variants, args.rounds)
        result["step_ms"] = {n: [min(t), statistics.median(t), max(t)] for n, t in times.items()}
        result["trace"] = {v.name: trace(v, out) for v in variants}
        for name, parts in result["trace"].items():
            print(name, parts)
        print(
            json.dumps(
                {
                    k: result[k]
                    for k in ("peak_mib", "step_ms", "loss", "grad_difference", "order_kept")
                }
            )
        )
    (out / f"gpu_step{'_free' if args.free else ''}.json").write_text(json.dumps(result, indent=1))
    return 0 if result["order_kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
