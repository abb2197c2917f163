"""Shows the demo's progress: live with rich on a terminal, or as occasional lines."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

Event = dict[str, Any]

TITLES = {"inductor": "Inductor alone", "domino": "domino"}
HEARTBEAT_S = 10.0


class Display(Protocol):
    """Shows events of rank 0."""

    def show(self, event: Event) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


def make_display() -> Display:
    """Return the best display that the terminal and the installed packages allow."""
    if sys.stdout.isatty():
        try:
            return Live()
        except ImportError:
            pass
    return Plain()


def phase_of(event: Event) -> str:
    """Describe what the ranks do from this event on."""
    kind = event["event"]
    if kind == "start":
        return "starting 2 ranks (loading torch)"
    if kind == "warm":
        title = TITLES[event["variant"]]
        if event["step"] == 0:
            return f"{title}: compiling and first step (takes a while)"
        return f"{title}: warm-up step {event['step']} of {event['of'] - 1}"
    if kind == "step":
        return "measuring, in turns"
    if kind == "free":
        return "Inductor alone at the real transport's speed, for comparison"
    return "finishing"


def step_text(event: Event) -> str:
    """Describe one measured step."""
    title = TITLES[event["variant"]]
    step = f"step {event['step']}/{event['of']}"
    return f"{title:14s} {step:>10s}  loss {event['loss']:.4f}  {event['ms']:.0f} ms"


class Plain:
    """Lines with the seconds since the start."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._phase = ""

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"[{self._last - self._began:4.0f} s] {text}", flush=True)

    def show(self, event: Event) -> None:
        phase = phase_of(event)
        if phase != self._phase:
            self._phase = phase
            self._print(phase)
        if event["event"] == "step" and (event["step"] % 4 == 0 or event["step"] == event["of"]):
            self._print(f"  {step_text(event)}")

    def tick(self) -> None:
        if time.monotonic() - self._last > HEARTBEAT_S:
            self._print(f"  ... {self._phase}")

    def close(self) -> None:
        """Close nothing, because nothing is open."""


class Live:
    """One line for each phase, the last of them with a spinner and its time."""

    def __init__(self) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(finished_text="-"), TimeElapsedColumn())
        self._progress = Progress(*columns, TextColumn("{task.description}"))
        self._task: Any = None
        self._phase = ""
        self._progress.start()

    def show(self, event: Event) -> None:
        phase = phase_of(event)
        if phase != self._phase:
            self._end_phase()
            self._phase = phase
            self._task = self._progress.add_task(phase, total=1)
        if event["event"] == "step":
            self._progress.update(self._task, description=f"{phase}: {step_text(event)}")

    def _end_phase(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1)

    def tick(self) -> None:
        """Do nothing, because the spinner turns by itself."""

    def close(self) -> None:
        self._end_phase()
        self._progress.stop()
