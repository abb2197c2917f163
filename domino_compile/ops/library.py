"""The namespace of this package's own operations, ``torch.ops.domino_compile``."""

from __future__ import annotations

import torch

library = torch.library.Library("domino_compile", "DEF")
