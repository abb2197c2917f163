"""Fixes the strides of the factors of scaled products, which accept one layout only.

A scaled product takes a row-major and a column-major matrix. Inductor, free to choose, stores a
value contiguously and then refuses its own choice ("mat_b must be col_major"), unless something
else fixes the strides, such as backward, for which the value is saved. A cut graph often saves the
weight and casts it again.
"""

from __future__ import annotations

from torch import fx

from domino_compile import _compat
from domino_compile.cost.model import SCALED
from domino_compile.scheduling.kinds import is_pointwise


def fix_factors(graph: fx.Graph) -> int:
    """Fix the strides of values that Inductor computes for scaled products.

    Args:
        graph: A forward, backward or inference graph, before its order is pinned. Only metadata
            changes.

    Returns:
        The number of values whose strides are now fixed.
    """
    products = [node for node in graph.nodes if node.target in SCALED]
    factors = dict.fromkeys(
        factor for node in products for factor in node.all_input_nodes[:2] if is_pointwise(factor)
    )
    for factor in factors:
        _compat.realize_to_strides(factor)
    return len(factors)
