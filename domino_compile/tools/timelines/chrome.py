"""Write timelines as a Chrome trace for ui.perfetto.dev and chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from domino_compile.tools.timelines.spans import COMPUTE, Timeline


def chrome_trace(timelines: Sequence[Timeline]) -> str:
    """Return JSON with a process for each timeline and a thread for each lane, in microseconds."""
    events = [e for number, timeline in enumerate(timelines) for e in _events(number, timeline)]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, indent=0) + "\n"


def _events(number: int, timeline: Timeline) -> Iterator[dict[str, Any]]:
    title = f"rank {timeline.rank}, {timeline.summary()}"
    lanes = [(COMPUTE, "")]
    lanes += list(dict.fromkeys((s.lane, s.group) for s in timeline.spans if s.lane != COMPUTE))
    yield _name("process_name", number, 0, title)
    for thread, (lane, group) in enumerate(lanes):
        yield _name("thread_name", number, thread, f"{lane}, group {group}" if group else lane)
    for span in timeline.spans:
        told = {
            "kind": span.kind,
            "slice": span.slice,
            "phase": span.phase,
            "collective": span.collective,
            "source": span.source,
        }
        yield {
            "ph": "X",
            "name": span.name,
            "cat": span.lane,
            "pid": number,
            "tid": lanes.index((span.lane, span.group)),
            "ts": span.begin_us,
            "dur": span.end_us - span.begin_us,
            "args": {key: value for key, value in told.items() if value not in ("", None)},
        }


def _name(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}
