"""Training in float8 with torchao, which has to be installed for it.

torchao replaces linear layers by its own, which cast operands and gradients to float8 and call
scaled products. The layers of the blocks are replaced, before DTensor divides them, as torchtitan
does it; embedding and head stay in bf16. With ``sp``, activations are gathered in bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from domino_compile.tools.bench.shapes import BenchError

#: torchao's recipes, by the names that ``--dtype`` accepts.
RECIPES: Mapping[str, str] = MappingProxyType(
    {
        "fp8-rowwise": "rowwise",
        "fp8-rowwise-hp": "rowwise_with_gw_hp",
        "fp8-tensorwise": "tensorwise",
    }
)


def convert(module: nn.Module, dtype: str) -> None:
    """Replace a module's linear layers by those of a recipe, in place.

    Args:
        module: The module.
        dtype: One of ``RECIPES``; other names change nothing.

    Raises:
        BenchError: The package torchao is not installed.
    """
    if dtype not in RECIPES:
        return
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise BenchError(f"--dtype {dtype} needs torchao: pip install torchao") from None
    config = Float8LinearConfig.from_recipe_name(RECIPES[dtype])
    convert_to_float8_training(module, config=config)
