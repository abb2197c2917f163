"""Where things lie in this checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: A link table whose collectives take next to no time, so that cuts of small graphs pay.
FAST_LINK = str(ROOT / "tests" / "emitted" / "fast-link.json")
