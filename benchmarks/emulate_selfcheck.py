"""Check the emulated link on a CUDA machine: does a collective take the time its table gives?

Usage: ``python -m benchmarks.emulate_selfcheck [--link h200-nvlink-8] [--tolerance 0.05]``.

It runs in one process on one GPU without other ranks, so every number is about the *emulated* link.
Prints one JSON object per check and exits with code 1 if any check failed:

- ``eager``, ``compiled``, ``cuda_graph``: device time of collectives against the table;
- ``numbers``: results are as ``domino_compile/emulate/symmetric.py`` defines them;
- ``overlap``: matrix multiplications run while a collective is on the wire; reports how much they
  slow down by the number of thread blocks that the collective occupies, without a verdict.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist

from domino_compile import emulate
from domino_compile.links import LinkTable, load_link

MIB = 1 << 20
ops = torch.ops._c10d_functional
SIZES_MIB = (1, 4, 8, 32, 128, 256, 1024)
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")
# Launching two kernels and two events around the wire takes the device about this long.
SLACK_US = 6.0


def device_us(run: Callable[[], object], repeats: int = 21) -> float:
    """Return the median device time of `run`, launched while the device is kept busy."""
    times = []
    for _ in range(repeats + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(4_000_000)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times[3:])


def collective(kind: str, nbytes: int, ranks: int) -> Callable[[], torch.Tensor]:
    """Return a launch and wait of one bfloat16 collective of `nbytes` in the table's convention."""
    name, count = dist.group.WORLD.group_name, nbytes // 2
    if kind == "all_reduce":
        payload = torch.randn(count, device="cuda").bfloat16()
        return lambda: ops.wait_tensor(ops.all_reduce_(payload, "sum", name))
    if kind == "all_gather":
        shard = torch.randn(count // ranks, device="cuda").bfloat16()
        return lambda: ops.wait_tensor(ops.all_gather_into_tensor(shard, ranks, name))
    whole = torch.randn(count, device="cuda").bfloat16()
    return lambda: ops.wait_tensor(ops.reduce_scatter_tensor(whole, "sum", ranks, name))


class Report:
    """A collection of verdicts, printed as they arrive."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.failed = tolerance, 0

    def judge(self, check: str, expected_us: float, measured_us: float, **facts: object) -> None:
        error = measured_us / expected_us - 1
        near = abs(measured_us - expected_us) <= self.tolerance * expected_us + SLACK_US
        self.say(
            check,
            near,
            table_us=round(expected_us, 1),
            measured_us=round(measured_us, 1),
            error=round(error, 4),
            **facts,
        )

    def say(self, check: str, ok: bool, **facts: object) -> None:
        self.failed += not ok
        print(json.dumps({"emulated": True, "check": check, "ok": bool(ok), **facts}), flush=True)


def check_eager(report: Report, link: LinkTable) -> None:
    for kind in COLLECTIVES:
        for mib in SIZES_MIB:
            measured = device_us(collective(kind, mib * MIB, link.ranks))
            expected = link.time_us(kind, mib * MIB)
            report.judge("eager", expected, measured, collective=kind, mib=mib)


def check_numbers(report: Report, link: LinkTable) -> None:
    """Check values, sizes that are not multiples of 16 bytes, and a non-contiguous tensor."""
    name, ranks = dist.group.WORLD.group_name, link.ranks
    for count in (1, 5, 1000, 1 << 20):
        x = torch.randn(count, 3, device="cuda")
        gathered = ops.wait_tensor(ops.all_gather_into_tensor(x, ranks, name))
        whole = torch.randn(count * ranks, 3, device="cuda")
        part = ops.wait_tensor(ops.reduce_scatter_tensor(whole, "sum", ranks, name))
        summed, strided = x.clone(), x.t().clone().t()
        dist.all_reduce(summed)
        dist.all_reduce(strided)
        listed = [torch.empty_like(x) for _ in range(ranks)]
        dist.all_gather(listed, x)
        results = {
            "all_gather": torch.equal(gathered, x.repeat(ranks, 1)),
            "reduce_scatter": torch.equal(part, whole[:count]),
            "all_reduce": torch.equal(summed, x) and torch.equal(strided, x),
            "all_gather_list": all(torch.equal(item, x) for item in listed),
        }
        report.say("numbers", all(results.values()), count=count, **results)


def check_compiled(report: Report, link: LinkTable) -> None:
    """Check the time difference of one compiled function with wire time and without.

    Without, gathers and scatters still copy their payloads, which happens within the wire time
    otherwise.
    """
    name, ranks = dist.group.WORLD.group_name, link.ranks

    def function(x: torch.Tensor) -> torch.Tensor:
        y = ops.wait_tensor(ops.all_reduce(x * 2, "sum", name)) + 1
        z = ops.wait_tensor(ops.reduce_scatter_tensor(y, "sum", ranks, name)) * 3
        return ops.wait_tensor(ops.all_gather_into_tensor(z, ranks, name)).cos()

    for mib in SIZES_MIB[1:]:
        x = torch.randn(1024, mib * MIB // 4096, device="cuda")
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True)
        with_wire = device_us(partial(compiled, x))
        emulate.use_link(None, device="cuda")
        free = device_us(partial(compiled, x))
        copies = [device_us(collective(kind, mib * MIB, ranks)) for kind in COLLECTIVES]
        emulate.use_link(link, device="cuda")
        expected = sum(link.time_us(kind, mib * MIB) for kind in COLLECTIVES) - sum(copies)
        report.judge("compiled", expected, with_wire - free, mib=mib, free_us=round(free, 1))


def check_graphs(report: Report, link: LinkTable) -> None:
    for kind in COLLECTIVES:
        for mib in SIZES_MIB:
            run, times = collective(kind, mib * MIB, link.ranks), 10
            run()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(times):
                    run()
            measured = device_us(graph.replay) / times
            expected = link.time_us(kind, mib * MIB)
            report.judge("cuda_graph", expected, measured, collective=kind, mib=mib)


def check_overlap(report: Report, link: LinkTable) -> None:
    name = dist.group.WORLD.group_name
    payload = torch.randn(128 * MIB // 2, device="cuda").bfloat16()
    a, b = (torch.randn(4096, 4096, device="cuda").bfloat16() for _ in range(2))
    products = 2

    def compute() -> None:
        for _ in range(products):
            torch.mm(a, b)

    def overlapped() -> None:
        ops.all_reduce_(payload, "sum", name)
        compute()
        ops.wait_tensor(payload)

    alone, wire = device_us(compute), link.time_us("all_reduce", 128 * MIB)
    for ctas in (1, 8, 16, 24):
        for exclusive in (True, False):
            emulate.use_link(link, device="cuda", ctas=ctas, exclusive=exclusive)
            ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            beside = []
            for _ in range(10):
                torch.cuda._sleep(4_000_000)
                ops.all_reduce_(payload, "sum", name)
                ends[0].record()
                compute()
                ends[1].record()
                ops.wait_tensor(payload)
                torch.cuda.synchronize()
                beside.append(ends[0].elapsed_time(ends[1]) * 1e3)
            both = device_us(overlapped)
            report.say(
                "overlap",
                both < 0.9 * (alone + wire) and both > 0.95 * wire,
                ctas=ctas,
                exclusive=exclusive,
                wire_us=round(wire, 1),
                compute_us=round(alone, 1),
                both_us=round(both, 1),
                compute_beside_wire=round(statistics.median(beside) / alone, 3),
            )
    emulate.use_link(link, device="cuda")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--link", default="h200-nvlink-8", help="name or JSON file")
    parser.add_argument("--tolerance", type=float, default=0.05, help="relative")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("emulate_selfcheck needs a CUDA GPU; the CPU part is tested in tests/emulate")
        return 2
    link = load_link(arguments.link)
    emulate.init(link, device="cuda")
    report = Report(arguments.tolerance)
    print(
        json.dumps(
            {
                "emulated": True,
                "link": str(link),
                "source": link.source,
                "device": torch.cuda.get_device_name(),
                "torch": torch.__version__,
            }
        )
    )
    for check in (check_numbers, check_eager, check_graphs, check_compiled, check_overlap):
        try:
            check(report, link)
        except Exception as error:
            report.say(check.__name__, False, error=f"{type(error).__name__}: {error}")
    print(f"emulated link: {report.failed} check(s) failed")
    dist.destroy_process_group()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
