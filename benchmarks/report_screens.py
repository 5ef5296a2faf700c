"""The picture of a run's report that the README shows.

python -m benchmarks.report_screens RUN [--out docs/images/report.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
SIZE = {"width": 1000, "height": 760}


def main() -> None:
    """Open the report in a browser and keep what its first screen shows."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "report.png")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport=SIZE)
        page.goto((given.run / "report.html").resolve().as_uri())
        page.screenshot(path=str(given.out))
        browser.close()


if __name__ == "__main__":
    main()
