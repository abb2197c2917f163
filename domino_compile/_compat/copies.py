"""Copies of Dynamo's graphs, to be compiled again."""

from __future__ import annotations

import copy

from torch import fx


def copy_of(gm: fx.GraphModule) -> fx.GraphModule:
    """Copy a Dynamo graph to compile it again, with new nodes but the same parameters and buffers.

    torch stores its knowledge of the inputs in attributes of the nodes and the module.
    """
    copied = fx.GraphModule(gm, copy.deepcopy(gm.graph))
    copied.meta = dict(gm.meta)
    for name, value in vars(gm).items():
        if name not in vars(copied):
            setattr(copied, name, value)
    for old, new in zip(
        gm.graph.find_nodes(op="placeholder"),
        copied.graph.find_nodes(op="placeholder"),
        strict=True,
    ):
        if hasattr(old, "_dynamo_source"):
            new._dynamo_source = old._dynamo_source
    return copied
