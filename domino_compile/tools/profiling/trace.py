"""Record one step with torch's profiler, and turn it into a timeline.

What torch records (tried with 2.13), and how this module reads it:

* GPU: kernels with their begin and end. NCCL's (RCCL's) kernels and the emulated wire's are
  collectives in flight; torch names their process group.
* CPU: operations of the thread that runs the step. The outermost ``aten`` operations and
  Inductor's C++ kernels (visible if ``TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE=1`` was set when they
  were compiled) are compute; ``_c10d_functional::wait_tensor`` is a wait. The rest of the step is
  the host's work (Python, dispatch) and counts as compute too. Consecutive small operations form
  one span.
* gloo: ``gloo:all_reduce`` and similar events on gloo's threads are collectives in flight. A
  collective outside compiled graphs waits in Python, which the profiler does not see: the time from
  the end of its ``c10d`` operation to the end of its flight is read as a wait.
* gloo with an emulated link: flights and waits come from ``domino_compile.emulate.trace()``.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from domino_compile.emulate.trace import Record
from domino_compile.tools.bench.kernels import Kernel, kernels_in
from domino_compile.tools.timelines import Span, Timeline
from domino_compile.tools.timelines.spans import COMPUTE, WIRE

#: The mark at the beginning and the end of a step in its trace.
MARK = "domino_compile: step"
#: Operations shorter than this count as the host's work (views, allocations).
SHORTEST_US = 5.0
#: The kinds of operations on the CPU by their names; the first match counts.
KINDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("attention", r"^aten::_?(scaled_dot_product|flash|efficient)"),
        ("gemm", r"^aten::(mm|addmm|bmm|baddbmm|linear|matmul|_mm|_addmm)|^mkl|gemm"),
        ("copies", r"^aten::(copy_|clone|_to_copy|cat|fill_|zero_)$"),
        ("random", r"^aten::(rand|normal_|uniform_|bernoulli|random_|native_dropout)"),
        ("pointwise", r"cpp_fused|^aten::_?(foreach|fused)|^aten::"),
    )
)
# gloo's threads record the end of a flight slightly after the wait for it has returned.
_SETTLE_S = 0.02
_SLACK_US = 50.0
_COMPUTES = re.compile(r"^(aten|mkl|mkldnn|onednn|quantized|fbgemm|inductor)::|cpp_fused|gemm")
_GLOO = re.compile(r"^gloo:(\w+)")
# The collectives' names as NCCL's kernels and torch's events spell them.
_COLLECTIVES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("all_reduce", r"all_?reduce"),
        ("reduce_scatter", r"reduce_?scatter"),
        ("all_gather", r"all_?gather"),
        ("all_to_all", r"all_?to_?all|send_?recv"),
        ("broadcast", r"broadcast"),
        ("reduce", r"reduce"),
        ("gather", r"gather"),
        ("scatter", r"scatter"),
    )
)


@dataclass(frozen=True)
class Trace:
    """The recording of one step.

    Attributes:
        events: The profiler's events, including those of the neighbouring steps.
        begin: When the step began, in microseconds of the profiler's clock.
        end: When it ended.
        thread: The thread that ran the step, as the profiler names it.
        at_s: ``time.monotonic()`` when the step began.
        records: The emulated link's records, if there is one.
        group: The process group's name if there is only one; gloo's events do not name theirs.
    """

    events: list[dict[str, Any]]
    begin: float
    end: float
    thread: Any
    at_s: float
    records: list[Record]
    group: str = ""

    @property
    def step_ms(self) -> float:
        """Return the duration of the step under the profiler."""
        return (self.end - self.begin) / 1e3

    def within(self) -> list[dict[str, Any]]:
        """Return the events that begin in this step."""
        return [e for e in self.events if self.begin <= e["ts"] < self.end]


class Tracer:
    """Recorder of a few consecutive steps. The thread that runs the steps calls its methods.

    One recording covers all steps: while gloo's threads are active, torch 2.13 was seen to corrupt
    its memory when the profiler was stopped and restarted between steps.
    """

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        self._profile = torch_profile(activities=kinds)
        self._at_s: list[float] = []
        self._records: list[list[Record]] = []

    def begin(self) -> None:
        """Start recording; no other profiler may run."""
        self._profile.__enter__()
        self._mark()

    def step(self, records: Sequence[Record]) -> None:
        """Note that a step has ended."""
        self._mark()
        self._records.append(list(records))

    def _mark(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
        with record_function(MARK):
            self._at_s.append(time.monotonic())

    def end(self) -> list[Trace]:
        """Stop, and return the recording of every step."""
        if not self._on_gpu:
            time.sleep(_SETTLE_S)
        self._profile.__exit__(None, None, None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(path))
            said = json.loads(path.read_text(encoding="utf-8"))
        events = [e for e in said["traceEvents"] if e.get("ph") == "X"]
        events.sort(key=lambda e: e["ts"])
        groups = said.get("distributedInfo", {}).get("pg_config", [])
        group = str(groups[0].get("pg_name", "")) if len(groups) == 1 else ""
        marks = [e for e in events if e["name"] == MARK and e.get("cat") == "user_annotation"]
        return [
            Trace(events, begin["ts"], end["ts"], begin["tid"], at_s, records, group)
            for begin, end, at_s, records in zip(
                marks, marks[1:], self._at_s, self._records, strict=False
            )
        ]


def collective_name(text: str) -> str:
    """Return a collective's name as in ``domino_compile.links.COLLECTIVES``, or the text itself."""
    return next((name for name, pattern in _COLLECTIVES if pattern.search(text)), text)


def timeline_of(trace: Trace, title: str, rank: int, emulated: bool, on_gpu: bool) -> Timeline:
    """Return a step's timeline, with times counted from the beginning of the step."""
    spans = list(_device_spans(trace)) if on_gpu else _host_spans(trace)
    spans = [span for span in spans if span.end_us > span.begin_us]
    return Timeline(title, rank, True, emulated, tuple(sorted(spans, key=lambda s: s.begin_us)))


def _device_spans(trace: Trace) -> Iterator[Span]:
    kernels, zero = kernels_in(trace.within()), trace.begin
    # An emulated wire's kernels do not name a group; its records do, in the order of launches.
    flown = [r for r in trace.records if r.name != "barrier" and r.wire_ms > 0]
    emulated = [k for k in kernels if "domino_emulated_wire" in k.name]
    known = dict(zip(map(id, emulated), flown, strict=True)) if len(emulated) == len(flown) else {}
    for kernel in kernels:
        begin, end = kernel.begin - zero, kernel.end - zero
        if kernel.kind != "wire":
            yield Span(COMPUTE, kernel.name, kernel.kind, begin, end)
            continue
        record = known.get(id(kernel))
        group = record.group if record is not None else kernel.group
        yield Span(WIRE, kernel.name, _kind_on_wire(kernel, record), begin, end, group=group)


def _kind_on_wire(kernel: Kernel, record: Record | None) -> str:
    if record is not None:
        return record.name
    return collective_name(kernel.collective or kernel.name)


def _host_spans(trace: Trace) -> list[Span]:
    """Return the flights, waits, operations and remaining host work of a step on the CPU."""
    events, zero, whole = trace.within(), trace.begin, trace.end - trace.begin
    mine = sorted(
        (e for e in events if e["tid"] == trace.thread and e.get("cat") == "cpu_op"),
        key=lambda e: (e["ts"], -e["dur"]),
    )
    if trace.records:
        flights, waits = _of_records(trace)
    else:
        flights, waits = _of_gloo(events, mine, zero, trace.group)
    whole_ones = (span for span in _operations(mine, zero) if span.end_us <= whole)
    busy = [part for span in whole_ones for part in _without(span, waits)]
    taken = sorted([*busy, *waits], key=lambda span: span.begin_us)
    thread = sorted([*taken, *_host(taken, whole)], key=lambda span: span.begin_us)
    return [*flights, *_merged(thread)]


def _of_records(trace: Trace) -> tuple[list[Span], list[Span]]:
    flights: list[Span] = []
    waits: list[Span] = []
    for number, record in enumerate(r for r in trace.records if r.name != "barrier"):
        begin, end = ((t - trace.at_s) * 1e6 for t in (record.start_s, record.end_s))
        name = f"{record.name} {number}"
        flights.append(Span(WIRE, name, record.name, begin, end, group=record.group))
        if record.done_s is not None and record.blocked_ms:
            done = (record.done_s - trace.at_s) * 1e6
            began = done - record.blocked_ms * 1e3
            arrived = min(done, max(began, done - (record.late_ms or 0.0) * 1e3))
            waits.append(Span(COMPUTE, name, "wait", began, arrived))
            waits.append(Span(COMPUTE, name, "late", arrived, done))
    waits = [wait for wait in waits if wait.end_us > wait.begin_us]
    return flights, sorted(waits, key=lambda wait: wait.begin_us)


def _of_gloo(
    events: Sequence[dict[str, Any]], mine: Sequence[dict[str, Any]], zero: float, group: str
) -> tuple[list[Span], list[Span]]:
    flights: list[Span] = []
    for event in events:
        match = _GLOO.match(event["name"])
        if match is not None:
            begin, kind = event["ts"] - zero, collective_name(match[1])
            name = f"{kind} {len(flights)}"
            flights.append(Span(WIRE, name, kind, begin, begin + event["dur"], group=group))
    waits = [
        _wait(event["ts"] - zero, event["ts"] + event["dur"] - zero, flights)
        for event in mine
        if event["name"] == "_c10d_functional::wait_tensor"
    ]
    waits += _silent_waits(mine, flights, zero)
    return flights, sorted(waits, key=lambda wait: wait.begin_us)


def _wait(begin: float, end: float, flights: Sequence[Span]) -> Span:
    """Return a wait, named after the last flight that had ended when it returned."""
    over = [f for f in flights if f.begin_us < end and f.end_us <= end + _SLACK_US]
    name = max(over, key=lambda f: f.end_us).name if over else "wait"
    return Span(COMPUTE, name, "wait", begin, end)


def _silent_waits(
    mine: Sequence[dict[str, Any]], flights: Sequence[Span], zero: float
) -> Iterator[Span]:
    """Return the waits of collectives that a program launches and waits for in one call."""
    functional = [e for e in mine if e["name"].startswith("_c10d_functional::")]
    for event in mine:
        if not event["name"].startswith("c10d::"):
            continue
        begin, end = event["ts"], event["ts"] + event["dur"]
        if any(f["ts"] <= begin < f["ts"] + f["dur"] for f in functional):
            continue
        flight = next((f for f in flights if begin - zero <= f.begin_us), None)
        following = next((e["ts"] for e in mine if e["ts"] >= end), float("inf"))
        if flight is not None and following - zero >= flight.end_us > end - zero:
            yield Span(COMPUTE, flight.name, "wait", end - zero, flight.end_us)


def _operations(mine: Sequence[dict[str, Any]], zero: float) -> Iterator[Span]:
    """Yield the outermost operations that compute, in order."""
    reached = float("-inf")
    for event in mine:
        begin, end = event["ts"], event["ts"] + event["dur"]
        if begin < reached or not _COMPUTES.search(event["name"]):
            continue
        reached = end
        if event["dur"] >= SHORTEST_US:
            name = event["name"]
            kind = next((k for k, pattern in KINDS if pattern.search(name)), "other")
            yield Span(COMPUTE, name, kind, begin - zero, end - zero)


def _without(span: Span, waits: Sequence[Span]) -> Iterator[Span]:
    """Yield an operation's time outside its waits (the first reader of a result waits)."""
    begin = span.begin_us
    for wait in waits:
        if begin < wait.end_us and wait.begin_us < span.end_us:
            if wait.begin_us - begin >= SHORTEST_US:
                yield replace(span, begin_us=begin, end_us=wait.begin_us)
            begin = max(begin, wait.end_us)
    if begin == span.begin_us or span.end_us - begin >= SHORTEST_US:
        yield replace(span, begin_us=begin)


def _host(taken: Sequence[Span], whole_us: float) -> Iterator[Span]:
    """Yield the rest of a step: Python, dispatch, and operations too short to list."""
    reached = 0.0
    for span in taken:
        if span.begin_us > reached:
            yield Span(COMPUTE, "host", "other", reached, span.begin_us)
        reached = max(reached, span.end_us)
    if whole_us > reached:
        yield Span(COMPUTE, "host", "other", reached, whole_us)


def _merged(thread: Sequence[Span]) -> Iterator[Span]:
    """Yield the thread's spans, with small operations and the host work between them merged."""
    run: list[Span] = []
    for span in thread:
        if span.kind in ("pointwise", "copies", "random", "other") and "fused" not in span.name:
            run.append(span)
            continue
        yield from _as_one(run)
        run = []
        yield span
    yield from _as_one(run)


def _as_one(run: Sequence[Span]) -> Iterator[Span]:
    named = [span for span in run if span.name != "host"]
    if not run:
        return
    begin, end = run[0].begin_us, run[-1].end_us
    if not named:
        yield Span(COMPUTE, "host", "other", begin, end)
        return
    last = named[-1].name
    name = last if len(named) == 1 else f"{len(named)} operations, last {last}"
    longest = max(run, key=lambda span: span.end_us - span.begin_us)
    yield Span(COMPUTE, name, longest.kind, begin, end)
