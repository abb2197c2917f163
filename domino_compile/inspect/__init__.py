"""What a person reads: graphs before and after each pass, the schedule as text, the plan as JSON."""

from domino_compile.inspect.dump import Dump, readable

__all__ = ["Dump", "readable"]
