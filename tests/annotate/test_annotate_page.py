"""The annotation page in a real browser: every kind of answer, keyboard alone, reloads, a server that is killed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from instructrec_rl.annotate.command import AnnotateConfig, make_session
from instructrec_rl.annotate.session import Session
from instructrec_rl.feedback.store import Store
from tests.annotate.test_annotate import OUT, lines
from tests.run.test_run import environment

pytestmark = pytest.mark.browser
PHONE = {"width": 360, "height": 740}
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
ATTACK = '<script>window.owned=1</script><img src=x onerror="window.owned=1">\'"&{{7*7}}\u202e'


@contextmanager
def served(session: Session, token: Any = "") -> Iterator[str]:
    """The real server on a free port, in a thread of this process."""
    import uvicorn

    from instructrec_rl.annotate.server import address, listen, serving

    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(serving(session, "127.0.0.1", token))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield address(listening, "127.0.0.1", token if isinstance(token, str) else "")
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.fixture
def url(toys: Callable[..., Path]) -> Iterator[str]:
    toys()
    with served(make_session(AnnotateConfig(overlap=0.0), ["env=toys"])) as address:
        yield address


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page after a name was given; whatever the console says fails the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 850})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_default_timeout(30_000)
    begin(page, url)
    yield page
    context.close()
    assert said == []


def begin(page: Any, url: str, name: str = "ann") -> None:
    page.goto(url)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Start").click()
    page.locator("#question").wait_for()


def mode(page: Any, name: str) -> None:
    with page.expect_response("**/api/next"):
        page.get_by_role("group", name="What to do").get_by_text(name, exact=True).click()
    settle(page)


def save(page: Any, count: int) -> None:
    """Press Save, and when the page says that it is saved, see that the file has it."""
    page.get_by_role("button", name="Save").click()
    page.locator("#saved").get_by_text("Saved.").wait_for()
    assert len(lines()) == count
    settle(page)


def choose(page: Any, value: object) -> None:
    page.locator(f"label[for='value-{value}']").click()


def until(page: Any, holds: Callable[[], bool]) -> None:
    """Wait in Python: the page's policy on scripts does not let Playwright's own wait evaluate text."""
    for _ in range(500):
        if holds():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it never holds")


def settle(page: Any) -> None:
    """Until the next question is there: before that, keys and buttons do nothing."""
    until(page, lambda: page.locator("#question[aria-busy]").count() == 0)


def until_counted(page: Any, count: int) -> None:
    """Until the page counts an annotator's answers so, and has moved on to the next question."""
    until(page, lambda: page.locator("#counts").inner_text().startswith(f"{count} by you"))
    settle(page)


def shown(page: Any) -> str:
    return str(page.locator("#instruction").inner_text())


def test_rate_and_undo(page: Any) -> None:
    first = shown(page)
    assert page.locator(".card h2").inner_text()
    choose(page, 4)
    page.locator("#more summary").click()
    page.get_by_label("Why?").fill("nearly")
    page.get_by_role("group", name="How sure are you?").get_by_text("Fairly sure").click()
    save(page, 1)
    (record,) = lines()
    assert (record["rating"], record["rationale"], record["confidence"]) == (4.0, "nearly", 0.6)
    assert (record["instruction"], record["annotator"], record["env"]) == (first, "ann", "toys")
    assert page.locator("#counts").inner_text() == "1 by you of 200, 1 by all"
    until(page, lambda: shown(page) != first)
    assert page.get_by_label("Why?").input_value() == ""
    assert not page.get_by_role("radio", name="4 Well").is_checked()
    page.get_by_role("button", name="Undo last").click()
    page.locator("#saved").get_by_text("Undone.").wait_for()
    assert shown(page) == first
    assert [line["kind"] for line in lines()] == ["rating", "retract"]
    assert page.locator("#counts").inner_text() == "0 by you of 200, 0 by all"
    assert page.get_by_role("button", name="Undo last").is_disabled()
    assert Store().records == []


def test_nothing_chosen_is_not_saved(page: Any) -> None:
    page.get_by_role("button", name="Save").click()
    assert page.get_by_role("alert").get_by_text("Choose a number first.").is_visible()
    assert not OUT.exists()


def test_compare(page: Any) -> None:
    mode(page, "Compare")
    names = page.locator(".card h2").all_inner_texts()
    page.locator(".card").nth(1).locator("dl").click()  # the card itself
    assert page.get_by_role("radio", name="B is better").is_checked()
    save(page, 1)
    (record,) = lines()
    assert [record[key].split()[-1] for key in ("chosen", "rejected")] == [n.split()[0] for n in reversed(names)]
    choose(page, "tie")
    save(page, 2)
    assert lines()[1]["tie"]


def test_rank(page: Any) -> None:
    mode(page, "Rank")
    texts = page.locator(".card .rest p:last-child").all_text_contents()
    page.get_by_role("button", name="C is the best").click()
    page.get_by_role("button", name="A comes next").click()
    page.get_by_role("button", name="Save").click()
    assert page.locator("#problem").inner_text() == "Put every response in order first, or skip."
    page.get_by_role("button", name="A is 2nd").click()  # taken out again
    page.get_by_role("button", name="D comes next").click()
    page.get_by_role("button", name="A comes next").click()
    assert page.get_by_role("status").get_by_text("In order: C, D, A, B.").is_visible()
    save(page, 1)
    (record,) = lines()
    assert record["responses"] == [texts[i] for i in (2, 3, 0, 1)]


def test_correct(page: Any) -> None:
    mode(page, "Correct")
    given = page.locator(".card h2").inner_text()
    right, other = [name for name in ("blue star", "red circle", "green square") if name != given][:2]
    page.get_by_label("What should the answer have been?").fill(right)
    page.get_by_text("1 item.", exact=True).wait_for()
    choose(page, 0)
    page.get_by_label("What should the answer have been?").fill(other)
    page.get_by_role("radio", name=other).wait_for()
    assert page.get_by_role("radio", name=right).is_checked(), "what was chosen stays"
    page.get_by_label("What should the answer have been?").fill(given)
    page.get_by_text("0 items.").wait_for()  # the response itself is no correction of it
    save(page, 1)
    (record,) = lines()
    colour, shape = right.split()
    assert (record["kind"], record["corrected"]) == ("correction", f"a {shape} painted {colour}")


def test_a_written_answer_is_corrected_by_writing(browser: Any, toys: Callable[..., Path]) -> None:
    toys()
    session = make_session(AnnotateConfig(overlap=0.0), ["env=toys"])
    session.chooses = False  # as where the policy writes its answers
    with served(session) as url:
        page = browser.new_context().new_page()
        begin(page, url)
        mode(page, "Correct")
        field = page.get_by_label("What should the answer have been?")
        before = field.input_value()
        page.get_by_role("button", name="Save").click()
        page.locator("#problem").get_by_text("Say what the answer should have been").wait_for()
        field.fill("a better toy")
        page.keyboard.press("Control+Enter")
        page.locator("#saved").get_by_text("Saved.").wait_for()
        page.context.close()
    (record,) = lines()
    assert (record["response"], record["corrected"]) == (before, "a better toy")


def test_thumbs_and_skip(page: Any) -> None:
    mode(page, "Yes or no")
    before = shown(page), page.locator(".card h2").inner_text()
    page.get_by_role("button", name="Skip").click()
    page.locator("#saved").get_by_text("Skipped.").wait_for()
    assert (shown(page), page.locator(".card h2").inner_text()) != before
    choose(page, "no")
    save(page, 1)
    assert lines()[0]["up"] is False


def test_a_reload_in_the_middle_keeps_what_was_begun(page: Any) -> None:
    for name in ("Compare", "Rate"):
        mode(page, name)
    page.keyboard.press("2")
    page.keyboard.press("r")
    page.keyboard.type("because")
    before = shown(page), page.locator(".card h2").inner_text()
    page.reload()
    page.locator("#question").wait_for()
    assert (shown(page), page.locator(".card h2").inner_text()) == before
    assert page.get_by_role("radio", name="2 Poorly").is_checked()
    assert page.get_by_label("Why?").input_value() == "because"
    save(page, 1)
    assert (lines()[0]["rating"], lines()[0]["rationale"]) == (2.0, "because")
    mode(page, "Rank")
    page.get_by_role("button", name="B is the best").click()
    page.reload()
    page.get_by_role("button", name="B is 1st").wait_for()


def test_two_annotators_at_once(browser: Any, url: str) -> None:
    pages = []
    for name in ("ann", "bob"):
        page = browser.new_context().new_page()
        begin(page, url, name)
        pages.append(page)
    for i in range(8):
        for page in pages:
            page.keyboard.press(str(1 + i % 5))
        for page in pages:  # both answers are on their way at once
            with page.expect_response("**/api/next"):
                page.keyboard.press("Enter")
        for page in pages:
            settle(page)
    found = lines()
    assert [sum(line["annotator"] == name for line in found) for name in ("ann", "bob")] == [8, 8]
    assert len({(line["instruction"], line["response"]) for line in found}) == 16, "nothing was asked twice"
    assert pages[0].locator("#counts").inner_text().startswith("8 by you of 200, 1")
    for page in pages:
        page.context.close()


def test_by_keyboard_alone(browser: Any, url: str) -> None:
    page = browser.new_context().new_page()
    page.goto(url)
    page.locator("#name").wait_for()
    press = page.keyboard.press

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))

    def tab_to(wanted: str, most: int = 40) -> None:
        for _ in range(most):
            press("Tab")
            if focused() == wanted:
                outline = page.evaluate("""(() => {
                    const element = document.activeElement;
                    const seen = element.matches('.segment-row input') ? element.nextSibling : element;
                    return getComputedStyle(seen).outlineStyle; })()""")
                assert outline != "none", f"the focus on {wanted} is not seen"
                return
        raise AssertionError(f"Tab never comes to {wanted}")

    tab_to("name")
    page.keyboard.type("kim")
    press("Enter")
    page.locator("#question").wait_for()
    until(page, lambda: focused() == "asked-title")
    press("5")
    press("Enter")
    until_counted(page, 1)
    assert focused() == "asked-title", "the next question is read out"
    # without single keys: Tab, arrows and Enter
    press("?")
    page.locator("#keys").wait_for()
    tab_to("keys-on")
    press("Space")
    press("Escape")
    press("3")
    tab_to("value-1")
    assert page.locator("#value-3").is_checked() is False, "single keys are off"
    press("Space")
    press("ArrowRight")
    press("ArrowRight")
    tab_to("save")
    press("Enter")
    until_counted(page, 2)
    tab_to("mode-rate")
    press("ArrowRight")
    page.get_by_role("radiogroup", name="Which answers").wait_for()
    assert focused() == "mode-compare", "choosing another kind does not move the focus"
    tab_to("value-0")
    press("ArrowDown")
    tab_to("save")
    press("Enter")
    until_counted(page, 3)
    tab_to("mode-compare")
    press("ArrowRight")
    page.get_by_role("group", name="Responses to put in order").wait_for()
    for name in ("A is the best", "B comes next", "C comes next"):  # the fourth follows
        tab_to(name)
        press("Enter")
    tab_to("save")
    press("Space")
    until_counted(page, 4)
    tab_to("mode-rank")
    press("ArrowRight")
    tab_to("find")
    page.keyboard.type("red")
    page.get_by_text(re.compile("^[23] items")).wait_for()
    tab_to("value-0")
    press("Space")
    press("Control+Enter")
    until_counted(page, 5)
    tab_to("undo")
    press("Enter")
    page.locator("#saved").get_by_text("Undone.").wait_for()
    assert [line["kind"] for line in lines()] == ["rating", "rating", "preference", "ranking", "correction", "retract"]
    assert [line["rating"] for line in lines()[:2]] == [5.0, 3.0]
    page.context.close()


def test_number_keys_save_at_once_where_asked(page: Any) -> None:
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Save as soon as").check()
    page.get_by_role("button", name="Close").click()
    for count in (1, 2):
        page.keyboard.press("4")
        until_counted(page, count)
    page.get_by_text("Partly").click()
    until_counted(page, 3)
    page.get_by_role("radio", name="1 Not at all").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    assert len(lines()) == 3, "arrow keys only choose"


def test_markup_is_shown_and_inert(browser: Any, toys: Callable[..., Path]) -> None:
    home = toys()
    items = [json.loads(line) for line in (home / "items.jsonl").read_text().splitlines()]
    hostile = [
        item | {"name": f"{ATTACK} {i}", ATTACK: [ATTACK], "note": ATTACK, "long": ATTACK * 3, "text": f"{i} {ATTACK}"}
        for i, item in enumerate(items)
    ]
    (home / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in hostile))
    rows = [json.loads(line) for line in (home / "instructions.jsonl").read_text().splitlines()]
    (home / "instructions.jsonl").write_text(
        "".join(json.dumps(row | {"instruction": f"{ATTACK} {row['instruction']}"}) + "\n" for row in rows)
    )
    with served(make_session(AnnotateConfig(overlap=0.0), ["env=toys"])) as url:
        page = browser.new_context().new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: asked.append("a dialog"))
        begin(page, url, ATTACK[:60])
        for name in ("Compare", "Rank", "Correct", "Yes or no", "Rate"):
            mode(page, name)
            assert ATTACK[:60] in shown(page)
            assert page.locator(".card h2").first.inner_text().startswith("<script>")
            assert page.locator("main script, main img, main iframe").count() == 0
        page.keyboard.press("3")
        page.keyboard.press("r")
        page.keyboard.type(ATTACK)
        save(page, 1)
        page.reload()
        page.locator("#question").wait_for()
        assert page.evaluate("window.owned") is None
        assert all(each.startswith(url) for each in asked), asked
        refused = page.evaluate("try { document.body.innerHTML = '<b>x</b>'; 'taken' } catch (error) { error.name }")
        assert refused == "TypeError", "the policy on scripts refuses markup from a string"
        page.context.close()
    (record,) = lines()
    assert (record["rationale"], record["annotator"]) == (ATTACK, ATTACK[:60])


class Killable:
    """The command as a process of its own, on one port."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, 0

    def start(self) -> str:
        command = [sys.executable, "-m", "instructrec_rl.annotate", "env=toys", "overlap=0", f"port={self.port}"]
        self.process: Any = subprocess.Popen(
            command, cwd=self.folder, env=environment(), stdout=subprocess.PIPE, text=True
        )
        url = next(line.split()[1] for line in self.process.stdout if line.startswith("open "))
        self.port = int(url.rstrip("/").rpartition(":")[2])
        return url

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def server(toys: Callable[..., Path], tmp_path: Path) -> Iterator[Killable]:
    """A server that is gone when the test is, however it ends."""
    toys()
    made = Killable(tmp_path)
    yield made
    made.kill()


@pytest.mark.slow
@pytest.mark.ci
def test_a_killed_server_loses_nothing_that_it_acknowledged(browser: Any, server: Killable) -> None:
    url = server.start()
    page = browser.new_context().new_page()
    begin(page, url)
    acknowledged: list[str] = []

    def note(response: Any) -> None:
        if response.url.endswith(("api/answer", "api/undo")) and response.status == 200:
            acknowledged.append(response.json()["saved"])

    page.on("response", note)
    for i in range(3):  # killed between answers, and answered while it is dead
        page.keyboard.press("4")
        save(page, 2 * i + 1)
        server.kill()
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.locator("#saved").get_by_text("Not saved yet; trying again.").wait_for()
        assert page.locator("#banner").get_by_text("is kept in this browser").is_visible()
        assert len(lines()) == 2 * i + 1
        server.start()
        page.locator("#saved").get_by_text("Saved.").wait_for(timeout=60_000)
        assert page.locator("#banner").is_hidden()
        assert len(lines()) == 2 * i + 2
        settle(page)
    server.kill()  # answered while it is dead, and the page is loaded anew when it is back
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.locator("#saved").get_by_text("Not saved yet; trying again.").wait_for()
    page.goto("about:blank")  # or the page would send it as soon as the server is back
    server.start()
    page.goto(url)
    page.locator("#saved").get_by_text("Your last answer is saved now.").wait_for()
    found = lines()
    server.kill()
    assert [line["rating"] for line in found] == [4.0, 2.0] * 3 + [1.0]
    assert len({line["id"] for line in found}) == 7
    assert len(acknowledged) >= 6
    assert set(acknowledged) <= {line["id"] for line in found}
    assert {record.id for record in Store().records} == {line["id"] for line in found}
    page.context.close()


def test_a_reply_that_is_lost_is_asked_for_again(browser: Any, url: str) -> None:
    page = browser.new_context().new_page()
    begin(page, url)
    dropped = []

    def drop_the_first(route: Any) -> None:
        if not dropped:
            dropped.append(route.fetch().status)  # the server has it on disk, the page never hears of it
            route.abort()
        else:
            route.continue_()

    page.route("**/api/answer", drop_the_first)
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    page.locator("#saved").get_by_text("Saved.").wait_for()
    assert dropped == [200]
    assert len(lines()) == 1
    page.context.close()


def test_with_a_token(browser: Any, toys: Callable[..., Path]) -> None:
    toys()
    with served(make_session(AnnotateConfig(), ["env=toys"]), token="s3cret-token") as url:
        page = browser.new_context().new_page()
        begin(page, url)
        assert "token" not in page.url
        page.keyboard.press("5")
        save(page, 1)
        page.context.clear_cookies()
        page.keyboard.press("5")
        page.keyboard.press("Enter")
        page.locator("#banner").get_by_text("Open the link that the server printed").wait_for()
        page.context.new_page().goto(url)  # opened again in another tab
        page.locator("#saved").get_by_text("Saved.").wait_for(timeout=60_000)
        assert len(lines()) == 2
        page.context.close()


def with_attributes(home: Path, count: int) -> None:
    """Items of `toys` with more attributes, a few of them lists."""
    path = home / "items.jsonl"
    more = {f"trait_{k}": [f"one {k}", f"two {k}"] if k % 3 == 0 else f"so and so {k}" for k in range(count - 2)}
    items = [json.loads(line) | more for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.mark.parametrize("size", [(390, 844), (360, 640), (844, 390), (1280, 720)], ids=lambda size: f"{size[0]}")
@pytest.mark.parametrize("count", [12, 40])
def test_the_marks_are_in_sight_whatever_there_is_to_read(
    browser: Any, toys: Callable[..., Path], size: tuple[int, int], count: int
) -> None:
    with_attributes(toys(), count)
    with served(make_session(AnnotateConfig(overlap=0.0), ["env=toys"])) as url:
        page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
        begin(page, url)
        marks = {
            "Compare": [f"label[for='value-{i}']" for i in (0, 1, "tie")],
            "Rank": [f".places button:nth-child({i})" for i in range(1, 5)],
            "Yes or no": ["label[for='value-yes']", "label[for='value-no']"],
            "Rate": [f"label[for='value-{i}']" for i in range(1, 6)],
        }
        for name, places in marks.items():
            mode(page, name)
            assert page.evaluate("scrollY") == 0
            for place in [*places, "#save", "#skip"]:
                box = page.locator(place).bounding_box()
                assert box["y"] >= 0, (name, place)
                assert box["y"] + box["height"] <= size[1], (name, place, box)
                middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
                on_top = "([x, y, place]) => Boolean(document.elementFromPoint(x, y)?.closest(place))"
                assert page.evaluate(on_top, [*middle, place]), (name, place)
            page.mouse.click(*middle)  # Skip
            settle(page)
        page.context.close()


def test_on_a_phone_many_attributes_are_folded(browser: Any, toys: Callable[..., Path]) -> None:
    with_attributes(toys(), 12)
    with served(make_session(AnnotateConfig(overlap=0.0), ["env=toys"])) as url:
        page = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
        begin(page, url)
        seen = page.locator(".card dl > div >> visible=true")
        assert seen.count() == 5
        page.get_by_role("button", name="7 more").click()
        assert seen.count() == 12
        assert accessible(page) == []
        page.get_by_role("button", name="Fewer").click()
        assert seen.count() == 5
        page.set_viewport_size({"width": 1100, "height": 850})
        assert seen.count() == 12
        assert page.locator("button.all").is_hidden()
        mode(page, "Correct")
        page.set_viewport_size({"width": 390, "height": 844})
        box = page.locator("#find").bounding_box()
        assert box["y"] + box["height"] < page.locator(".actions").first.bounding_box()["y"]
        page.context.close()


def test_the_bar_is_what_is_left_for_oneself(browser: Any, toys: Callable[..., Path]) -> None:
    toys()
    session = make_session(AnnotateConfig(overlap=0.0, target=20), ["env=toys"])
    for i in range(29):
        question = session.next("bob", "rate")
        assert question is not None
        session.save(f"answer-{i:08d}", "bob", question, 3)
    with served(session) as url:
        page = browser.new_context().new_page()
        begin(page, url)

        def bar() -> tuple[str, str, float]:
            meter = page.locator("#meter")
            filled = page.locator("#mine").evaluate("(e) => e.style.width")
            return page.locator("#counts").inner_text(), meter.get_attribute("aria-valuenow"), float(filled.rstrip("%"))

        assert bar() == ("0 by you of 20, 29 by all", "0", 0.0)
        page.keyboard.press("4")
        save(page, 30)
        assert bar() == ("1 by you of 20, 30 by all", "1", 5.0)
        page.context.close()


def test_a_link_of_ones_own_asks_for_no_name(browser: Any, toys: Callable[..., Path]) -> None:
    from instructrec_rl.annotate.keys import make_keys

    toys()
    keys = make_keys(["ann", "bob"])
    with served(make_session(AnnotateConfig(overlap=0.0), ["env=toys"]), token=keys) as url:
        page = browser.new_context().new_page()
        page.goto(f"{url}?token={keys.people['ann']}")
        page.locator("#question").wait_for()
        assert page.locator("#who").is_disabled()
        page.keyboard.press("4")
        save(page, 1)
        page.route("**/api/answer", lambda route: route.abort())
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.locator("#saved").get_by_text("Not saved yet").wait_for()
        page.goto("about:blank")
        page.unroute("**/api/answer")
        page.goto(f"{url}?token={keys.people['bob']}")  # in the same browser: ann's answer is not sent as bob's
        page.locator("#question").wait_for()
        settle(page)
        assert page.locator("#who-name").inner_text() == "bob"
        assert len(lines()) == 1
        page.goto(f"{url}?token={keys.people['ann']}")
        page.locator("#saved").get_by_text("Your last answer is saved now.").wait_for()
        assert [(line["annotator"], line["rating"]) for line in lines()] == [("ann", 4.0), ("ann", 2.0)]
        page.context.close()


def test_while_the_file_is_in_use_the_answer_is_kept(browser: Any, url: str) -> None:
    from tests.annotate.test_guard import lock_held

    page = browser.new_context().new_page()
    begin(page, url)
    with lock_held(OUT):
        page.keyboard.press("4")
        page.keyboard.press("Enter")
        page.locator("#saved").get_by_text("Not saved yet; trying again.").wait_for()
        assert "in use by" in page.locator("#banner").inner_text()
        assert not OUT.read_text()
    page.locator("#saved").get_by_text("Saved.").wait_for(timeout=60_000)
    assert page.locator("#banner").is_hidden()
    assert len(lines()) == 1
    page.context.close()


def test_the_theme_is_kept(page: Any) -> None:
    def back() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = back()
    for name in ("System", "Light"):
        page.get_by_role("button", name=f"Theme: {name}").click()
    assert back() != light
    page.reload()
    page.get_by_role("button", name="Theme: Dark").wait_for()
    assert back() != light


def test_nothing_left(browser: Any, toys: Callable[..., Path]) -> None:
    toys()
    with served(make_session(AnnotateConfig(overlap=0.0, pool=1, candidates=1), ["env=toys"])) as url:
        page = browser.new_context().new_page()
        begin(page, url)
        assert page.get_by_role("group", name="What to do").get_by_role("radio").count() == 3
        page.keyboard.press("5")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Nothing left to ask here").wait_for()
        assert accessible(page) == []
        page.get_by_role("button", name="Undo last").click()
        page.locator("#question").wait_for()
        page.context.close()


def accessible(page: Any) -> list[str]:
    """What axe-core finds wrong with the page as it stands."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    rules = {"target-size": {"enabled": True}}
    options = {"runOnly": {"type": "tag", "values": AXE_TAGS}, "rules": rules}
    found = axe.Axe().run(page, options=options).response
    return [f"{v['id']}: {n['html'][:120]} {n['failureSummary']}" for v in found["violations"] for n in v["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, PHONE, {"width": 320, "height": 640}],
                         ids=lambda viewport: str(viewport["width"]))  # fmt: skip
def test_every_screen_is_accessible_and_fits(browser: Any, url: str, scheme: Any, viewport: Any) -> None:
    page = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce").new_page()
    page.goto(url)
    page.locator("#name").wait_for()
    wrong = {"welcome": accessible(page)}
    begin(page, url)

    def check(name: str) -> None:
        wrong[name] = accessible(page)
        widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        if widths[0] > widths[1]:
            wrong[name].append(f"scrolls sideways: {widths}")
        for element in page.get_by_role("button").all() + page.locator(".segment-row label").all():
            box = element.bounding_box()
            if box and (box["height"] < 38 or box["width"] < 34):
                wrong[name].append(f"small: {element.inner_text()} {box}")

    check("rate")
    page.keyboard.press("4")
    page.keyboard.press("r")
    page.get_by_text("Certain").click()
    page.locator(".rest summary").click()
    check("rate, with a reason")
    for name, keys in (("Compare", "1"), ("Rank", "21"), ("Correct", ""), ("Yes or no", "1")):
        mode(page, name)
        for key in keys:
            page.keyboard.press(key)
        check(name)
    page.keyboard.press("Enter")
    page.locator("#saved").get_by_text("Saved.").wait_for()
    check("saved")  # perhaps before the next question is there
    settle(page)
    check("next")
    page.get_by_role("button", name="Options").click()
    check("options")
    assert {name: found for name, found in wrong.items() if found} == {}
    page.context.close()


def test_what_a_screen_reader_hears(page: Any) -> None:
    tree = page.locator("body").aria_snapshot()
    for heard in ('heading "Instruction"', 'group "How well does it answer the instruction?"', 'radio "5 Perfectly"',
                  'progressbar "Your answers towards the target"', 'button "Save and next"', '"Annotator: ann. Change"',
                  'group "What to do"', 'radio "Compare"', "term: colour", "- banner", "- main"):  # fmt: skip
        assert heard in tree, f"{heard}: {tree}"
    live = page.evaluate("[...document.querySelectorAll('[role=status], [role=alert]')].map((e) => e.id)")
    assert {"saved", "problem", "banner"} <= set(live)
    start = time.perf_counter()
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    page.locator("#saved").get_by_text("Saved.").wait_for()
    assert time.perf_counter() - start < 3
