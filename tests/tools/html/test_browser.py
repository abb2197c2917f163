"""The report in a real browser: it draws, filters, follows links, and is quiet about it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from domino_compile import Explanation
from domino_compile.report.explanation import explanation_of
from domino_compile.tools.html import Dump, ReportData, page
from domino_compile.tools.timelines import predicted
from tests.tools.html.conftest import dumped

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=f"needs one of {', '.join(NAMES)}"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        yield started
        started.close()


def opened(browser: Browser, path: Path, **settings: Any) -> Page:
    """A page that fails its test if it complains or asks for anything from anywhere."""
    settings = {"viewport": {"width": 1280, "height": 900}} | settings
    view = browser.new_page(**settings)
    view.set_default_timeout(60_000)
    view.complaints = []  # type: ignore[attr-defined]
    note = view.complaints.append  # type: ignore[attr-defined]
    view.on("pageerror", lambda error: note(str(error)))
    view.on("console", lambda m: note(m.text) if m.type in ("error", "warning") else None)
    view.on("request", lambda r: note(r.url) if not r.url.startswith(("file:", "data:")) else None)
    view.goto(path.as_uri())
    view.wait_for_selector("body[data-ready]")
    return view


@pytest.fixture
def view(browser: Browser, report: Path) -> Iterator[Page]:
    page = opened(browser, report)
    yield page
    assert page.complaints == []  # type: ignore[attr-defined]
    page.close()


def spans(view: Page) -> list[dict[str, Any]]:
    """What the timeline shows now."""
    found: list[dict[str, Any]] = view.evaluate(
        "() => { const d = domino.source.data, names = Object.keys(d);"
        "return d.left.map((_, i) => Object.fromEntries(names.map((n) => [n, d[n][i]]))); }"
    )
    return found


def chosen(view: Page) -> int:
    found: int = view.evaluate("() => domino.chosen.data.left.length")
    return found


def graph_shown(view: Page, number: int = 0) -> None:
    """Wait for the operations of a graph, which are expanded when they are first needed."""
    view.wait_for_selector(f"#graphs[data-shown='{number}']")


def window(view: Page) -> tuple[float, float]:
    start, end = view.evaluate("() => [domino.plot.x_range.start, domino.plot.x_range.end]")
    return start, end


def on_screen(view: Page, selector: str) -> bool:
    return bool(view.locator(selector).first.evaluate(
        "(e) => { const r = e.getBoundingClientRect();"
        "return r.bottom > 0 && r.top < innerHeight; }"
    ))  # fmt: skip


def test_it_draws_both_timelines(view: Page, data: ReportData) -> None:
    before, after, _ = data.timelines
    assert len(spans(view)) == len(before.spans) + len(after.spans)
    colours = view.evaluate(
        """() => {
        const found = new Set();
        const look = (root) => { for (const e of root.querySelectorAll("*")) {
            if (e.shadowRoot) look(e.shadowRoot);
            if (e.tagName !== "CANVAS" || !e.width) continue;
            const c = e.getContext("2d"), px = c.getImageData(0, 0, e.width, e.height).data;
            for (let i = 0; i < px.length; i += 4) if (px[i + 3] === 255)
                found.add(`${px[i]},${px[i + 1]},${px[i + 2]}`);
        } };
        look(document.querySelector("#plot"));
        return [...found];
        }"""
    )
    assert {"0,114,178", "230,159,0", "138,143,152"} <= set(colours)  # slices 0, 1 and whole


def test_what_is_unchecked_is_gone(view: Page) -> None:
    everything = spans(view)
    view.uncheck("input[data-filter=slice][value='1']")
    view.click(".more summary")
    view.uncheck("input[data-filter=kind][value=pointwise]")
    left = spans(view)
    assert left == [s for s in everything if s["slice"] != 1 and s["kind"] != "pointwise"]
    view.uncheck("input[data-filter=phase][value=forward]")
    assert {s["phase"] for s in spans(view)} == {"backward"}
    view.check("input[data-filter=slice][value='1']")
    assert any(s["slice"] == 1 for s in spans(view))


def test_another_rank(view: Page, data: ReportData) -> None:
    titles = """() => [...domino.plot.references()]
        .filter((m) => m.type === "Label" && m.visible).map((m) => m.text).sort()"""
    assert not any(s["name"].startswith("slow") for s in spans(view))
    assert view.evaluate(titles) == sorted(t.summary() for t in data.timelines if t.rank == 0)
    view.select_option("#rank", "1")
    assert all(s["name"].startswith("slow") and s["rank"] == 1 for s in spans(view))
    assert view.evaluate(titles) == [data.timelines[2].summary()]


def test_from_the_table_to_the_timeline_and_the_graph(view: Page, data: ReportData) -> None:
    row = data.explanation.rows[1]
    line = f"#collective-{row.key.replace(':', '-')}"
    whole = window(view)
    view.click(f"{line} [data-go=timeline]")
    marked = [s for s in spans(view) if s["collective"] == row.key]
    assert chosen(view) == len(marked) >= 3  # uncut, and two slices
    after = [s for s in marked if s["timeline"] == 1 and s["lane"] == "wire"]
    start, end = window(view)
    assert start <= after[0]["left"] and after[-1]["right"] <= end and end - start < whole[1]
    assert after[0]["name"] in view.inner_text("#detail") and on_screen(view, "#plot")
    assert view.locator("#graphs .op").count() == 0
    view.click(f"{line} [data-go=graph]")
    found = view.locator("#after .op.found")
    found.first.wait_for()
    assert found.count() >= 2 and row.name in found.first.inner_text()
    assert on_screen(view, "#after .op.found")
    found.first.get_by_role("button", name="table").click()
    assert view.locator("tr.chosen").get_attribute("data-key") == row.key
    assert on_screen(view, "tr.chosen")


def test_from_the_timeline_to_table_and_graph(view: Page) -> None:
    view.focus("#plot")
    view.keyboard.press("n")
    view.get_by_role("button", name="in the table").click()
    key = view.locator("tr.chosen").get_attribute("data-key")
    assert key and key.startswith("0:")
    view.get_by_role("button", name="in the graph").click()
    view.locator("#after .op.found").first.wait_for()
    assert view.locator(f"#after .op.found[data-key='{key}']").count() >= 1


def pixel_of(view: Page, span: dict[str, Any]) -> tuple[float, float]:
    """The middle of a span, in pixels of the window."""
    x, y = view.evaluate(
        """([x, y]) => {
        const frame = Bokeh.index.get_by_id(domino.plot.id);
        const sx = frame.frame.x_scale.compute(x), sy = frame.frame.y_scale.compute(y);
        const canvas = frame.canvas_view.el.getBoundingClientRect();
        return [canvas.left + sx, canvas.top + sy];
        }""",
        [(span["left"] + span["right"]) / 2, (span["bottom"] + span["top"]) / 2],
    )
    return x, y


def lit(view: Page) -> list[tuple[float, float]]:
    """Begin and end of the pieces that are outlined for the one under the pointer."""
    data = view.evaluate("() => [domino.lit.data.left, domino.lit.data.right]")
    return list(zip(*map(list, data), strict=True))


def point_at(view: Page, span: dict[str, Any]) -> None:
    x, y = pixel_of(view, span)
    view.mouse.move(x + 1, y)
    view.mouse.move(x, y)
    name = span["name"]
    view.wait_for_function(f"() => document.querySelector('#detail b')?.textContent === '{name}'")


def test_pointing_at_a_collective_lights_up_what_hides_it(view: Page) -> None:
    after = [s for s in spans(view) if s["timeline"] == 1]
    work = [s for s in after if s["lane"] == "compute" and s["kind"] not in ("wait", "late")]
    wire = max(
        (s for s in after if s["lane"] == "wire"),
        key=lambda w: sum(s["left"] < w["right"] and w["left"] < s["right"] for s in work),
    )
    point_at(view, wire)
    text = view.inner_text("#detail")
    assert "% hidden" in text and wire["source"] in text and " ms" in text
    expected = [
        (s["left"], s["right"])
        for s in work
        if s["left"] < wire["right"] and wire["left"] < s["right"]
    ]
    assert sorted(lit(view)) == pytest.approx(sorted(expected)) and expected
    x, y = pixel_of(view, wire)
    view.mouse.click(x, y)
    assert view.locator("tr.chosen").get_attribute("data-key") == wire["collective"]
    assert view.locator(".bk-Tooltip:visible").count() == 0  # nothing covers a lane


def test_a_wait_leads_to_its_collective(view: Page) -> None:
    wait = max(
        (s for s in spans(view) if s["kind"] == "wait"), key=lambda s: float(s["right"] - s["left"])
    )
    point_at(view, wait)
    assert "waits for the wire" in view.inner_text("#detail")
    assert len(lit(view)) == 1
    view.mouse.click(*pixel_of(view, wait))
    view.get_by_role("button", name="its collective").click()
    assert "hidden" in view.inner_text("#detail") and chosen(view) == 1


def test_the_slider_compares_both_at_one_time(view: Page, data: ReportData) -> None:
    _, after, _ = data.timelines
    slider = view.locator("#playhead")
    slider.fill("0")
    assert "at 0.00 ms" in view.inner_text("#reached")
    assert view.inner_text("#reached").count("0% of its work") == 2
    slider.fill("1000")
    assert view.inner_text("#reached").count("has finished the step") == 2
    slider.fill("500")
    half = view.evaluate("() => domino.line.location")
    assert half == pytest.approx(sum(window(view)) / 2)
    done = sum(
        max(0.0, min(s.end_us, half * 1e3) - s.begin_us)
        for s in after.spans
        if s.lane == "compute" and s.kind != "wait"
    )
    said = re.search(r"with domino has done (\d+)% of its work", view.inner_text("#reached"))
    assert said and float(said[1]) == pytest.approx(100 * done / after.compute_us, abs=1)
    view.focus("#playhead")
    view.keyboard.press("ArrowRight")
    assert view.evaluate("() => domino.line.location") > half
    box, canvas = slider.bounding_box(), view.locator("#plot canvas").first.bounding_box()
    assert box is not None and canvas is not None
    upper = pixel_of(view, next(s for s in spans(view) if s["timeline"] == 0))[1]
    lower = pixel_of(view, next(s for s in spans(view) if s["timeline"] == 1))[1]
    assert upper < box["y"] < lower


def test_the_worst_collective_is_selected_at_the_start(view: Page, data: ReportData) -> None:
    worst = max(data.explanation.rows, key=lambda row: (row.exposed_us, row.wire_us))
    assert view.locator("tr.chosen").get_attribute("data-key") == worst.key
    assert chosen(view) >= 2 and worst.name.split("_s")[0] in view.inner_text("#detail")


def test_the_first_screen_has_the_result_and_its_origin(view: Page, data: ReportData) -> None:
    assert view.inner_text(".origin") == "predicted, not measured"
    tiles = view.locator(".tile").all_inner_texts()
    change = data.explanation.times.change
    assert change.partition(" (")[0] in tiles[0] and "hidden" in tiles[1]
    assert tiles[-1].startswith("predicted")
    for selector in (".tiles", "#plot", "#detail"):
        box = view.locator(selector).bounding_box()
        assert box is not None and box["y"] + box["height"] <= 900


def test_the_legend_has_every_colour_and_hatch(view: Page) -> None:
    words = view.inner_text(".legend")
    for word in ("not cut", "slice 0", "slice 1", "waiting for the wire", "forward", "backward"):
        assert word in words
    hatch = view.locator(".legend .hatch").first
    assert "gradient" in hatch.evaluate("(e) => getComputedStyle(e).backgroundImage")


def test_sorting_the_table(view: Page, data: ReportData) -> None:
    order = "(all) => all.map((row) => Number(row.dataset.exposed))"
    rows = view.locator("#collective-table tbody tr")
    view.click("[data-sort=exposed]")
    found = rows.evaluate_all(order)
    assert found == sorted(found, reverse=True) and len(found) == len(data.explanation.rows)
    view.click("[data-sort=exposed]")
    assert rows.evaluate_all(order) == sorted(found)
    assert view.locator("th[aria-sort=ascending]").inner_text().startswith("exposed")
    view.click("[data-sort=where]")
    places = rows.evaluate_all("(all) => all.map((row) => row.dataset.where)")
    assert [p.lower() for p in places] == sorted(p.lower() for p in places)
    widths = rows.first.locator("td.bar i").evaluate_all("(all) => all.map((e) => e.style.width)")
    assert all(width.endswith("%") for width in widths) and len(widths) == 2


def test_a_shared_reason_is_said_once(view: Page, data: ReportData) -> None:
    told = [(row.reason, row.advice) for row in data.explanation.rows if row.reason]
    shared = {reason for reason in told if told.count(reason) > 1}
    assert view.locator(".reasons li").count() == len(shared) > 0
    for reason, advice in shared:
        text = view.inner_text("#collectives")
        assert text.count(reason) == 1 and text.count(advice) == 1
    assert view.locator("#collective-table a[href^='#reason-']").count() == sum(
        reason in shared for reason in told
    )


def test_curves_that_coincide_show_their_difference(view: Page) -> None:
    titles = view.evaluate(
        """() => Bokeh.documents.flatMap((d) => d.roots()).flatMap((r) => [...r.references()])
        .filter((m) => m.type === "Title").map((m) => m.text).filter(Boolean)"""
    )
    assert sorted(titles) == ["identical, bit for bit", "largest difference 2.0e-07"]


def test_waits_are_visible_in_the_dark(browser: Browser, report: Path) -> None:
    view = opened(browser, report, color_scheme="dark")
    wait = max(
        (s for s in spans(view) if s["kind"] == "wait"), key=lambda s: float(s["right"] - s["left"])
    )
    hatched = view.evaluate("() => domino.hatches.wait.data.left")
    assert len(hatched) == sum(s["kind"] == "wait" for s in spans(view)) > 0
    red = [int(wait["colour"][i : i + 2], 16) for i in (1, 3, 5)]
    paper = view.locator("body").evaluate("(e) => getComputedStyle(e).backgroundColor")
    dark, light = sorted(map(_luminance, ([int(x) for x in re.findall(r"\d+", paper)][:3], red)))
    assert (light + 0.05) / (dark + 0.05) >= 3
    view.close()


def test_the_timeline_by_keyboard(view: Page) -> None:
    view.focus("#plot")
    whole = window(view)
    view.keyboard.press("+")
    nearer = window(view)
    assert nearer[1] - nearer[0] < whole[1] - whole[0]
    view.keyboard.press("ArrowRight")
    assert window(view)[0] > nearer[0]
    view.keyboard.press("ArrowLeft")
    assert window(view) == pytest.approx(nearer)
    view.keyboard.press("-")
    view.keyboard.press("0")
    assert window(view) == pytest.approx(whole)
    view.keyboard.press("n")
    first = view.inner_text("#detail")
    view.keyboard.press("n")
    assert view.inner_text("#detail") != first and chosen(view) == 1
    view.keyboard.press("p")
    assert view.inner_text("#detail") == first


def test_everything_is_reached_with_the_tab_key(view: Page) -> None:
    seen = set()
    view.evaluate("() => document.body.focus()")
    for _ in range(150):
        view.keyboard.press("Tab")
        seen.add(view.evaluate(
            "() => { const e = document.activeElement;"
            "return e.id || e.dataset.go || e.dataset.filter || e.dataset.sort || e.tagName; }"
        ))  # fmt: skip
    wanted = {"theme", "plot", "slice", "playhead", "rank", "find-collective", "status", "exposed"}
    assert wanted | {"timeline", "graph", "graph-choice", "find-operation", "SUMMARY"} <= seen


def test_searching_the_graphs(view: Page, data: ReportData) -> None:
    view.fill("#find-operation", "ALL_REDUCE")
    graph_shown(view)
    forward = data.graphs[0]
    rows = [*forward.before["forward"], *forward.after["forward"]]
    expected = sum(any("all_reduce" in str(cell) for cell in row[:6]) for row in rows)
    assert view.inner_text("#operation-count") == f"{expected} found"
    assert view.locator("#graphs .op").count() == expected
    view.fill("#find-operation", "no such thing")
    assert view.inner_text("#operation-count") == "0 found"
    view.fill("#find-operation", "")
    assert view.locator("#before details").count() >= 4
    view.select_option("#graph-choice", "1")
    graph_shown(view, 1)
    assert str(len(forward.after["backward"])) in view.inner_text("#after-count")
    view.click("#open-all")
    assert view.locator("#after .op").count() == len(forward.after["backward"])
    view.click("#close-all")
    assert view.locator("#after details[open]").count() == 0


def test_a_graph_that_was_left_alone_shows_what_was_captured(
    browser: Browser, data: ReportData, tmp_path: Path
) -> None:
    alone = replace(data, graphs=(replace(data.graphs[0], after={}),), timelines=())
    path = tmp_path / "alone.html"
    path.write_text(page(alone))
    view = opened(browser, path)
    view.click("nav a[href='#graphs']")
    graph_shown(view)
    assert str(len(data.graphs[0].before["forward"])) in view.inner_text("#before-count")
    assert view.inner_text("#after-count") == "0 operations"
    assert view.complaints == []  # type: ignore[attr-defined]
    view.close()


def test_the_listing_has_the_colours_of_the_slices(view: Page) -> None:
    view.click("#open-all")
    graph_shown(view)
    line = view.locator("#after .op", has_text="mm_s1").first
    assert line.evaluate("(e) => getComputedStyle(e).borderLeftColor") == "rgb(230, 159, 0)"


def test_filtering_the_table(view: Page, data: ReportData) -> None:
    view.fill("#find-collective", "backward")
    rows = data.explanation.rows
    backward = sum(row.phase == "backward" for row in rows)
    assert view.inner_text("#collective-count") == f"{backward} of {len(rows)}"
    assert view.locator("#collective-table tbody tr:visible").count() == backward
    view.fill("#find-collective", "")
    view.select_option("#status", rows[0].status)
    same = sum(row.status == rows[0].status for row in rows)
    assert view.locator("#collective-table tbody tr:visible").count() == same


def test_text_is_text(view: Page) -> None:
    assert view.inner_text("h1") == "a <report> & more"
    assert "</script><b>train.py</b>" in view.inner_text(".facts")


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_wide_and_narrow_in_dark_and_light(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900}
    view = opened(browser, report, viewport=size, color_scheme=scheme)
    view.click("#open-all")
    view.wait_for_selector("#after .op")
    assert view.evaluate("() => document.documentElement.scrollWidth") == width
    fits = "(all) => all.every((e) => e.scrollWidth <= e.clientWidth)"
    assert view.locator(".scroll").evaluate_all(fits)
    assert _contrast(view) >= 7
    view.click("#theme")
    assert _contrast(view) >= 7
    assert view.complaints == []  # type: ignore[attr-defined]
    view.close()


def _contrast(view: Page) -> float:
    """Between text and paper, as WCAG defines it; also the axes must have the text's colour."""
    ask = "(e) => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    found = view.locator("body").evaluate(ask)
    colours = [[int(part) for part in re.findall(r"\d+", colour)[:3]] for colour in found]
    axis = view.evaluate("() => domino.plot.left[0].major_label_text_color")
    assert [int(axis[i : i + 2], 16) for i in (1, 3, 5)] == colours[0]
    dark, light = sorted(map(_luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: list[int]) -> float:
    shares = [part / 255 for part in colour]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def repeated(dump: Dump, times: int) -> ReportData:
    """The report of a model whose graphs are those of a dump several times over."""
    numbers = range(times * len(dump.reports))
    reports = [replace(report, graph=n) for n, report in zip(numbers, cycle(dump.reports))]
    graphs = tuple(replace(view, number=n) for n, view in zip(numbers, cycle(dump.graphs)))
    drawn = predicted(reports)
    return ReportData("large", (), explanation_of(reports), timelines=drawn, graphs=graphs)


def test_a_large_model_stays_small_and_opens(
    browser: Browser, compiled: tuple[Explanation, Dump], tmp_path: Path
) -> None:
    """32 layers: the file stays under 4 MB (how long it takes to open is in BENCHMARKS.md).

    They are 8 layers four times over, since most of a minute would go into compiling them. That a
    page grows no faster than its graphs is seen where 2 layers are compiled for other tests anyway.
    """
    _, small = compiled
    _, dump = dumped(tmp_path / "dump", layers=8)
    assert len(page(repeated(dump, 1))) < len(page(repeated(small, 4)))
    data = repeated(dump, 4)
    text = page(data)
    assert len(text.encode()) < 4e6
    path = tmp_path / "large.html"
    path.write_text(text)
    view = opened(browser, path)
    assert len(spans(view)) > 3000
    every = len(data.explanation.rows)
    assert view.inner_text("#collective-count") == f"{every} of {every}"
    view.wait_for_function(
        f"() => document.querySelectorAll('#collective-table tbody tr').length === {every}"
    )
    assert view.locator("#graphs .op").count() == 0
    last = data.explanation.rows[-1]
    view.click(f"#collective-{last.key.replace(':', '-')} [data-go=graph]")
    found = view.locator(f"#after .op.found[data-key='{last.key}']")
    found.first.wait_for()
    assert last.name in found.first.inner_text() and on_screen(view, "#after .op.found")
    assert view.complaints == []  # type: ignore[attr-defined]
    view.close()
