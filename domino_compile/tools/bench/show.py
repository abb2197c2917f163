"""The table of a benchmark: its columns, and the format of numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from domino_compile.ratio import factor_text
from domino_compile.tools.bench.result import BenchResult, VariantResult

Cell = Callable[[VariantResult], str]


def _number(name: str, form: str, scale: float = 1.0) -> Cell:
    def cell(result: VariantResult) -> str:
        value = getattr(result, name)
        return "" if value is None else form.format(value * scale)

    return cell


def _spread(result: VariantResult) -> str:
    return "" if result.spread_ms is None else "{:.2f}-{:.2f}".format(*result.spread_ms)


def _speedup(result: VariantResult) -> str:
    return "" if result.speedup is None else factor_text(result.speedup, 1.0)


def _slices(result: VariantResult) -> str:
    return f"{result.slices}x{result.columns}" if result.columns > 1 else str(result.slices)


#: Titles and contents, the most important first, because a narrow terminal shows fewer columns.
COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("variant", lambda result: result.variant),
    ("step ms", _number("step_ms", "{:.2f}")),
    ("middle half", _spread),
    ("speed-up", _speedup),
    ("hidden %", _number("hidden_fraction", "{:.0f}", 100)),
    ("exposed ms", _number("exposed_ms", "{:.2f}")),
    ("wire ms", _number("wire_ms", "{:.2f}")),
    ("of free", _number("fraction_of_free", "{:.2f}")),
    ("of bound", _number("fraction_of_bound", "{:.2f}")),
    ("inflation", _number("inflation", "{:.3f}")),
    ("peak MiB", _number("peak_mib", "{:.0f}")),
    ("estimate", _number("predicted_peak_mib", "{:.0f}")),
    ("slices", _slices),
    ("compile s", _number("compile_s", "{:.0f}")),
    ("error", _number("grad_error", "{:.1e}")),
    ("float64", _number("grad_error_float64", "{:.1e}")),
    ("error ratio", _number("grad_error_ratio", "{:.3f}")),
    ("host ms", _number("host_ms", "{:.2f}")),
)


def table(result: BenchResult) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows, without columns that have no measurement."""
    measured = [v for v in result.variants if v.step_ms is not None]
    rows = [[cell(v) for _, cell in COLUMNS] for v in measured]
    kept = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows)]
    return [COLUMNS[i][0] for i in kept], [[row[i] for i in kept] for row in rows]


def kinds(result: BenchResult) -> list[str]:
    """Return the kinds of kernels that occurred."""
    return sorted({kind for variant in result.variants for kind in variant.parts_ms})


def page(result: BenchResult) -> str:
    """Return a self-contained HTML page (needs jinja2)."""
    import jinja2

    text = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    titles, rows = table(result)
    measured = [v for v in result.variants if v.step_ms is not None]
    return environment.from_string(text).render(
        r=result,
        measured=measured,
        failed=[v for v in result.variants if v.error],
        longest=max((v.step_ms or 0.0 for v in measured), default=1.0),
        titles=titles,
        rows=rows,
        kinds=kinds(result),
    )
