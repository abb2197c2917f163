"""How Inductor generates the kernels of a program that hides communication.

Beside a collective a kernel has fewer multiprocessors, and as a slice's it has fewer rows to fill
them with: what Inductor's choices leave unused there is much of what slicing costs. That slices
are not fused with each other is of slices only; the other rules help whatever computes beside a
collective, and elsewhere.

Times below are of bf16, 4096 rows, 16 of an H200's multiprocessors held, torch 2.11.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from domino_compile._compat.config import inductor_config, inductor_has_option
from domino_compile._compat.wrap import wrap_once
from domino_compile.graph.tags import Piece, is_overlapped, piece_of

#: The widest rows that a thread block keeps in registers from one end of a kernel to the other.
#: Inductor does so up to 1024 elements, and goes over others two or three times. (Norms of 4096
#: behind dropout: 82 us for 124; without dropout 34 for 44.)
WIDEST_ROW = 4096
#: How many elements of a row a thread block takes at a time where it does not keep them, the best
#: first, and how many of these each thread. Inductor takes 2048, 4 a thread, and so draws 6144
#: numbers for a row of 5120: 179 us, 117 in fives of 1024, 165 in registers, padded to 8192.
PIECES_OF_A_ROW, ELEMENTS_A_THREAD = (1024, 512), 8
#: Rows wider than so go in larger pieces, with which none is slower than Inductor's. (12288 behind
#: dropout: 323 us, 276 in pieces of 1024, 291 of 2048; without random numbers 107, 111 and 107.)
WIDE_ROW, PIECES_OF_A_WIDE_ROW = 8192, (2048, *PIECES_OF_A_ROW)
#: What was measured: from so many rows on, and up to so wide ones.
LEAST_ROWS, WIDEST_IN_PIECES = 512, 16384
#: Inductor's setting of the rows that each thread block of a norm's gradients takes.
ROWS_A_BLOCK = "triton.mix_order_reduction_split_size"
#: Its setting to find them by timing, of ``config.triton``.
TUNED_ROWS = "mix_order_reduction_autotune_split_size"
#: Fewer columns than these, and blocks of Inductor's take several rows at a time.
NARROWEST_NORM = 1024
#: From so many columns on such a thread block has 16 warps. Inductor's 8 leave each thread 16 to 32
#: columns, and two sums of each. (84 us before and 71 with 4096 columns, 108 and 101 with 5120, 138
#: and 128 with 8192; but 2560, padded to 4096, 47 and 74.)
MANY_COLUMNS, WARPS_OF_MANY = 4096, 16
#: Settings, of ``config.triton``, of such kernels that need more than rows and warps of a block to
#: be fixed, or that are pipelined (torch 2.13's default), which was not measured.
OTHER_KERNELS = (
    *("use_block_ptr", "use_tensor_descriptor"),
    "mix_order_reduction_allow_multi_stages",
)
#: The narrowest and the widest rows whose variance is computed in two steps: those of which torch
#: 2.13 does so, but only where the variance is of bf16 or fp16 itself, which a norm's is not.
ROWS_IN_TWO_STEPS = 1024, 32768
#: Inductor's setting that makes it compute reductions along both dimensions of a value (a norm's
#: gradients) in one kernel whatever its shape; by default it does so only where there are twice as
#: many rows as columns.
BOTH_REDUCTIONS = "triton.mix_order_reduction_non_strict_mode"


def fuse_both_reductions() -> None:
    """Switch ``BOTH_REDUCTIONS`` on, within a compile that has it among its options.

    Inductor tells the two reductions apart by their extents, which it cannot do where there are as
    many rows as columns, as in a slice of 4096 tokens of width 4096. There it is told by which of
    them reads its values in the order in which they lie in memory.
    """
    if not inductor_has_option(BOTH_REDUCTIONS):
        return
    from torch._inductor.scheduler import MixOrderReduction

    triton_config = inductor_config().triton
    triton_config.mix_order_reduction_non_strict_mode = True

    def wrap(original: Any) -> Any:
        def has_mix_reduction_orders(node1: Any, node2: Any) -> bool:
            if original(node1, node2):
                return True
            if not triton_config.mix_order_reduction_non_strict_mode:
                return False
            kind = MixOrderReduction
            extents = kind.get_numel_rnumel(node1), kind.get_numel_rnumel(node2)
            square = len({n for pair in extents for n in pair}) == 1
            return square and kind.is_contiguous_node(node1) != kind.is_contiguous_node(node2)

        return has_mix_reduction_orders

    wrap_once(MixOrderReduction, "has_mix_reduction_orders", wrap, staticmethod)


def compile_for_overlap(rows_a_block: Callable[[int], int] | None = None) -> None:
    """Make Inductor, in this thread and from now on, compile marked graphs by rules of their own.

    * No work of different slices is fused: a kernel of two slices has to wait for the collectives
      of both. Whole work (joins) fuses with either slice, as with anything.
    * Kernels that reduce rows go over them once, or in pieces that fill them.
    * Variances of wide rows are computed in two steps: a running one costs a division for every
      element.
    * Kernels that compute a norm's gradients give thread blocks as many rows as they are told, and
      more warps to wide ones.

    What is not marked (``tags.mark_overlapped``) compiles as before. Inductor asks for its
    heuristics (``inductor_choices_class``) once a thread, when it compiles for the first time: an
    option of a later compile is silently ignored. So those in force, the user's own ones perhaps,
    are replaced by the same ones with these rules.

    Args:
        rows_a_block: from the rows of a norm; ``None``: as Inductor chooses.
    """
    from torch._inductor.virtualized import V

    _ask_for_rows_a_block()
    _ask_for_warps()
    _ask_for_two_steps()
    current = V.choices
    kind: Any = type(current)
    if not getattr(kind, "for_overlap", False):
        current = copy.copy(current)
        current.__class__ = _overlap_choices(kind)
        V.set_choices_handler(current)
    current.rows_a_block = rows_a_block  # type: ignore[attr-defined]


def _overlap_choices(kind: Any) -> Any:
    """A class of heuristics with these rules."""

    class OverlapChoices(kind):  # type: ignore[misc]
        for_overlap = True

        @staticmethod
        def can_fuse_horizontal(
            scheduler: Any, node1: Any, node2: Any, shared_data_score: int
        ) -> bool:
            return not _of_different_slices(node1, node2) and bool(
                kind.can_fuse_horizontal(scheduler, node1, node2, shared_data_score)
            )

        @staticmethod
        def can_fuse_vertical(
            scheduler: Any, node1: Any, node2: Any, shared_data_score: int
        ) -> bool:
            return not _of_different_slices(node1, node2) and bool(
                kind.can_fuse_vertical(scheduler, node1, node2, shared_data_score)
            )

        @staticmethod
        def should_use_persistent_reduction(features: Any, cooperative_reduction: bool) -> bool:
            return bool(kind.should_use_persistent_reduction(features, cooperative_reduction)) or (
                not cooperative_reduction
                and inductor_config().triton.persistent_reductions
                and not _takes_many_rows(inductor_config())
                and not features.contains_op("scan")
                and _fits_a_block(_row(features))
            )

        def triton_kernel_kwargs(
            self, kernel_cls: Any, features: Any, groups: Any, kernel_kwargs: dict[str, Any]
        ) -> dict[str, Any]:
            kwargs: dict[str, Any] = super().triton_kernel_kwargs(
                kernel_cls, features, groups, kernel_kwargs
            )
            if (piece := self._own_piece(features, groups, kwargs)) is None:
                return kwargs
            warps = piece // (32 * ELEMENTS_A_THREAD)
            return kwargs | {"fixed_config": _fixed(warps, XBLOCK=1, R0_BLOCK=piece)}

        def _own_piece(self, features: Any, groups: Any, kwargs: dict[str, Any]) -> int | None:
            """In what pieces a kernel goes over its rows; ``None``: once, or as somebody said."""
            config, width = inductor_config(), _row(features)
            if width is None or not PIECES_OF_A_ROW[0] < width <= WIDEST_IN_PIECES:
                return None
            free = (
                set(groups[0]) == {"x", "r0_"}
                and (_known(groups[0]["x"]) or 0) >= LEAST_ROWS
                and not {"fixed_config", "mix_order_reduction"} & kwargs.keys()
                and not any(name.startswith("override_") for name in kwargs)
                and not _is_tuned_by_inductor(config)
                and not config.triton.multi_kernel
                and not config.triton.force_cooperative_reductions  # else only of few rows
                and not self.should_use_persistent_reduction(features, False)
            )
            return _piece(width) if free else None

    return OverlapChoices


def _row(features: Any) -> int | None:
    """How wide the rows are that a kernel of ours reduces; ``None``: none, or not known.

    On NVIDIA's GPUs: nothing of the above was measured on others, and their warps are others.
    """
    reduces_rows = features.is_reduction() and features.get_reduction_hint().name == "INNER"
    if not torch.version.cuda or not reduces_rows or not _is_ours(*features.scheduler_nodes()):
        return None
    return _known(features.reduction_numel)


def _piece(width: int) -> int:
    """How much of a row a thread block takes at a time: nothing in vain, if that is possible."""
    pieces = PIECES_OF_A_ROW if width <= WIDE_ROW else PIECES_OF_A_WIDE_ROW
    return next((piece for piece in pieces if not width % piece), PIECES_OF_A_ROW[0])


def _fits_a_block(width: int | None) -> bool:
    """Whether rows are gone over once: a block, a power of two, is no more than the pieces are."""
    if width is None or width > WIDEST_ROW:
        return False
    block = 1 << (width - 1).bit_length()
    return block <= -(-width // _piece(width)) * _piece(width)


def _ask_for_rows_a_block() -> None:
    """Make Inductor ask its heuristics for the rows of a block that reduces in both directions."""
    if not inductor_has_option(ROWS_A_BLOCK):
        return
    from torch._inductor.codegen.simd import SIMDScheduling
    from torch._inductor.scheduler import MixOrderReduction

    def wrap(original: Any) -> Any:
        def codegen(self: Any, node1: Any, node2: Any) -> Any:
            config = inductor_config()
            rows, columns = MixOrderReduction.get_numel_rnumel(node1)
            each = _rows_a_block(rows, columns, node1, node2)
            tuned = _is_tuned_by_inductor(config) or getattr(config.triton, TUNED_ROWS, False)
            if each is None or tuned or config.triton.mix_order_reduction_split_size is not None:
                return original(self, node1, node2)
            with config.patch({ROWS_A_BLOCK: each}):
                return original(self, node1, node2)

        return codegen

    name = "_codegen_mix_order_reduction"
    if hasattr(SIMDScheduling, name):
        wrap_once(SIMDScheduling, name, wrap)


def _rows_a_block(rows: Any, columns: Any, *nodes: Any) -> int | None:
    """What the heuristics in force say; ``None``: nothing."""
    from torch._inductor.virtualized import V

    rule: Callable[[int], int] | None = getattr(V.choices, "rows_a_block", None)
    known, wide = _known(rows), (_known(columns) or 0) >= NARROWEST_NORM
    if rule is None or known is None or not wide or not _is_ours(*nodes):
        return None
    return rule(known)


def _ask_for_warps() -> None:
    """Give thread blocks that reduce in both directions ``WARPS_OF_MANY``.

    The configuration is fixed behind the kernel's construction: before, one of ``XBLOCK`` 1 would
    take away the dimension along which the kernel goes.
    """
    if not inductor_has_option(ROWS_A_BLOCK):
        return
    from torch._inductor.codegen.triton import TritonScheduling

    def wrap(original: Any) -> Any:
        def create(self: Any, features: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            kernels = original(self, features, args, kwargs)
            config = inductor_config()
            rows = config.triton.mix_order_reduction_split_size
            if (
                kwargs.get("mix_order_reduction")
                and rows is not None
                and rows < 64  # more, and Inductor's blocks take several at a time
                and (_row(features) or 0) >= MANY_COLUMNS
                and not _is_tuned_by_inductor(config)
                and not any(getattr(config.triton, name, False) for name in OTHER_KERNELS)
            ):
                fixed = _fixed(WARPS_OF_MANY, XBLOCK=1, RSPLIT_SIZE=rows, NUM_STAGES=1)
                for kernel in kernels:
                    kernel.fixed_config = fixed
            return kernels

        return create

    wrap_once(TritonScheduling, "create_kernel_choices", wrap)


def _ask_for_two_steps() -> None:
    """Make Inductor compute variances of wide rows in two steps."""
    from torch._inductor import lowering
    from torch._inductor.virtualized import V

    def wrap(original: Any) -> Any:
        def use_two_step_variance(x: Any, axis: Any, *others: Any, **named: Any) -> bool:
            return bool(original(x, axis, *others, **named)) or (
                is_overlapped(V.graph.current_node) and _varies_in_two_steps(x, axis)
            )

        return use_two_step_variance

    wrap_once(lowering, "use_two_step_variance", wrap)


def _varies_in_two_steps(x: Any, axis: Any) -> bool:
    """Whether these are many wide rows on a GPU, so that no kernel reduces parts of a row."""
    size, axes = x.get_size(), [axis] if isinstance(axis, int) else list(axis or ())
    if (
        not size
        or x.get_device().type != "cuda"
        or [at % len(size) for at in axes] != [len(size) - 1]
    ):
        return False
    known = [n for n in map(_known, size) if n is not None]
    least, most = ROWS_IN_TWO_STEPS
    is_known = len(known) == len(size)
    return is_known and least <= known[-1] <= most and math.prod(known[:-1]) >= LEAST_ROWS


def _fixed(warps: int, **blocks: int) -> Any:
    """A kernel's configuration that is not to be searched for."""
    from torch._inductor.codegen.triton import FixedTritonConfig

    return FixedTritonConfig({**blocks, "num_warps": warps, "num_stages": 1})


def _is_tuned_by_inductor(config: Any) -> bool:
    """Whether Inductor times configurations."""
    return bool(
        config.max_autotune or config.max_autotune_pointwise or config.coordinate_descent_tuning
    )


def _takes_many_rows(config: Any) -> bool:
    """Whether Inductor may make blocks of many rows, which do not fit with wide ones kept."""
    return bool(config.combo_kernels or getattr(config.triton, "nested_reduction", False))


def _known(size: Any) -> int | None:
    """A size; ``None``: it is not known before the program runs."""
    try:
        return int(size)
    except TypeError:  # a symbol
        return None


def _is_ours(*scheduler_nodes: Any) -> bool:
    """Whether nodes are of a program that was ordered, and not of several slices."""
    origins = _origins(*scheduler_nodes)
    return any(map(is_overlapped, origins)) and len(_slices_of(origins)) <= 1


def _of_different_slices(node1: Any, node2: Any) -> bool:
    """Whether two scheduler nodes together compute more than one slice."""
    return len(_slices_of(_origins(node1, node2))) > 1


def _slices_of(origins: set[fx.Node]) -> set[Piece]:
    """The slices and parts that graph nodes belong to."""
    return {piece for origin in origins if (piece := piece_of(origin)) is not None}


def _origins(*scheduler_nodes: Any) -> set[fx.Node]:
    """The graph nodes that (fused) scheduler nodes compute."""
    parts = (part.node for node in scheduler_nodes for part in node.get_nodes())
    return {origin for part in parts if part is not None for origin in part.get_origins()}
