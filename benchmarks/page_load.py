"""How long a report takes to open in a real browser.

Usage: ``python -m benchmarks.page_load report.html``. It needs Chromium and playwright.

First paint and load are those of the browser's navigation timing. Ready is when the timelines are
drawn and can be used. All are measured from the start of the navigation.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path

#: What is measured, in the order of ``MEASURE``.
TITLES = ("first paint", "load", "ready")
#: Notes when the page says that it can be used.
WATCH = """new MutationObserver((_, observer) => {
    if (!document.body?.dataset.ready) return;
    window.readyAt = performance.now();
    observer.disconnect();
}).observe(document, { subtree: true, childList: true, attributes: true });"""
MEASURE = """() => {
    const [navigation] = performance.getEntriesByType("navigation");
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    return [paint.startTime, navigation.loadEventEnd, window.readyAt];
}"""


def opened(page: Path, times: int) -> list[list[float]]:
    """Open a page several times, each in a new tab.

    Args:
        page: The report.
        times: How often.

    Returns:
        For each time the milliseconds to what ``TITLES`` names.
    """
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(times):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.add_init_script(WATCH)
            tab.goto(page.resolve().as_uri())
            tab.wait_for_function("() => window.readyAt")
            found.append([float(value) for value in tab.evaluate(MEASURE)])
            tab.close()
        browser.close()
    return found


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--times", type=int, default=9)
    asked = parser.parse_args()
    print(f"{asked.page.stat().st_size / 1e6:.1f} MB, median of {asked.times} [least, most]")
    columns = zip(*opened(asked.page, asked.times), strict=True)
    for title, column in zip(TITLES, columns, strict=True):
        spread = f"[{min(column):.0f}, {max(column):.0f}]"
        print(f"{title}: {statistics.median(column):.0f} ms {spread}")


if __name__ == "__main__":
    main()
