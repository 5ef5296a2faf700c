"""Pictures of every screen of the annotation page for docs/images/annotate/: light and dark, desktop and phone.

    python -m benchmarks.annotate_screens [--out docs/images/annotate]

Serves pizza_rec from an empty folder on a free port and opens it in Debian's chromium.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"desktop": {"width": 1120, "height": 800}, "phone": {"width": 390, "height": 844}}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "instructrec_rl.annotate", "env=pizza_rec", "port=0", "pool=200"]
    child = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, cwd=folder, env=child, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield next(line.split()[1] for line in running.stdout if line.startswith("open "))
    finally:
        running.terminate()
        running.wait()


def choose_mode(page: Any, name: str) -> None:
    with page.expect_response("**/api/next"):
        page.get_by_role("group", name="What to do").get_by_text(name, exact=True).click()
    page.wait_for_timeout(250)


def rate(page: Any) -> None:
    page.keyboard.press("4")


def rate_with_reason(page: Any) -> None:
    page.keyboard.press("2")
    page.keyboard.press("r")
    page.keyboard.type("Anchovies were ruled out.")
    page.get_by_text("Certain").click()


def compare(page: Any) -> None:
    choose_mode(page, "Compare")
    page.keyboard.press("1")


def rank(page: Any) -> None:
    choose_mode(page, "Rank")
    page.keyboard.press("2")
    page.keyboard.press("1")


def correct(page: Any) -> None:
    choose_mode(page, "Correct")
    page.locator("#find").fill("mushrooms thin")
    page.wait_for_timeout(500)
    page.locator(".option label").first.click()


def thumbs(page: Any) -> None:
    choose_mode(page, "Yes or no")
    page.keyboard.press("1")


def keys(page: Any) -> None:
    choose_mode(page, "Rate")
    page.keyboard.press("?")


def lost(page: Any) -> None:
    page.keyboard.press("Escape")
    page.route("**/api/answer", lambda route: route.abort())
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    page.wait_for_timeout(400)


SCREENS: dict[str, Callable[[Any], None]] = {
    "rate": rate, "reason": rate_with_reason, "compare": compare, "rank": rank, "correct": correct, "thumbs": thumbs,
    "options": keys, "lost": lost,
}  # fmt: skip


def answered_before(page: Any, url: str, count: int) -> None:
    """A few answers of two people, so that the progress has something to show."""
    page.goto(url)
    for name in ("mira", "jonas"):
        page.evaluate(
            """async ([annotator, count]) => {
                const post = async (path, body) => (await fetch(path, {method: 'POST', body: JSON.stringify(body),
                    headers: {'Content-Type': 'application/json'}})).json();
                for (let i = 0; i < count; i += 1) {
                    const { question } = await post('api/next', { annotator, mode: 'rate' });
                    await post('api/answer', {
                        id: `${annotator}-picture-${i}`, annotator, env: question.env, mode: 'rate', value: 1 + i % 5,
                        instruction: question.instruction, responses: [question.responses[0].text] });
                }
            }""",
            [name, count],
        )


def shoot(url: str, out: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        answered_before(browser.new_page(), url, 23)
        for size, viewport in SIZES.items():
            for scheme in ("light", "dark"):
                phone = size == "phone"
                context = browser.new_context(viewport=viewport, color_scheme=scheme, has_touch=phone, is_mobile=phone)
                page = context.new_page()
                page.goto(url)
                page.locator("#name").wait_for()
                page.screenshot(path=out / f"welcome-{scheme}-{size}.png")
                page.get_by_role("button", name="mira").click()
                for name, act in SCREENS.items():
                    page.wait_for_timeout(150)
                    act(page)
                    page.wait_for_timeout(250)
                    if not phone:  # as high as the page, so that all of it is seen
                        height = page.evaluate("document.documentElement.scrollHeight")
                        page.set_viewport_size({**viewport, "height": max(viewport["height"], height)})
                        page.wait_for_timeout(100)
                    page.screenshot(path=out / f"{name}-{scheme}-{size}.png")
                    page.set_viewport_size(viewport)
                context.close()
        browser.close()


def shrink(path: Path) -> None:
    """To 256 colours: flat pages lose nothing that the eye sees, and two thirds of their bytes."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "annotate")
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url:
        shoot(url, out)
    for path in sorted(out.glob("*.png")):
        shrink(path)
        print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}  {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
