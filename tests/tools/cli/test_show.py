"""Tables fit any width: columns that do not are left out and named, prose is folded."""

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domino_compile.tools.cli.show import digits, show_table, size_text
from tests.profiles import examples

words = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=12)


def printed(width: int, columns: list[str], rows: list[list[str]], *, wrap: bool = False) -> str:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("COLUMNS", str(width))
        show_table(columns, rows, title="[red]a title[/red]", wrap=wrap)
    return out.getvalue()


@examples(40)
@given(data=st.data(), width=st.integers(30, 120), columns=st.integers(1, 9))
def test_no_line_is_wider_and_no_column_is_lost_silently(
    data: st.DataObject, width: int, columns: int
) -> None:
    headings = [f"h{data.draw(words)}" for _ in range(columns)]
    rows = data.draw(st.lists(st.lists(words, min_size=columns, max_size=columns), max_size=4))
    out = printed(width, headings, rows)
    assert max(map(len, out.splitlines())) <= width
    joined = "".join(out.split())
    assert "[red]" in joined  # text is text, not markup
    assert all(heading in joined for heading in headings)


def test_prose_is_folded() -> None:
    out = printed(40, ["a", "b"], [["x", "word " * 30]], wrap=True)
    assert out.count("word") == 30 and max(map(len, out.splitlines())) <= 40


@given(st.floats(0.001, 1e9))
def test_digits_keep_the_value(value: float) -> None:
    shown = digits(value)
    assert "e" not in shown
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.05, abs=0.0005)


@pytest.mark.parametrize(
    ("nbytes", "text"), [(12, "12 B"), (65536, "64 KiB"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB")]
)
def test_sizes(nbytes: int, text: str) -> None:
    assert size_text(nbytes) == text
