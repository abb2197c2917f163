"""Link tables: measured points are met, curves behave, wrong files and names are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domino_compile.errors import DominoError
from domino_compile.links import (
    COLLECTIVES,
    Contention,
    LinkError,
    LinkTable,
    busbw_factor,
    list_links,
    load_link,
    parse_link,
    save_link,
)
from domino_compile.links.load import DATA
from tests.profiles import examples

TABLES = list_links()
MIB = 1 << 20
CONTENTION = {"product": [8, 8, 8], "products": 1.5}
sizes = st.integers(min_value=0, max_value=1 << 36)


def good() -> dict[str, object]:
    return {
        "name": "mine",
        "ranks": 4,
        "nodes": 1,
        "source": "a test",
        "collectives": {"all_reduce": {"size_mib": [1, 4], "time_us": [100, 250]}},
    }


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_file_name_is_link_name_and_points_are_met(path: Path) -> None:
    table = load_link(path.stem)
    assert table.name == path.stem and table.source
    curve = json.loads(path.read_text())["collectives"]["all_reduce"]
    if "latency_us" in curve:
        large = 1 << 34
        expected = curve["latency_us"] + large / curve["algbw_gb_s"] / 1e3
        assert table.time_us("all_reduce", large) == pytest.approx(expected, rel=0.01)
        return
    for i, mib in enumerate(curve["size_mib"]):
        time = table.time_us("all_reduce", mib * MIB)
        if "time_us" in curve:
            assert time == pytest.approx(curve["time_us"][i], rel=0.01)
        if "busbw_gb_s" not in curve:  # measured here: time is all there is
            continue
        busbw = mib * MIB / time / 1e3 * busbw_factor("all_reduce", table.ranks)
        assert busbw == pytest.approx(curve["busbw_gb_s"][i], rel=0.02)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@examples(60)
@given(a=sizes, b=sizes, collective=st.sampled_from(COLLECTIVES), ranks=st.integers(2, 64))
def test_monotone_positive_and_above_the_floor(
    table: LinkTable, a: int, b: int, collective: str, ranks: int
) -> None:
    low, high = sorted((a, b))
    for link in (table, table.scaled_to(ranks)):
        floor = link.time_us(collective, 0)
        assert 0 < floor <= link.time_us(collective, low)
        assert link.time_us(collective, low) <= link.time_us(collective, high) * (1 + 1e-12)


def test_collectives_without_a_curve_follow_the_bus_bandwidth_factors() -> None:
    azure, h200 = load_link("h200-nvlink-8-azure"), load_link("h200-nvlink-8")
    reduce_us = azure.time_us("all_reduce", 64 * MIB)
    assert azure.time_us("all_gather", 64 * MIB) == pytest.approx(reduce_us / 2)
    assert azure.time_us("broadcast", 64 * MIB) == pytest.approx(reduce_us * 8 / 14)
    assert azure.time_us("barrier", 64 * MIB) == azure.time_us("all_reduce", 0)
    assert h200.time_us("all_gather", MIB) == pytest.approx(46 / 2 * 480 / 361.4, rel=1e-3)


def test_scaling_keeps_floor_and_bus_bandwidth() -> None:
    base = load_link("h200-nvlink-8")
    two = base.scaled_to(2)
    assert two.ranks == 2 and two.name != base.name and "scaled from 8" in two.note
    assert two.time_us("all_reduce", 0) == base.time_us("all_reduce", 0)
    above = [link.time_us("all_reduce", 1 << 30) - 35 for link in (base, two)]
    assert above[1] / above[0] == pytest.approx(1 / 1.75, rel=1e-6)
    assert base.scaled_to(8) is base
    with pytest.raises(LinkError, match="at least 2"):
        base.scaled_to(1)


def test_demo_link_is_labelled_made_up() -> None:
    demo = load_link("demo-2")
    assert demo.made_up and "made up" in str(demo)
    assert demo.time_us("all_reduce", MIB) == pytest.approx(8_000, rel=0.05)


def test_ramp_of_a_model_counts_bytes_per_rank() -> None:
    model = load_link("h100-ib-2x8-model")
    nbytes = 1 * MIB  # 64 KiB a rank: ramp 0.15
    expected = 53 + nbytes / (266.7e3 * 0.15)
    assert model.time_us("all_reduce", nbytes) == pytest.approx(expected, rel=1e-6)


def test_unknown_name_gives_nearest_and_all_names() -> None:
    with pytest.raises(LinkError, match="unknown link 'h200-nvlnk-8'; did you mean 'h200-nv") as e:
        load_link("h200-nvlnk-8")
    assert all(table.name in str(e.value) for table in TABLES)
    assert isinstance(e.value, DominoError) and "\n" not in str(e.value)


def test_unknown_collective_is_refused() -> None:
    with pytest.raises(LinkError, match="unknown collective 'allreduce'; did you mean 'all_red"):
        TABLES[0].time_us("allreduce", 1)


def test_path_and_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(good()))
    table = load_link(path)
    assert table == load_link(str(path)) == load_link(table)
    assert table.time_us("all_reduce", 2 * MIB) == pytest.approx((100 * 250) ** 0.5)
    save_link(TABLES[0], tmp_path / "copy.json")
    assert load_link(tmp_path / "copy.json") == TABLES[0]


def test_contention_is_optional_and_survives_a_round_trip(tmp_path: Path) -> None:
    assert {table.contention is None for table in TABLES} == {True, False}
    save_link(TABLES[0], tmp_path / "plain.json")
    assert json.loads((tmp_path / "plain.json").read_text())["schema"] == 1
    found = Contention((8192, 4096, 4096), 1.3, 1.1, {"all_reduce": 1.2}, 0.25)
    table = replace(TABLES[0], contention=found)
    save_link(table, tmp_path / "copy.json")
    assert load_link(tmp_path / "copy.json") == table
    assert json.loads((tmp_path / "copy.json").read_text())["schema"] == 2
    assert table.scaled_to(4).contention == found
    assert (found.of("all_reduce"), found.of("all_gather")) == (1.2, 1.2)
    assert parse_link(good() | {"contention": CONTENTION}, "").contention == Contention(
        (8, 8, 8), 1.5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"products": 0.9}, "products: must be at least 1"),
        ({"product": [8, 8]}, "product: must be three whole numbers"),
        ({"product": [8, 8, 0.5]}, "product: must be three whole numbers"),
        ({"collectives": {"all_reduce": "2"}}, "collectives.all_reduce: must be a number"),
        ({"collectives": {"all_reduced": 2}}, "collectives.all_reduced: unknown key"),
        ({"regained": 1.0}, "regained: must be at least -1 and less than 1"),
        ({"regained": -1.1}, "regained: must be at least -1 and less than 1"),
        ({"wire": 2}, "wire: unknown key"),
    ],
)
def test_malformed_contention_names_the_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(LinkError) as caught:
        parse_link(good() | {"contention": CONTENTION | change}, "x.json")
    assert f"link file x.json: contention.{message}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": 1}, "ranks: must be a whole number of at least 2"),
        ({"source": 3}, "source: must be a string"),
        ({"soruce": ""}, "soruce: unknown key; did you mean 'source'"),
        ({"ctas": True}, "ctas: must be a whole number"),
        ({"made_up": 1}, "made_up: must be true or false"),
        ({"collectives": []}, "collectives: must be a JSON object"),
        ({"collectives": {}}, "collectives.all_reduce: is missing"),
        ({"busbw_ratio": {"all_gather": 0}}, "busbw_ratio.all_gather: must be positive"),
    ],
)
def test_malformed_file_names_file_and_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(LinkError) as caught:
        parse_link(good() | change, "x.json")
    assert f"link file x.json: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"size_mib": [1]}, "time_us: is missing"),
        ({"time_us": [1]}, "size_mib: is missing"),
        ({"size_mib": [1, 2], "time_us": [1]}, "time_us: has 1 values for 2 sizes"),
        ({"size_mib": [2, 1], "time_us": [1, 2]}, "size_mib: must increase"),
        ({"size_mib": [1, 2], "time_us": [2, 1]}, "size_mib: the time falls"),
        ({"size_mib": [1, "2"], "time_us": [2, 1]}, "size_mib[1]: must be a number"),
        ({"size_mib": [1], "time_us": [2], "floor_us": 3}, "floor_us: is above the first point"),
        (
            {"size_bytes": [0.4, 8], "time_us": [1, 2]},
            "size_bytes[0]: must be at least one byte, not 0.4",
        ),
        ({"size_mib": [1e-9], "time_us": [1]}, "size_mib[0]: must be at least one byte, not 1e-09"),
        ({"latency_us": 3}, "algbw_gb_s: is missing"),
        ({"latency_us": -3, "algbw_gb_s": 1}, "latency_us: must be positive"),
        ({"time_u": [1]}, "time_u: unknown key"),
    ],
)
def test_malformed_curve_names_file_and_key(curve: dict[str, object], message: str) -> None:
    with pytest.raises(LinkError) as caught:
        parse_link(good() | {"collectives": {"all_reduce": curve}}, "x.json")
    assert f"link file x.json: collectives.all_reduce.{message}" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"link file .*missing.json: No such file"):
        load_link(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(LinkError, match=r"link file .*bad.json: not JSON"):
        load_link(tmp_path / "bad.json")
