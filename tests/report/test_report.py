"""The report page and the screen, from a run folder made here."""

from __future__ import annotations

import io
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from instructrec_rl.core import InputError
from instructrec_rl.core.command_line import run_command
from instructrec_rl.report.command import main, read_run, summary, write_report
from instructrec_rl.report.one_run.sections import constraint_words, spread
from instructrec_rl.run.screen import _PlainProgress, print_result, progress, result_lines, result_table

SPLITS = {"iid": 640, "frame": 512, "phrase": 498, "combo": 500, "both": 320, "cold": 400}
REACHED = {"policy": (0.98, 0.97, 0.57, 0.96, 0.55, 0.86), "random": (0,) * 6, "popularity": (0.08, 0.07, 0.09, 0.05,
           0.06, -0.04), "neighbour": (0.36, 0.33, 0.29, 0.31, 0.25, 0.30), "tfidf": (0.31, 0.30, 0.2, 0.3, 0.18, 0.27),
           "oracle": (1,) * 6}  # fmt: skip
METRICS = {"constraints": (0.48, 0.99), "exact_match": (0.02, 1.0), "rouge": (0.27, 0.98)}
HEADINGS = ["The policy beside every baseline", "Every split", "Learning curves", "By wording", "Where it fails",
            "Samples", "How to repeat it", "Left-out rows"]  # fmt: skip
KINDS = {"topping_in": 0.97, "topping_out": 0.81, "price": 0.92, "diet": 0.99, "crust": 0.95}
ASKS = [
    "Something mild and vegetarian under $12 please, and keep it free of neither-here-nor-there toppings",
    "thin crust or pan, but not stuffed. no mushrooms, no olives",
    "My kid is allergic to nuts; what is cheap and has pineapple?",
    "i want a spicey pizza with peperoni, extra hot, around 14 bucks",
]


def one_split(position: int, name: str, n: int) -> dict[str, Any]:
    def scores(reached: float) -> dict[str, Any]:
        raw = {metric: low + reached * (high - low) for metric, (low, high) in METRICS.items()}
        return {
            "metrics": {**raw, "valid": 1.0},
            "normalized": {**dict.fromkeys(METRICS, reached), "reward": reached, "valid": None},
        }

    reached = float(REACHED[name][position])
    wording = {
        "simple": {"n": n * 3 // 4, **scores(reached + 0.01)},
        "crossing": {"n": n - n * 3 // 4, **scores(reached - 0.04)},
    }
    kinds = {kind: {"n": n // 2, "satisfied": at * (0.5 + reached / 2)} for kind, at in KINDS.items()}
    return {"n": n, "reward": 0.2 + 0.7 * reached, **scores(reached), "by": {"wording": wording, "kind": kinds}}


def make_result() -> dict[str, Any]:
    every = {name: {s: one_split(i, name, n) for i, (s, n) in enumerate(SPLITS.items())} for name in REACHED}
    for split in every["policy"].values():
        split["reward_parts"] = {"constraints": 0.91, "rouge": 0.72}
    return {
        "env": "pizza_rec", "reward": "constraints", "algo": "dqn", "policy": "default", "seed": 3,
        "interactions": 100_000, "wall_s": 41.23, "cpu_s": 38.9, "splits": every.pop("policy"),
        "baselines": {name: {"splits": splits} for name, splits in every.items()}, "best_step": 90_112,
    }  # fmt: skip


def make_samples(per_split: int = 30) -> list[dict[str, Any]]:
    draw, samples = random.Random(0), []
    for split in SPLITS:
        for row in range(per_split):
            satisfied = [draw.random() < 0.8 for _ in range(3)]
            best = "Garden Margherita: tomato, basil, mozzarella; vegetarian; mild; thin crust; $11"
            response = best if all(satisfied) else "Smoky Diavola: pepperoni, chili; hot; pan crust; $14"
            samples.append({
                "split": split, "id": f"{split}-{row:03}", "instruction": ASKS[row % len(ASKS)], "response": response,
                "references": [best, *(f"Pizza {k}: tomato, herbs; vegetarian; mild; ${k}" for k in range(7, 11))],
                "reward": sum(satisfied) / 3, "reward_parts": {"constraints": sum(satisfied) / 3, "rouge": 0.64},
                "metrics": {"constraints": sum(satisfied) / 3, "exact_match": float(all(satisfied)), "rouge": 0.64},
                "constraints": [
                    {"kind": "topping_out", "attribute": "toppings", "op": "lacks", "value": "mushrooms",
                     "satisfied": satisfied[0]},
                    {"kind": "price", "attribute": "price", "op": "at_most", "value": 12, "satisfied": satisfied[1]},
                    {"kind": "crust", "attribute": "crust", "op": "any_of", "value": ["thin", "pan"],
                     "satisfied": satisfied[2]},
                ],
                "wording": "crossing" if row % 4 == 1 else "simple", "best_response": best,
            })  # fmt: skip
    return samples


def make_metrics(lines: int = 60) -> list[dict[str, Any]]:
    draw, found = random.Random(1), []
    for k in range(1, lines + 1):
        done = k / lines
        line = {"step": round(100_000 * done), "wall_s": 41 * done, "cpu_s": 38 * done**1.1, "loss": 0.1 / k,
                "reward": 0.95 - 0.5 * 2.7 ** (-5 * done) + draw.gauss(0, 0.01), "temperature": 0.05}  # fmt: skip
        if k % 4 == 0:
            for at, metric in zip((0.97, 0.9, 0.93), METRICS):
                line[f"validation/{metric}"] = at - 0.6 * 2.7 ** (-6 * done) + draw.gauss(0, 0.005)
            line["validation/reward"] = line["validation/constraints"]
        found.append(line)
    return found


MANIFEST = {
    "versions": {"instructrec-rl": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "trl": "1.16.0"},
    "commit": "0f4c2a9d", "seed": 3, "started": "2025-11-22T03:14:15+00:00", "device": "cpu", "threads": 1,
    "command": "python -m instructrec_rl.run env=pizza_rec reward=constraints seed=3",
    "sha256": {"data": {"items.jsonl": "ab" * 32, "instructions.jsonl": "cd" * 32}, "encoder": "53" * 32,
               "feedback": ""},
    "left_out": {"label not in training": 1200},
}  # fmt: skip


def write_run(folder: Path, **changed: Any) -> Path:
    """A run folder; a part given as None is not written."""
    parts = {"result.json": make_result(), "manifest.json": MANIFEST, "metrics.jsonl": make_metrics(),
             "samples.jsonl": make_samples(), "config.yaml": "seed: 3\nalgo:\n  name: dqn\n"}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (parts | {key.replace("_", "."): value for key, value in changed.items()}).items():
        if isinstance(content, list):
            content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
        if content is not None:
            words = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (folder / name).write_text(words, encoding="utf-8")
    return folder


class Page(HTMLParser):
    """What a page holds: its tags with their attributes, its headings, its visible text."""

    VOID = ("meta", "br", "hr", "img", "input", "link")

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("h1", "h2"):
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings[-1] += data
        if "style" not in self.open:
            self.text += data


def report_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_page_has_every_section_in_order_and_every_baseline(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path / "run"))
    assert page.headings == ["dqn on pizza_rec", *HEADINGS]
    for word in (*REACHED, *SPLITS, "2025-11-22 03:14", "policy (dqn)", "0f4c2a9d", "53" * 32, "torch", "1200",
                 "exact_match 0.", "100,000", "simple", "crossing", "kept policy"):  # fmt: skip
        assert word in page.text, word
    assert len([tag for tag, _ in page.tags if tag == "article"]) == 20
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == len(SPLITS) + 2


def test_page_is_self_contained_with_unique_ids(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path / "run"))
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "img", "object")]
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    html = (tmp_path / "run" / "report.html").read_text()
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert used <= set(ids)
    assert not re.search(r"#0a0b\w\w", html), "a placeholder colour was left in a figure"


def test_figures_are_labelled_and_tables_scoped(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path / "run"))
    labels = [attributes["aria-label"] or "" for tag, attributes in page.tags if tag == "svg"]
    assert labels[0] == ("constraints on iid: policy (dqn) 98 %, random 0 %, popularity 8 %, neighbour 36 %, "
                         "tfidf 31 %, oracle 100 %")  # fmt: skip
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table") >= 6
    for svg in re.findall(r"<svg.*?</svg>", (tmp_path / "run" / "report.html").read_text(), flags=re.S):
        ElementTree.fromstring(svg.replace("xlink:href", "href"))


def test_markup_in_the_data_is_shown_and_inert(tmp_path: Path) -> None:
    attack = '<script>alert(1)</script><img src=x onerror="alert(2)">\x00\'"&'
    samples = [{**make_samples()[0], "instruction": attack, "response": attack, "split": attack, "references": [attack],
                "constraints": [{"kind": attack, "attribute": attack, "op": attack, "value": attack}],
                "reward_parts": {attack: 1.0}}]  # fmt: skip
    result = make_result()
    result["splits"] = {attack: result["splits"]["iid"]}
    result["baselines"] = {attack: {"splits": result["splits"]}}
    metrics = [{"step": k, "cpu_s": k, "reward": 0.5, f"validation/{attack}": 0.5} for k in range(3)]
    manifest = {**MANIFEST, "command": attack, "left_out": {attack: attack}, "versions": {attack: attack}}
    folder = write_run(tmp_path / "run", result_json=result | {"env": attack, "algo": attack, "reward": attack},
                       samples_jsonl=samples, metrics_jsonl=metrics, manifest_json=manifest,
                       config_yaml=attack)  # fmt: skip
    page = report_of(folder)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 10
    assert "\x00" not in page.text


def test_chinese_text_and_dollar_signs(tmp_path: Path) -> None:
    result = make_result()
    result["splits"] = {"测试集 $x^2$": result["splits"]["iid"]}
    result["baselines"] = {"最近邻 $y$": {"splits": result["splits"]}}
    sample = {"split": "测试集", "instruction": "请给我推荐一款好吃的披萨。🍕", "response": "玛格丽特", "reward": 1}
    page = report_of(write_run(tmp_path / "run", result_json=result, samples_jsonl=[sample]))
    for word in ("测试集 $x^2$", "最近邻 $y$", "请给我推荐一款好吃的披萨。🍕", "玛格丽特"):
        assert word in page.text


def test_page_without_the_optional_parts(tmp_path: Path) -> None:
    split = {"n": 10, "reward": 0.5, "metrics": {"exact_match": 0.5}}
    result = {"env": "mine", "reward": "mine", "algo": "random", "seed": 0, "splits": {"test": split}}
    page = report_of(write_run(tmp_path / "run", result_json=result, manifest_json=None, metrics_jsonl=None,
                               samples_jsonl=None, config_yaml=None))  # fmt: skip
    assert page.headings == ["random on mine", *(h for h in HEADINGS if h not in ("By wording", "Where it fails"))]
    assert "On test, the policy's mean exact_match is 0.500 (not normalised" in page.text
    assert "metrics.jsonl logged no reward" in page.text


def test_curves_without_validation_and_with_many_lines(tmp_path: Path) -> None:
    metrics = [{"step": k, "cpu_s": k / 9, "reward": 0.1} for k in range(20_000)]
    page = report_of(write_run(tmp_path / "run", metrics_jsonl=metrics))
    assert [a["aria-label"] for t, a in page.tags if t == "svg"][-1].startswith("Training reward against interactions")
    assert (tmp_path / "run" / "report.html").stat().st_size < 400_000


def test_kinds_come_from_the_samples_where_the_result_has_none(tmp_path: Path) -> None:
    result = make_result()
    for split in result["splits"].values():
        del split["by"]
    assert (
        "Counted over the rows of samples.jsonl only" in report_of(write_run(tmp_path / "run", result_json=result)).text
    )


def test_warm_start_stands_beside_the_policy(tmp_path: Path) -> None:
    result = make_result()
    result["warm_start"] = result["baselines"]["tfidf"]
    page = report_of(write_run(tmp_path / "run", result_json=result))
    assert "Its warm start, before reinforcement learning, reaches 31\xa0% there." in page.text
    assert list(result_table(result).columns[0].cells)[1].plain == "warm start"


def test_summary_says_what_the_figures_say() -> None:
    result = make_result()
    result["splits"] = {"validation": one_split(4, "tfidf", 9), **result["splits"]}  # chose the policy: not counted
    assert summary(result) == (
        "On iid, the policy reaches 98 % of the way from random to oracle on constraints; the highest baseline, "
        "neighbour, 36 %. Over the 6 test splits it lies between 55 % (both) and 98 % (iid). This is one "
        "seed, so there is no interval: a small difference may be chance."
    )


def test_spread_takes_from_every_split_and_fills_up() -> None:
    records = [{"split": "a", "k": k} for k in range(100)] + [{"split": "b", "k": k} for k in range(3)]
    chosen = spread(records, 20)
    assert [r["k"] for r in chosen if r["split"] == "b"] == [0, 1, 2]
    assert [r["k"] for r in chosen if r["split"] == "a"] == [k * 100 // 17 for k in range(17)]
    assert spread(records[:2], 20) == records[:2]
    assert spread([], 20) == []


def test_constraints_in_words() -> None:
    words = [constraint_words(c) for c in make_samples()[0]["constraints"]]
    assert words == ["toppings lacks mushrooms", "price at most 12", "crust is one of thin, pan"]


def test_command_writes_again_and_prints_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    assert run_command(main, [str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    first = (folder / "report.html").read_bytes()
    assert run_command(main, [str(folder)]) == 0
    assert (folder / "report.html").read_bytes() == first


@pytest.mark.parametrize(("change", "reason"), [
    ({"result_json": None, "config_yaml": None}, "run: not a run folder: it has no result.json"),
    ({"result_json": None}, "run: the run has not finished: it has no result.json; continue it with resume=true"),
    ({"result_json": '{\n"env": }'}, "result.json:2: broken JSON: Expecting value"),
    ({"result_json": "[]"}, "result.json: expected a JSON object"),
    ({"result_json": {"env": "x"}}, 'result.json: not the result of a run: it has no "reward"'),
    ({"result_json": make_result() | {"splits": {}}}, 'result.json: "splits": expected at least one split'),
    ({"metrics_jsonl": '{"step": 1}\n{"reward": 1}\n'}, 'metrics.jsonl:2: the line has no "step"'),
    ({"samples_jsonl": "{"}, "samples.jsonl:1: broken JSON"),
])  # fmt: skip
def test_wrong_folder_is_one_line_and_exit_2(
    tmp_path: Path, change: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, [str(write_run(tmp_path / "run", **change))]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such run folder"):
        read_run(tmp_path / "nowhere")


def console(terminal: bool, width: int = 100) -> Any:
    from rich.console import Console

    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def test_table_fits_100_columns_whole() -> None:
    screen, result = console(terminal=True), make_result()
    for found in (result, *result["baselines"].values()):  # as pizza_rec has it: seven splits
        found["splits"] = {"validation": found["splits"]["iid"], **found["splits"]}
    print_result(result, Path("runs/x"), screen)
    lines = screen.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "report: runs/x/report.html"
    policy = next(line for line in lines if "policy (dqn)" in line)
    assert re.findall(r"(\d+ %) (0\.\d+)", policy)[2] == ("97 %", "0.97")
    assert len(lines) == len(REACHED) + 6, "no cell was folded"
    assert all(any(name in line for line in lines) for name in REACHED)


def test_off_a_terminal_lines_are_plain_and_unwrapped() -> None:
    screen, long = console(terminal=False, width=40), Path("runs") / ("x" * 120)
    print_result(make_result(), long, screen)
    lines = screen.file.getvalue().splitlines()
    assert lines == [*result_lines(make_result()), f"report: {long / 'report.html'}"]
    assert len({len(line) for line in lines[1:-1]}) == 1, "columns are aligned"
    assert "\x1b" not in screen.file.getvalue()


def test_progress_on_a_terminal_shows_rate_and_words() -> None:
    screen = console(terminal=True, width=120)
    with progress("train", 1000, screen) as update:
        for step in range(0, 1001, 100):
            update(step, 1000, f"[reward] {step / 1000:.2f}")
    shown = screen.file.getvalue()
    assert "steps/s" in shown
    assert "1000/1000" in shown
    assert "[reward] 1.00" in shown


def test_progress_off_a_terminal_prints_tenths_then_every_ten_seconds() -> None:
    screen, seconds = console(terminal=False, width=20), iter(range(0, 10**6))
    update = _PlainProgress("train", screen, clock=lambda: float(next(seconds)))
    for step in range(500, 1001, 5):  # a resumed run: the rate is that of its own 500 steps
        update(step, 1000, "reward 0.6")
    lines = screen.file.getvalue().splitlines()
    assert lines[0].startswith("train: 500 of 1,000 (50 %), ")
    assert re.fullmatch(r"train: 1,000 of 1,000 \(100 %\), [\d.]+ steps/s, .* elapsed, 0 s left, reward 0.6", lines[-1])
    rate = float(re.search(r"([\d.]+) steps/s", lines[-1]).group(1))  # type: ignore[union-attr]
    assert rate == pytest.approx(2.5, abs=0.1)
    assert 6 < len(lines) <= 26
    with progress("train", 10, console(terminal=False)) as plain:
        assert isinstance(plain, _PlainProgress)


def test_progress_follows_an_algorithm_that_counts_its_own_steps() -> None:
    for terminal, words in ((True, "8/8"), (False, "learn: 8 of 8 (100 %)")):
        screen = console(terminal, width=120)
        with progress("learn", 100_000, screen) as update:
            for step in range(9):
                update(step, 8, "")
        assert words in screen.file.getvalue()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_page_in_a_browser(browser: Any, tmp_path: Path, width: int, scheme: Any) -> None:
    samples = make_samples()
    samples[0]["instruction"] = "<script>document.title = 'owned'</script>" + "long" * 100
    path = write_report(write_run(tmp_path / "run", samples_jsonl=samples))
    messages: list[str] = []
    requests: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    assert page.title() == "pizza_rec · dqn · constraints · seed 3"
    assert page.locator("h2").all_inner_texts() == HEADINGS
    wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1], "the page scrolls sideways"
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(253, 253, 252)" if scheme == "light" else "rgb(20, 23, 27)")
    page.close()
    assert messages == []
    assert requests == [path.as_uri()]


def test_counting_back_begins_a_new_stretch() -> None:
    """A stage of 100 pairs in 50 s, then learning at 10 steps a second: the second rate knows nothing of the first."""
    screen = console(terminal=False, width=200)
    now = [0.0]
    update = _PlainProgress("train", screen, clock=lambda: now[0])
    for step in range(0, 101, 10):
        now[0] = step / 2
        update(step, 100, "a stage")
    for step in (10, 20, 110, 1000):
        now[0] = 50 + step / 10
        update(step, 1000, "")
    lines = screen.file.getvalue().splitlines()
    assert "train: 100 of 100 (100 %), 2 steps/s" in lines[10]
    assert lines[11].startswith("train: 10 of 1,000 (1 %), 51 s elapsed")
    assert "10 steps/s" in lines[-1]


def test_what_was_learned_from_has_a_row_where_a_run_has_it() -> None:
    """Far above the test splits, it says that the instructions were learned by heart; older runs have none."""
    from instructrec_rl.report.one_run.sections import compared

    scores = {"n": 4, "metrics": {"exact_match": 0.58}, "normalized": {"exact_match": 0.5}}
    result = {
        "env": "x",
        "reward": "r",
        "algo": "dqn",
        "splits": {"test": scores},
        "baselines": {"random": {"splits": {}}},
    }
    assert "train (learned from)" not in compared(result)
    shown = compared(result | {"train": {"n": 9, "metrics": {"exact_match": 0.913}}})
    assert "train (learned from)" in shown
    assert "0.913" in shown
