"""Reasons why something was not done: a code for programs, a sentence and advice for people.

Every reason that a plan can give is made here, together with its advice. Programs compare ``code``
and never sentences.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum


class Code(StrEnum):
    """The kind of a reason, for programs."""

    # Nothing to overlap.
    NO_COLLECTIVE = "no_collective"
    NOT_TENSOR_PARALLEL = "not_tensor_parallel"
    # The user asked for it.
    SLICES_IS_1 = "slices_is_1"
    PASS_DISABLED = "pass_disabled"
    # Rows cannot be cut.
    ONE_ROW = "one_row"
    FEW_DYNAMIC_ROWS = "few_dynamic_rows"
    BOUNDED_BATCH = "bounded_batch"
    MISDECLARED_ATTENTION = "misdeclared_attention"
    NO_AXIS = "no_axis"
    NO_CARRIER = "no_carrier"
    COUPLED = "coupled"
    # Columns cannot be cut.
    NO_PRODUCT = "no_product"
    FEW_COLUMNS = "few_columns"
    NO_COLUMN_CARRIER = "no_column_carrier"
    # A cut is possible but does not pay.
    NO_GAIN = "no_gain"
    MARGIN = "margin"
    MEMORY = "memory"
    MEASURED = "measured"
    # About one collective.
    MERGED = "merged"
    DATA_PARALLEL = "data_parallel"
    STATISTICS = "statistics"
    STOPPED = "stopped"
    NOT_CARRIED = "not_carried"
    NO_COLUMNS_HERE = "no_columns_here"
    HIDDEN_UNCUT = "hidden_uncut"
    NOTHING_TO_OVERLAP = "nothing_to_overlap"
    NOT_SCHEDULED = "not_scheduled"
    # Ranks would plan differently.
    OWN_SIZES = "own_sizes"
    RANKS_DIFFER = "ranks_differ"
    # Origin of a plan.
    CACHED = "cached"
    FAULT = "fault"
    NOT_ESTABLISHED = "not_established"


class Way(StrEnum):
    """A remedy that can be checked: it is only suggested if it is possible."""

    ROWS = "options={'slices': 2} cuts the batch"
    COLUMNS = "options={'columns': 2} cuts the products in front of it and needs no batch"


@dataclass(frozen=True)
class Reason:
    """Why something was not done.

    Attributes:
        code: The kind of reason, for programs.
        text: The reason in words, without a full stop.
        advice: The remedy; empty if none is known.
        ways: Possible remedies that have yet to be checked.
    """

    code: Code
    text: str
    advice: str = ""
    ways: tuple[Way, ...] = ()

    def because(self, detail: str) -> Reason:
        """Return the same reason with a detail appended to its text."""
        return replace(self, text=f"{self.text}; {detail}") if detail else self

    def where(self, possible: Collection[Way]) -> Reason:
        """Return the same reason with its possible remedies added to the advice."""
        ways = [way for way in self.ways if way in possible]
        return replace(self, advice="; ".join(filter(None, (self.advice, *ways))), ways=())


def no_collective() -> Reason:
    """The graph has no collective."""
    return Reason(Code.NO_COLLECTIVE, "no collective in this graph")


def not_tensor_parallel() -> Reason:
    """The graph has collectives, but only outputs depend on them."""
    return Reason(Code.NOT_TENSOR_PARALLEL, "no tensor-parallel collective in this graph")


def slices_is_1() -> Reason:
    """The option ``slices`` asks for reordering only."""
    return Reason(
        Code.SLICES_IS_1, "slices=1 asks for reordering only", ways=(Way.ROWS, Way.COLUMNS)
    )


def pass_disabled(name: str) -> Reason:
    """The option ``disable_passes`` leaves a pass out."""
    return Reason(
        Code.PASS_DISABLED,
        f"the pass {name!r} is disabled",
        "leave the pass on: options={'disable_passes': ()}",
    )


def one_row(rows: int) -> Reason:
    """The batch is too small to be cut."""
    return Reason(
        Code.ONE_ROW, f"the batch has {rows} row, which cannot be cut", ways=(Way.COLUMNS,)
    )


def few_dynamic_rows(rows: int, needed: int) -> Reason:
    """A dynamic batch was compiled with too few rows."""
    return Reason(
        Code.FEW_DYNAMIC_ROWS,
        f"the dynamic batch was compiled with {rows} rows, and a slice needs at least {needed}",
        "compile with more rows first",
        (Way.COLUMNS,),
    )


def bounded_batch() -> Reason:
    """A dynamic batch has user-given bounds, on which guards are errors."""
    return Reason(
        Code.BOUNDED_BATCH,
        "the batch is marked dynamic with bounds, which forbids other guards",
        "mark it without min and max",
    )


def misdeclared_attention() -> Reason:
    """Results of attention are combined by Inductor, which is told a wrong type of them."""
    return Reason(
        Code.MISDECLARED_ATTENTION,
        "this version of torch tells Inductor a wrong type of what attention returns in float64 on"
        " a CPU, so its tokens cannot be cut",
        "torch 2.13 tells the right one; lowering='eager' does not need it",
    )


def no_axis() -> Reason:
    """No input dimension is followed all the way to a collective."""
    return Reason(
        Code.NO_AXIS,
        "no input has a dimension that a collective's whole payload follows",
        ways=(Way.COLUMNS,),
    )


def coupled() -> Reason:
    """A cut is possible, but most of what it cuts would have to be joined again."""
    return Reason(
        Code.COUPLED,
        "cutting the batch would join more bytes than it hides",
        ways=(Way.COLUMNS,),
    )


def no_carrier() -> Reason:
    """The batch was cut, but no collective carries it."""
    return Reason(Code.NO_CARRIER, "no collective carries the cut dimension", ways=(Way.COLUMNS,))


def with_exchanges(why: Reason) -> Reason:
    """The same holds if ranks exchange the tokens that they hold."""
    return replace(why, text=f"with tokens exchanged between ranks, {why.text}")


def no_product() -> Reason:
    """There is no product whose columns could be cut."""
    return Reason(
        Code.NO_PRODUCT,
        "no matrix product feeds a collective, so there are no columns to cut",
        ways=(Way.ROWS,),
    )


def few_columns(columns: int, parts: int, multiple: int = 1) -> Reason:
    """The products are too narrow for the requested parts.

    Args:
        columns: The number of columns of the products.
        parts: The requested number of parts.
        multiple: The number that must divide the columns of each part.
    """
    each = f", each a multiple of {multiple}" if multiple > 1 else ""
    most = columns // multiple if columns % multiple == 0 else 1
    return Reason(
        Code.FEW_COLUMNS,
        f"the products in front of collectives have {columns} columns, too few for {parts} parts"
        f"{each}",
        f"at most columns={most}",
        (Way.ROWS,),
    )


def no_column_carrier() -> Reason:
    """Columns were cut, but no collective carries them."""
    return Reason(
        Code.NO_COLUMN_CARRIER,
        "no collective carries the columns that were cut",
        ways=(Way.ROWS,),
    )


def no_gain() -> Reason:
    """No cut is predicted to be faster."""
    return Reason(Code.NO_GAIN, "no cut is predicted to pay")


def below_margin(text: str) -> Reason:
    """The best cut misses the required gain."""
    return Reason(
        Code.MARGIN,
        text,
        "options={'guard': 'measure'} times both; {'slices': 2} cuts regardless",
    )


def exchange_below_margin(predicted: str, margin: float) -> Reason:
    """A cut that needs exchanges misses the required gain.

    Args:
        predicted: The cut, and how its time compares with that without exchanges.
        margin: The required gain, as a fraction of the time.
    """
    return Reason(
        Code.MARGIN,
        f"the best cut with tokens exchanged between ranks {predicted}: the gain is"
        f" below the required {margin:.1%}",
        "options={'slices': 2} cuts regardless",
    )


def over_memory(text: str) -> Reason:
    """Every cut needs more memory than allowed."""
    return Reason(Code.MEMORY, text, "a larger memory_cap allows it")


def measured_slower(planned: str) -> Reason:
    """The guard measured the uncut program as faster."""
    return Reason(Code.MEASURED, f"measured faster than {planned}")


def merged() -> Reason:
    """Several all-reduces became one."""
    return Reason(Code.MERGED, "summed with others before one all-reduce")


def data_parallel() -> Reason:
    """Nothing in the model waits for this collective."""
    return Reason(
        Code.DATA_PARALLEL, "not tensor parallel: only an output (a gradient) depends on it"
    )


def statistics() -> Reason:
    """Each rank takes part in this collective with its own batch."""
    return Reason(
        Code.STATISTICS,
        "not tensor parallel: it carries sums over the batch or parameters, not rows of the batch",
    )


def own_sizes(kind: str, source: str) -> Reason:
    """Ranks exchange pieces whose sizes differ between ranks."""
    return Reason(
        Code.OWN_SIZES,
        f"the sizes of the {kind} of {source} differ between ranks, so ranks would choose"
        " different plans",
        "options={'slices': 2} plans the same on all ranks",
    )


def ranks_differ(text: str) -> Reason:
    """The ranks have different plans and did not agree on one."""
    return Reason(Code.RANKS_DIFFER, text, "run the same model, options and versions on all ranks")


def stopped(at: str) -> Reason:
    """The cut ends in front of this collective.

    Args:
        at: The operation that stops the cut, with the line in the user's code and the reason.
    """
    return Reason(Code.STOPPED, f"the cut ends in front of it, at {at}", ways=(Way.COLUMNS,))


def not_carried() -> Reason:
    """This collective's payload does not depend on the batch."""
    return Reason(
        Code.NOT_CARRIED, "its payload is not computed from the batch", ways=(Way.COLUMNS,)
    )


def no_columns_here() -> Reason:
    """No product in front of this collective has columns to cut."""
    return Reason(
        Code.NO_COLUMNS_HERE,
        "no product in front of it has columns that can be cut",
        ways=(Way.ROWS,),
    )


def hidden_uncut() -> Reason:
    """This collective is hidden without a cut."""
    return Reason(Code.HIDDEN_UNCUT, "hidden without a cut")


def nothing_to_overlap() -> Reason:
    """All independent work is done before the collective ends."""
    return Reason(
        Code.NOTHING_TO_OVERLAP,
        "no independent work is left to overlap with it",
        "more or longer rows give more work to overlap with",
    )


def not_scheduled() -> Reason:
    """No schedule contains the collective."""
    return Reason(Code.NOT_SCHEDULED, "it was not scheduled")


def cached() -> Reason:
    """The program came from a cache, with a plan but without graphs."""
    return Reason(Code.CACHED, "loaded from Inductor's cache", "explain it with the caches off")


def fault(phase: str, error: Exception) -> Reason:
    """One of our passes failed."""
    return Reason(
        Code.FAULT,
        f"internal fault in the {phase} passes: {type(error).__name__}: {error}",
        "report it, with the folder that the log's ERROR line names",
    )


def unequal(phase: str, why: str) -> Reason:
    """The check of the values did not establish that the graph computes the same."""
    return Reason(
        Code.NOT_ESTABLISHED,
        f"the {phase} graph is not established to compute the same: {why}",
        "report it, with the folder that the log's WARNING line names",
    )


def not_proved(phase: str, why: str) -> Reason:
    """A rank has not proved what its passes made of a graph, which differs from rank to rank."""
    return Reason(
        Code.NOT_ESTABLISHED, f"the {phase} graph is not proved to be equal on all ranks: {why}"
    )


def not_established(phase: str, why: str) -> Reason:
    """The check of the emitted code did not establish its order."""
    return Reason(
        Code.NOT_ESTABLISHED, f"the emitted order of the {phase} graph is not established: {why}"
    )
