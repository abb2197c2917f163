"""`domino links`: what is printed parses, fits, and says what is emulated; the user's folder."""

import json
from pathlib import Path

import pytest

from domino_compile.links import LinkError, list_links, load_link, save_link
from domino_compile.links.load import DATA
from tests.tools.cli.conftest import Domino

PACKAGE = sorted(path.stem for path in DATA.glob("*.json"))


def put(folder: Path, name: str, text: str | None = None) -> Path:
    """A table of the user's, or what stands in its place."""
    path = folder / "links" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        data = json.loads((DATA / "demo-2.json").read_text()) | {"name": name, "made_up": False}
        text = json.dumps(data)
    path.write_text(text)
    return path


def test_json_lists_every_table(domino: Domino) -> None:
    said = domino("links", "--json")
    assert said.code == 0 and said.err == ""
    found = said.data()
    assert found["emulated"] is True and found["broken"] == []
    assert [link["name"] for link in found["links"]] == PACKAGE
    for link in found["links"]:
        table = load_link(link["name"])
        assert (link["ranks"], link["nodes"], link["ctas"]) == (
            table.ranks,
            table.nodes,
            table.ctas,
        )
        assert link["source"] == table.source and link["from"] == "package"
        sizes = [point["size_bytes"] for point in link["all_reduce"]]
        assert sizes == [1 << 20, 8 << 20, 32 << 20, 128 << 20]
        for point in link["all_reduce"]:
            assert point["time_us"] == table.time_us("all_reduce", point["size_bytes"])
    kinds = {link["name"]: link["numbers"] for link in found["links"]}
    assert kinds["demo-2"] == "made up" and kinds["h200-nvlink-8"] == "measured"
    assert kinds["h100-ib-2x8-model"] == "modelled"


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("name", ["", *PACKAGE])
def test_text_fits_the_width_and_says_emulated(
    domino: Domino, monkeypatch: pytest.MonkeyPatch, width: int, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    said = domino("links", *name.split())
    assert said.code == 0 and "emulated" in said.out
    assert max(map(len, said.out.splitlines())) <= width
    assert "\x1b" not in said.out and "…" not in said.out and "Not shown" not in said.out
    assert all(link in said.out for link in ([name] if name else PACKAGE))


@pytest.mark.parametrize("name", PACKAGE)
def test_json_of_one_table_has_all_curves_and_notes(domino: Domino, name: str) -> None:
    table, found = load_link(name), domino("links", name, "--json").data()
    assert found["note"] == table.note and found["nccl"] == table.nccl
    assert set(found["curves"]) == set(table.curves)
    for collective, curve in found["curves"].items():
        points = tuple((point["size_bytes"], point["time_us"]) for point in curve["points"])
        assert points == table.curves[collective].points
    assert "all_to_all" in found["derived"] and "barrier" not in found["derived"]


def test_a_file_is_shown_by_its_path(domino: Domino, tmp_path: Path) -> None:
    save_link(load_link("h200-nvlink-8"), tmp_path / "copy.json")
    said = domino("links", str(tmp_path / "copy.json"), "--json")
    assert said.data() == domino("links", "h200-nvlink-8", "--json").data()


def test_the_users_tables_are_found_and_marked(domino: Domino, user_folder: Path) -> None:
    path = put(user_folder, "mine")
    links = {link["name"]: link for link in domino("links", "--json").data()["links"]}
    assert links["mine"]["from"] == "user" and links["mine"]["file"] == str(path)
    assert "user" in domino("links").out
    assert domino("links", "mine", "--json").data()["numbers"] == "modelled"
    assert load_link("mine") == load_link(path) and load_link("mine") in list_links()


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("broken", "{", "not JSON"),
        ("short", '{"name": "short"}', "ranks: is missing"),
        ("deep", "[" * 100_000, "not JSON"),
        ("huge", json.dumps({"name": "huge", "ranks": 2, "nodes": 1, "source": "x", "collectives":
                 {"all_reduce": {"latency_us": 10**400, "algbw_gb_s": 1}}}), "finite"),
        ("list", json.dumps({"name": "list", "ranks": 2, "nodes": 1, "source": "x", "collectives":
                 {"all_reduce": 3}}), "must be a JSON object"),
        ("new", '{"schema": 3, "ranks": 2}', "schema: is 3; this version reads up to 2"),
        ("demo-2", None, "the package has a table of this name"),
        ("other", (DATA / "demo-2.json").read_text(), "name: must be 'other' like the file"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_and_breaks_nothing_else(
    domino: Domino, user_folder: Path, name: str, text: str | None, problem: str
) -> None:
    path = put(user_folder, name, text)
    put(user_folder, "mine")
    said = domino("links")
    assert said.code == 0 and "mine" in said.out
    assert said.err.startswith("warning: link file ") and said.err.count("\n") == 1
    assert str(path) in said.err and problem in said.err
    found = domino("links", "--json")
    assert found.err == "" and [entry["file"] for entry in found.data()["broken"]] == [str(path)]
    assert [link["name"] for link in found.data()["links"]] == [*PACKAGE, "mine"]
    if name != "demo-2":
        assert domino("links", name).code == 2
        with pytest.raises(LinkError, match="link file"):
            load_link(name)


def test_a_relative_config_folder_is_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from domino_compile.links.user import links_folder

    monkeypatch.setenv("XDG_CONFIG_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert links_folder() == tmp_path / ".config" / "domino_compile" / "links"
