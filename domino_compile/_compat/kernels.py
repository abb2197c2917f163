"""Makes Inductor ask our rules how to generate the kernels of marked graphs.

This module does not contain the rules. It knows where Inductor decides, and turns the objects that
Inductor has there into numbers. Graphs that are not marked (``tags.mark_overlapped``) compile as
before, and a user's settings still decide.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import fx

from domino_compile._compat.config import inductor_config, inductor_has_option
from domino_compile._compat.wrap import wrap_once

#: Inductor's setting for the rows that each thread block of a norm's gradients takes.
ROWS_A_BLOCK = "triton.mix_order_reduction_split_size"
#: The setting in ``config.triton`` that makes Inductor find these rows by timing.
TUNED_ROWS = "mix_order_reduction_autotune_split_size"
#: Settings in ``config.triton`` for such kernels with which fixing the rows and warps of a block is
#: not enough, or which pipeline the kernels (torch 2.13's default), which was not measured.
OTHER_KERNELS = (
    *("use_block_ptr", "use_tensor_descriptor"),
    "mix_order_reduction_allow_multi_stages",
)
#: The setting that makes Inductor compute reductions along both dimensions of a value (a norm's
#: gradients) in one kernel, for any shape. By default Inductor does so only if there are twice as
#: many rows as columns.
BOTH_REDUCTIONS = "triton.mix_order_reduction_non_strict_mode"


class KernelRules(Protocol):
    """The rules for the kernels of marked graphs (``lowering.kernels``)."""

    def keeps_apart(self, origins: Iterable[fx.Node]) -> bool:
        """Return whether no kernel may compute all of these nodes."""

    def applies_to(self, origins: Iterable[fx.Node]) -> bool:
        """Return whether the other rules hold for a kernel that computes these nodes."""

    def keeps_rows(self, width: int) -> bool:
        """Return whether a block keeps a whole row."""

    def piece(self, rows: int, width: int) -> tuple[int, int] | None:
        """Return the elements of a row that a block takes at a time, and its warps."""

    def reduces_both(self, rows: int) -> bool:
        """Return whether one kernel may reduce a value with these rows along both dimensions."""

    def rows_a_block(self, rows: int, columns: int) -> int | None:
        """Return the rows that a block takes if it reduces along both dimensions."""

    def warps(self, columns: int, rows_a_block: int) -> int | None:
        """Return the warps of a block that reduces along both dimensions."""

    def varies_in_two_steps(self, rows: int, width: int) -> bool:
        """Return whether the variance of rows is computed in two steps."""


def fuse_both_reductions() -> None:
    """Switch on ``BOTH_REDUCTIONS`` during a compile that has it among its options.

    The rules in force may refuse it for a value with few rows, for which Inductor would not have
    done it anyway.

    Inductor distinguishes the two reductions by their extents, which fails if there are as many
    rows as columns, as in a slice of 4096 tokens of width 4096. In that case they are distinguished
    by which of them reads contiguous values.
    """
    if not inductor_has_option(BOTH_REDUCTIONS):
        return
    from torch._inductor.scheduler import MixOrderReduction

    triton_config = inductor_config().triton
    triton_config.mix_order_reduction_non_strict_mode = True

    def wrap(original: Any) -> Any:
        def has_mix_reduction_orders(node1: Any, node2: Any) -> bool:
            if not triton_config.mix_order_reduction_non_strict_mode:
                return bool(original(node1, node2))
            kind = MixOrderReduction
            of_rows = kind.is_contiguous_node(node1)
            extents = kind.get_numel_rnumel(node1), kind.get_numel_rnumel(node2)
            square = len({n for pair in extents for n in pair}) == 1
            mixed = original(node1, node2) or (square and of_rows != kind.is_contiguous_node(node2))
            return mixed and _reduces_both(extents[0 if of_rows else 1][0], node1, node2)

        return has_mix_reduction_orders

    wrap_once(MixOrderReduction, "has_mix_reduction_orders", wrap, staticmethod)


def compile_kernels_by(rules: KernelRules) -> None:
    """Make Inductor compile marked graphs by some rules, in this thread and from now on.

    Inductor asks for its heuristics (``inductor_choices_class``) once per thread, when it compiles
    for the first time, and silently ignores the option in later compiles. So the current
    heuristics, which may be the user's, are replaced by a copy that also asks these rules.
    """
    from torch._inductor.virtualized import V

    _ask_for_rows_a_block()
    _ask_for_warps()
    _ask_for_two_steps()
    current = V.choices
    kind: Any = type(current)
    if not getattr(kind, "for_overlap", False):
        current = copy.copy(current)
        current.__class__ = _choices_by_rules(kind)
        V.set_choices_handler(current)
    current.rules = rules  # type: ignore[attr-defined]


def _rules() -> KernelRules | None:
    """Return the rules in force in this thread, or ``None``."""
    from torch._inductor.virtualized import V

    rules: KernelRules | None = getattr(V.choices, "rules", None)
    return rules


def _choices_by_rules(kind: Any) -> Any:
    """Return a subclass of a class of heuristics that asks the rules."""

    class ChoicesByRules(kind):  # type: ignore[misc]
        for_overlap = True

        @staticmethod
        def can_fuse_horizontal(
            scheduler: Any, node1: Any, node2: Any, shared_data_score: int
        ) -> bool:
            return not _kept_apart(node1, node2) and bool(
                kind.can_fuse_horizontal(scheduler, node1, node2, shared_data_score)
            )

        @staticmethod
        def can_fuse_vertical(
            scheduler: Any, node1: Any, node2: Any, shared_data_score: int
        ) -> bool:
            return not _kept_apart(node1, node2) and bool(
                kind.can_fuse_vertical(scheduler, node1, node2, shared_data_score)
            )

        @staticmethod
        def should_use_persistent_reduction(features: Any, cooperative_reduction: bool) -> bool:
            return bool(kind.should_use_persistent_reduction(features, cooperative_reduction)) or (
                not cooperative_reduction
                and inductor_config().triton.persistent_reductions
                and not _takes_many_rows(inductor_config())
                and not features.contains_op("scan")
                and _keeps_rows(features)
            )

        def triton_kernel_kwargs(
            self, kernel_cls: Any, features: Any, groups: Any, kernel_kwargs: dict[str, Any]
        ) -> dict[str, Any]:
            kwargs: dict[str, Any] = super().triton_kernel_kwargs(
                kernel_cls, features, groups, kernel_kwargs
            )
            if (piece := self._piece(features, groups, kwargs)) is None:
                return kwargs
            elements, warps = piece
            return kwargs | {"fixed_config": _fixed(warps, XBLOCK=1, R0_BLOCK=elements)}

        def _piece(
            self, features: Any, groups: Any, kwargs: dict[str, Any]
        ) -> tuple[int, int] | None:
            """Return the pieces in which a kernel takes its rows, or ``None`` for Inductor's."""
            config, width, rules = inductor_config(), _row(features), _rules()
            if width is None or rules is None or set(groups[0]) != {"x", "r0_"}:
                return None
            told = {"fixed_config", "mix_order_reduction"} & kwargs.keys()
            free = (
                not told
                and not any(name.startswith("override_") for name in kwargs)
                and not _is_tuned_by_inductor(config)
                and not config.triton.multi_kernel
                and not config.triton.force_cooperative_reductions  # otherwise only for few rows
                and not self.should_use_persistent_reduction(features, False)
            )
            return rules.piece(_known(groups[0]["x"]) or 0, width) if free else None

    return ChoicesByRules


def _row(features: Any) -> int | None:
    """Return the width of the rows that a marked graph's kernel reduces; ``None`` if unknown.

    The rules were measured on NVIDIA GPUs only. Others have different warps, so the width counts as
    unknown there, as it does for a kernel that reduces no rows.
    """
    reduces_rows = features.is_reduction() and features.get_reduction_hint().name == "INNER"
    if not torch.version.cuda or not reduces_rows or not _is_ours(*features.scheduler_nodes()):
        return None
    return _known(features.reduction_numel)


def _keeps_rows(features: Any) -> bool:
    width, rules = _row(features), _rules()
    return width is not None and rules is not None and rules.keeps_rows(width)


def _ask_for_rows_a_block() -> None:
    """Make Inductor ask the rules for the rows of a block that reduces along both dimensions."""
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


def _reduces_both(rows: Any, *nodes: Any) -> bool:
    """Return whether the rules allow one kernel for both reductions; only ours can refuse it."""
    rules, known = _rules(), _known(rows)
    if rules is None or known is None or not _is_ours(*nodes):
        return True
    return rules.reduces_both(known)


def _rows_a_block(rows: Any, columns: Any, *nodes: Any) -> int | None:
    """Return the rows of a block by the rules in force; ``None`` leaves them to Inductor."""
    rules, known = _rules(), _known(rows)
    if rules is None or known is None or not _is_ours(*nodes):
        return None
    return rules.rows_a_block(known, _known(columns) or 0)


def _ask_for_warps() -> None:
    """Make Inductor ask the rules for the warps of a block that reduces along both dimensions.

    The configuration is fixed after the kernel's construction. Before it, a configuration with
    ``XBLOCK`` 1 would remove the dimension along which the kernel loops.
    """
    if not inductor_has_option(ROWS_A_BLOCK):
        return
    from torch._inductor.codegen.triton import TritonScheduling

    def wrap(original: Any) -> Any:
        def create(self: Any, features: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            kernels = original(self, features, args, kwargs)
            config, rules = inductor_config(), _rules()
            rows = config.triton.mix_order_reduction_split_size
            if (
                kwargs.get("mix_order_reduction")
                and rows is not None
                and rules is not None
                and not _is_tuned_by_inductor(config)
                and not any(getattr(config.triton, name, False) for name in OTHER_KERNELS)
                and (warps := rules.warps(_row(features) or 0, rows)) is not None
            ):
                fixed = _fixed(warps, XBLOCK=1, RSPLIT_SIZE=rows, NUM_STAGES=1)
                for kernel in kernels:
                    kernel.fixed_config = fixed
            return kernels

        return create

    wrap_once(TritonScheduling, "create_kernel_choices", wrap)


def _ask_for_two_steps() -> None:
    """Make Inductor ask the rules whether variances are computed in two steps."""
    from torch._inductor import lowering
    from torch._inductor.virtualized import V

    def wrap(original: Any) -> Any:
        def use_two_step_variance(x: Any, axis: Any, *others: Any, **named: Any) -> bool:
            rules = _rules()
            return bool(original(x, axis, *others, **named)) or (
                rules is not None
                and rules.applies_to([V.graph.current_node])
                and _varies_in_two_steps(rules, x, axis)
            )

        return use_two_step_variance

    wrap_once(lowering, "use_two_step_variance", wrap)


def _varies_in_two_steps(rules: KernelRules, x: Any, axis: Any) -> bool:
    """Ask the rules about a reduction along the last dimension; return False if not on a GPU."""
    size, axes = x.get_size(), [axis] if isinstance(axis, int) else list(axis or ())
    if (
        not size
        or x.get_device().type != "cuda"
        or [at % len(size) for at in axes] != [len(size) - 1]
    ):
        return False
    known = [n for n in map(_known, size) if n is not None]
    is_known = len(known) == len(size)
    return is_known and rules.varies_in_two_steps(math.prod(known[:-1]), known[-1])


def _fixed(warps: int, **blocks: int) -> Any:
    """Return a fixed configuration for a kernel, for which Inductor does not search."""
    from torch._inductor.codegen.triton import FixedTritonConfig

    return FixedTritonConfig({**blocks, "num_warps": warps, "num_stages": 1})


def _is_tuned_by_inductor(config: Any) -> bool:
    """Return whether Inductor chooses configurations by timing."""
    return bool(
        config.max_autotune or config.max_autotune_pointwise or config.coordinate_descent_tuning
    )


def _takes_many_rows(config: Any) -> bool:
    """Return whether Inductor may put many rows in a block: too many if wide rows are kept."""
    return bool(config.combo_kernels or getattr(config.triton, "nested_reduction", False))


def _known(size: Any) -> int | None:
    """Return a size; ``None`` if it is not known before the program runs."""
    try:
        return int(size)
    except TypeError:  # a symbol
        return None


def _is_ours(*scheduler_nodes: Any) -> bool:
    """Return whether the rules hold for a kernel that computes these nodes."""
    rules = _rules()
    return rules is not None and rules.applies_to(_origins(*scheduler_nodes))


def _kept_apart(node1: Any, node2: Any) -> bool:
    """Return whether the rules forbid a kernel that computes both nodes."""
    rules = _rules()
    return rules is not None and rules.keeps_apart(_origins(node1, node2))


def _origins(*scheduler_nodes: Any) -> set[fx.Node]:
    """Return the graph nodes that (fused) scheduler nodes compute."""
    parts = (part.node for node in scheduler_nodes for part in node.get_nodes())
    return {origin for part in parts if part is not None for origin in part.get_origins()}
