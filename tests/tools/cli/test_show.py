"""Tables fit any width: columns that do not are left out and named, prose is folded."""

import contextlib
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domino_compile.tools.cli.show import (
    MOST_SILENT_S,
    PROGRESS_S,
    digits,
    progress_bar,
    progress_lines,
    say,
    show_table,
    size_text,
)
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


def test_status_and_exposed_stay_however_wide_the_names_are() -> None:
    columns = ["where", "phase", "status", "exposed", "wire"]
    name = "a.very.long.module.path.that.nobody.would.give." * 3
    rows = [[name, "backward", "partly hidden", "30.749 ms", "37.750 ms"]] * 2
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("COLUMNS", "64")
        show_table(columns, rows, always=4)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 64
    assert any("partly hidden" in line and "30.749 ms" in line for line in lines)
    assert "".join(line.split()[0] for line in lines[2:] if line.split()).count("nobody") >= 2


def test_a_pipe_gets_everything() -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.delenv("COLUMNS", raising=False)
        show_table(["name", "value"], [["x" * 300, "y" * 300]])
        say("word " * 100)
    assert "x" * 300 in out.getvalue() and "y" * 300 in out.getvalue()
    assert out.getvalue().splitlines()[-1].count("word") == 100


def test_progress_is_written_while_nobody_reports_any(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("domino_compile.tools.cli.show.PROGRESS_S", 0.01)
    with progress_bar() as progress:
        progress("compiling", 0.25)
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 6 and lines[-1].endswith("25% compiling")
    with progress_lines() as say_now:
        say_now("planning graph 0")
        time.sleep(0.1)
    assert capsys.readouterr().err.splitlines()[-1].endswith("s] planning graph 0")
    with progress_bar(enabled=False), progress_lines(enabled=False):
        time.sleep(0.03)
    assert capsys.readouterr().err == ""


def test_progress_is_never_silent_for_long() -> None:
    assert PROGRESS_S <= MOST_SILENT_S <= 10


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
