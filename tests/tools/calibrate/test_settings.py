"""What can be refused is refused before anything starts; curves do not fall."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domino_compile.links import LinkTable, load_link, save_link
from domino_compile.tools.calibrate.clock import MAX_ITERATIONS, iterations_for
from domino_compile.tools.calibrate.collectives import monotone
from domino_compile.tools.calibrate.ranks import Place, place_in
from domino_compile.tools.calibrate.settings import (
    CalibrateError,
    Settings,
    check_group_sizes,
    check_name,
    check_writable,
    parse_group_sizes,
    parse_sizes,
    slug,
    why_unwritable,
)
from tests.profiles import examples

times = st.floats(0.1, 1e7)


def test_sizes() -> None:
    assert parse_sizes("1MiB, 64K,64kb,100,1.5m") == (100, 65536, 1 << 20, 3 << 19)
    assert parse_group_sizes("8,2, 4,2") == (2, 4, 8)


@pytest.mark.parametrize("text", ["", "x", "3x", "1,,2", "-1", "3", "1e6", "1 TiB"])
def test_sizes_that_cannot_be_read_are_named(text: str) -> None:
    with pytest.raises(CalibrateError, match="sizes: "):
        parse_sizes(text)


@pytest.mark.parametrize("text", ["", "1", "two", "2,0", "-4"])
def test_group_sizes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(CalibrateError, match="group size: must be a whole number of at least 2"):
        parse_group_sizes(text)


def test_groups_must_divide_the_ranks() -> None:
    check_group_sizes((2, 4, 8), 8)
    with pytest.raises(CalibrateError, match="8 ranks cannot be cut into groups of 3"):
        check_group_sizes((2, 3), 8)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "x.json", "h200-nvlink-8"])
def test_names_that_cannot_be_a_tables(name: str) -> None:
    with pytest.raises(CalibrateError, match="name: "):
        check_name(name)


def test_names_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "domino_compile"
    plain = Settings("cuda", (4,), 1)
    assert plain.table_name("NVIDIA H200", 8) == "nvidia-h200-8"
    assert plain.table_file("x") == folder / "links" / "x.json"
    assert plain.rates_file("NVIDIA H200") == folder / "rates-nvidia-h200.json"
    several = Settings("cuda", (4,), 1, group_sizes=(2, 4), name="mine")
    assert several.table_name("NVIDIA H200", 4) == "mine-4"
    assert Settings("cpu", (4,), 1, out=tmp_path / "my.json").table_name("x", 2) == "my"
    with pytest.raises(CalibrateError, match="leave it out"):
        Settings("cpu", (4,), 1, group_sizes=(2, 4), out=tmp_path / "my.json")
    with pytest.raises(CalibrateError, match="is called like its file"):
        Settings("cpu", (4,), 1, name="other", out=folder / "links" / "my.json")
    assert slug("AMD EPYC (tm)  9 / x") == "amd-epyc-tm-9-x" and slug("()") == "device"


def test_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "a.json")
    assert list((tmp_path / "new").iterdir()) == []
    assert why_unwritable(Path("/dev/null")) == "" == why_unwritable(Path(__file__))
    for path in (tmp_path, Path("/proc/nowhere/a.json"), Path(__file__) / "a.json"):
        with pytest.raises(CalibrateError, match="cannot write"):
            check_writable(path)


@examples(60)
@given(
    values=st.lists(times, min_size=1, max_size=12),
    floor=times,
    sizes=st.sets(st.integers(4, 1 << 40), min_size=12),
)
def test_a_curve_does_not_fall_and_is_a_link_tables(
    values: list[float],
    floor: float,
    sizes: set[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ordered = sorted(sizes)[: len(values)]
    found = monotone(ordered, values, floor)
    points = found.curve.points
    assert [size for size, _ in points] == ordered
    assert all(a[1] <= b[1] for a, b in pairwise(points))
    changed = [s for (s, time), value in zip(points, values, strict=True) if time != value]
    assert changed == list(found.raised)
    assert all(time >= value for (_, time), value in zip(points, values, strict=True))
    assert found.curve.floor_us == min(floor, points[0][1])
    path = tmp_path_factory.getbasetemp() / "curve.json"
    table = LinkTable("curve", 2, 1, "a test", {"all_reduce": found.curve})
    save_link(table, path)
    assert load_link(path) == table


@given(times, st.floats(1e-6, 1.0))
def test_rounds_are_long_enough_or_have_most_calls(estimate: float, round_s: float) -> None:
    count = iterations_for(estimate, round_s)
    assert 1 <= count <= MAX_ITERATIONS
    assert count == MAX_ITERATIONS or count * estimate >= round_s * 1e6 * (1 - 1e-9)


def test_place() -> None:
    env = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "5", "LOCAL_WORLD_SIZE": "8"}
    assert place_in(env) is None
    env |= {"MASTER_ADDR": "x", "MASTER_PORT": "1"}
    place = place_in(env)
    assert place == Place(5, 16, 5, 8)
    assert [place.nodes(size) for size in (2, 8, 16)] == [1, 1, 2]
    assert Place(0, 12, 0, 4).nodes(6) == 2
    with pytest.raises(CalibrateError, match="torchrun's environment"):
        place_in(env | {"RANK": "x"})
