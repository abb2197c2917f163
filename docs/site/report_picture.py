"""Take the README's picture of the report, docs/report.png: `make report-picture`.

Explains the training step of `train.py`, at the size of a 7B model on a fake group of eight ranks,
writes its report and photographs the page in a Chromium that is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1280, 1000
EXPLAIN = (
    "explain",
    "--ranks",
    "8",
    "--link",
    "h200-nvlink-8",
    "--device",
    "H200",
    "--slices",
    "2",
)


def photograph(report: Path) -> None:
    """Open the report and save the top of its page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"error: no browser found; install one of: {', '.join(BROWSERS)}")
    with sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        view = started.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        view.goto(report.as_uri())
        view.wait_for_selector("body[data-ready]")
        view.screenshot(path=PICTURE)
        started.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(Path(__file__).with_name("train.py"), folder)
        command = (sys.executable, "-m", "domino_compile", *EXPLAIN, "--html", "report.html")
        subprocess.run(
            [*command, "train.py"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,  # the page shows the command, and no path of this machine
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        photograph(Path(folder) / "report.html")
