"""Timelines of compute and wire, predicted from plans or measured in a run."""

from domino_compile.tools.timelines.predicted import predicted
from domino_compile.tools.timelines.spans import Span, Timeline

__all__ = ["Span", "Timeline", "predicted"]
