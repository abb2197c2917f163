"""The operation ``domino_compile::materialise``, which keeps Inductor from fusing a value."""

from __future__ import annotations

from typing import Any

import torch

from domino_compile.ops.library import library

library.define("materialise(Tensor value) -> Tensor", tags=(torch.Tag.pointwise,))
library.impl("materialise", torch.clone, "CompositeExplicitAutograd")
torch.library.register_fake("domino_compile::materialise", torch.empty_like, lib=library)

materialise: Any = torch.ops.domino_compile.materialise.default
