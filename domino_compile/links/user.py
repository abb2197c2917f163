"""The folder with a user's link tables and device rates.

It is ``$XDG_CONFIG_HOME/domino_compile``, or ``~/.config/domino_compile`` if that variable is not
set (https://specifications.freedesktop.org/basedir-spec: a relative path in it is ignored).
"""

from __future__ import annotations

import os
from pathlib import Path


def config_folder() -> Path:
    """Return the user's folder, which need not exist."""
    chosen = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(chosen) if os.path.isabs(chosen) else Path(os.path.expanduser("~"), ".config")
    return base / "domino_compile"


def links_folder() -> Path:
    """Return the folder of the user's link tables (``<name>.json``), which need not exist."""
    return config_folder() / "links"
