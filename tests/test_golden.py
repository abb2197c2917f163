"""The golden fixture itself: what it accepts, what it refuses, what an update writes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import conftest

Golden = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    if request.config.getoption("--update-golden"):
        pytest.skip("would test the update instead")
    monkeypatch.setattr(conftest, "GOLDEN", tmp_path)
    return tmp_path


def test_same_text_passes(golden: Golden, folder: Path) -> None:
    (folder / "a.txt").write_text("one\ntwo\n")
    golden("a.txt", "one\ntwo")


def test_a_difference_fails_with_the_diff(golden: Golden, folder: Path) -> None:
    (folder / "a.txt").write_text("one\n")
    with pytest.raises(pytest.fail.Exception, match=r"-one\n\+two\nif this is right: make golden"):
        golden("a.txt", "two\n")


def test_a_missing_file_fails_with_the_command(golden: Golden) -> None:
    with pytest.raises(pytest.fail.Exception, match="make golden"):
        golden("missing.txt", "text")


@pytest.mark.parametrize("text", ["<object at 0x7f0011223344>", f"file {conftest.ROOT}/a.py"])
def test_unstable_text_is_refused(golden: Golden, text: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="differs from run to run"):
        golden("a.txt", text)


def test_update_writes(golden: Golden, folder: Path) -> None:
    check = conftest.make_golden_check(update=True)
    check("sub/a.txt", "one")
    assert (folder / "sub" / "a.txt").read_text() == "one\n"
    golden("sub/a.txt", "one\n")
