"""Step of ``normalise``: values that a program computes several times.

Three projections of one activation each cast it to float8, with its largest values, its scale and
the cast itself. The partitioner merges equal operations of a joint graph, but only after the plan
has been made: until then their time and memory count three times, and slices are cut three times.
This step merges the operations that kernels fuse, and views, in each phase. Random numbers are
never merged, nor is what the graph returns: two results stay two tensors.

Other graphs compute nothing large twice (a few views and casts), and stay as they are. Merging
these too made predictions worse: of a reordered step of Llama by 8 %, because the planner fuses all
users of one value that are equally deep.

Contract: the pass takes a functional joint or inference graph.
"""

from __future__ import annotations

import torch
from torch import fx

from domino_compile._compat.operators import OpOverload
from domino_compile.cost.model import SCALED
from domino_compile.graph.collectives import backward_nodes
from domino_compile.graph.nodes import is_free, is_returned, users_of
from domino_compile.graph.numbering import value_numbers
from domino_compile.graph.readers import only_reads
from domino_compile.scheduling.kinds import draws, is_fusible

aten = torch.ops.aten

#: Operations without a value of their own: what they return is written later, or never read.
EMPTY = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}
#: Each result has sizes of its own, which are named after the operation.
SIZED = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def merge_equal(graph: fx.Graph) -> int:
    """Merge equal values of a graph with scaled products in place; return how many are gone.

    The checker needs no claims: it finds equal values itself.
    """
    if not any(node.target in SCALED for node in graph.nodes):
        return 0
    late = backward_nodes(graph)
    same = value_numbers(filter(_may_merge, graph.nodes), lambda node: node in late)
    gone = 0
    for node, known in same.items():
        if known is node or is_returned(node):
            continue
        node.replace_all_uses_with(known)
        graph.erase_node(node)
        gone += 1
    return gone


def _may_merge(node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return False
    if node.target in EMPTY or draws(node):
        return False
    if isinstance(node.target, OpOverload) and SIZED & set(node.target.tags):
        return False
    if not all(map(only_reads, users_of(node))):
        return False
    return is_free(node) or is_fusible(node)
