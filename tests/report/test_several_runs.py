"""The report over several runs, from run folders made here with scores that are known."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from instructrec_rl.core.command_line import run_command
from instructrec_rl.report.command import main
from instructrec_rl.report.several_runs.findings import find, standings
from instructrec_rl.report.several_runs.gather import gather
from instructrec_rl.report.several_runs.page import results_of
from instructrec_rl.report.several_runs.results import read_results
from tests.report.test_report import Page

SPLITS = {"iid": 40, "frame": 20}
ENDS = {"random": 0.2, "oracle": 0.9}
KINDS = ("topping", "price")
ATTACK = '<script>document.title="owned"</script><img src=x onerror="alert(2)">|`*'
SKILL = {"popularity": 0.25, "dqn": 0.7, "ppo": 0.68}
HEADINGS = ["Leaderboard", "Which differences are shown", "Every split", "Learning curves", "How the runs are spread",
            "Cost against quality", "Where they fail", "Where variants disagree", "How to repeat it"]  # fmt: skip


def means(value: float) -> dict[str, float]:
    return {"constraints": value, "exact_match": value / 2, "valid": 1.0}


def answers_of(variant: str, seed: int, skill: float, words: str) -> list[dict[str, Any]]:
    """Every instruction's answer: the score is 0 or 1, and its mean near `skill`."""
    draw = random.Random(f"{variant} {seed}")
    found = [{"split": "validation", "id": "v0", "instruction": "x", "response": "y", "metrics": means(0.5)}]
    for split, size in SPLITS.items():
        for k in range(size):
            score = float(draw.random() < skill)
            found.append({
                "split": split, "id": f"{split}-{k}", "instruction": f"number {k} {words}",
                "response": f"{variant} says {score:.0f} {words}", "item": None, "reward": score,
                "metrics": means(score), "kinds": {KINDS[k % 2]: [int(score), 1]},
            })  # fmt: skip
    return found


def write_run(
    folder: Path, variant: str, seed: int, skill: float, words: str = "", options: dict[str, Any] | None = None
) -> None:
    """A finished run as the run command leaves it, as far as the report reads it."""
    folder.mkdir(parents=True)
    answers = answers_of(variant, seed, skill, words)
    reached = {s: float(np.mean([a["metrics"]["constraints"] for a in answers if a["split"] == s])) for s in SPLITS}
    splits = {"validation": {"metrics": means(0.5)}, **{s: {"metrics": means(value)} for s, value in reached.items()}}
    baselines = {name: {"splits": {s: {"metrics": means(v)} for s in splits}} for name, v in ENDS.items()}
    result = {"env": "toys", "reward": "constraints", "algo": variant, "seed": seed, "interactions": 1000,
              "wall_s": 2.0, "cpu_s": 1.0 + seed, "splits": splits, "baselines": baselines}  # fmt: skip
    if variant == "ppo":
        first = {"cpu_s": 1.0, "wall_s": 1.1}
        made = {
            "verbaliser": first,
            "supervised": {"cpu_s": 2.5, "wall_s": 2.6, "reused": {"cpu_s": 10.0, "wall_s": 11.0}},
        }
        result["stages"] = made
    manifest = {"commit": "abc", "versions": {"torch": "2"}, "sha256": {"data": {"items.jsonl": "ab"}}, "threads": 1}
    curve = [] if variant == "popularity" else [
        {"step": 100 * k, "cpu_s": 0.1 * k, "validation/constraints": 0.2 + skill * k / 10} for k in range(1, 9)
    ]  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
    config = {"env": {"name": "toys"}, "algo": {"name": variant, **(options or {})}, "seed": seed}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def write_bench(home: Path, skill: dict[str, float] | None = None, seeds: int = 5, words: str = "") -> Path:
    runs = []
    for variant, at in (skill or SKILL).items():
        for seed in range(seeds):
            write_run(home / f"{variant}-{seed}", variant, seed, at, words)
            runs.append({"variant": variant, "seed": seed, "folder": f"{variant}-{seed}", "status": "done"})
    failed = {"variant": "grpo", "seed": 0, "folder": "grpo-0", "log": "grpo-0.log", "status": "failed",
              "last_words": ["no memory", words]}  # fmt: skip
    about = {"experiment": "mine", "description": f"which {words}?", "size": "quick", "started": "2026-11-26T10:00:00",
             "command": f"instructrec-rl bench experiment=mine {words}", "wall_s": 70.0,
             "variants": {name: {"algo": name} for name in (skill or SKILL)}}  # fmt: skip
    (home / "bench.json").write_text(json.dumps({**about, "runs": [*runs, failed]}))
    return home


def report_of(home: Path, *options: str) -> Page:
    assert run_command(main, [str(home), *options]) == 0
    return Page((home / "report.html").read_text(encoding="utf-8"))


def test_figures_are_those_of_the_answers(tmp_path: Path) -> None:
    results = gather(write_bench(tmp_path / "b"))
    (task,) = results.tasks
    assert (task.env, task.metric, task.sizes, task.splits) == ("toys", "constraints", SPLITS, list(SPLITS))
    places = {place.variant: place for place in standings(results, task)}
    for variant, skill in SKILL.items():
        reached = []
        for seed in range(5):
            answers = [a for a in answers_of(variant, seed, skill, "") if a["split"] != "validation"]
            by_split = [np.mean([a["metrics"]["constraints"] for a in answers if a["split"] == s]) for s in SPLITS]
            reached.append((np.array(by_split) - 0.2) / 0.7)
        place = places[variant]
        assert place.mean.value == pytest.approx(np.mean(reached)), "each split counts alike, whatever its size"
        assert place.mean.low < place.mean.value < place.mean.high
        assert [place.splits[s].value for s in SPLITS] == pytest.approx(np.mean(reached, axis=0))
        assert place.metrics["constraints"].value == pytest.approx(place.mean.value)
        assert np.isnan(place.metrics["valid"].value), "random and oracle score alike on it"
        assert sum(asked for _, asked in place.kinds.values()) == 5 * 60
    assert places["dqn"].cpu_s == 3.0
    assert places["ppo"].cpu_s == 15.5, "its stages are counted, also the one that another run made"
    assert places["ppo"].runs[0].wall_s == pytest.approx(2.0 + 2.6 + 11.0)
    assert places["ppo"].runs[0].curve[0][1] == pytest.approx(12.6)


def test_better_is_said_only_where_it_is_shown(tmp_path: Path) -> None:
    page = report_of(write_bench(tmp_path / "b"))
    first, second = ("dqn", "ppo") if "dqn has the highest" in page.text else ("ppo", "dqn")
    assert f"{first} has the highest mean" in page.text
    assert "After Holm's correction over 3 comparisons it is better than popularity." in page.text
    assert f"No difference from {second} is shown." in page.text
    assert f"{first} is better than popularity: constraints +" in page.text
    assert f"No difference between {first} and {second} is shown" in page.text
    assert f"{first} is better than {second}" not in page.text


def test_two_seeds_have_no_interval_and_the_report_says_so(tmp_path: Path) -> None:
    page = report_of(write_bench(tmp_path / "b", seeds=2))
    assert "2 seeds: too few for an interval, which takes 3." in page.text
    assert "better than" not in page.text
    assert "nan" not in page.text
    assert "nan" not in (tmp_path / "b" / "report.md").read_text()


def test_every_section_is_there_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    home = write_bench(tmp_path / "b")
    page = report_of(home)
    assert page.headings == ["b", *HEADINGS[:-1], "Runs that are missing", HEADINGS[-1]]
    for word in ("popularity", "no memory", "instructrec-rl bench experiment=mine", "topping", "exact_match", "abc"):
        assert word in page.text, word
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "img", "object")]
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0
    words = (home / "report.md").read_text(encoding="utf-8")
    assert [line[3:] for line in words.splitlines() if line.startswith("## ")] == page.headings[1:]
    assert "<" not in words.replace("\\<", "").replace("p < 0.001", "")


def test_report_json_makes_the_same_report_without_the_runs(tmp_path: Path) -> None:
    home = write_bench(tmp_path / "b")
    report_of(home)
    assert read_results(home / "report.json") == gather(home)
    kept = tmp_path / "kept"
    kept.mkdir()
    (home / "report.json").rename(kept / "report.json")
    assert run_command(main, [str(kept / "report.json")]) == 0
    for name in ("report.html", "report.md", "report.csv"):
        assert (kept / name).read_bytes() == (home / name).read_bytes()


def test_csv_has_every_figure(tmp_path: Path) -> None:
    home = write_bench(tmp_path / "b")
    report_of(home)
    rows = list(csv.DictReader(io.StringIO((home / "report.csv").read_text())))
    assert len(rows) == 3 * 3 * (1 + len(SPLITS)), "variants x metrics x (the mean and each split)"
    place = {p.variant: p for p in standings(gather(home), gather(home).tasks[0])}["dqn"]
    (row,) = [
        r for r in rows if (r["variant"], r["split"], r["metric"]) == ("dqn", "mean of the splits", "constraints")
    ]
    assert float(row["normalized"]) == pytest.approx(place.mean.value, abs=1e-6)
    assert float(row["low"]) == pytest.approx(place.mean.low, abs=1e-6)
    assert float(row["raw"]) == pytest.approx(0.2 + 0.7 * place.mean.value, abs=1e-6)
    assert (row["seeds"], row["instructions"], row["interactions"]) == ("5", "60", "800")
    assert {r["interactions"] for r in rows if r["variant"] == "popularity"} == {""}, "it learns from no tries"


def test_two_reports_are_compared_variant_by_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = write_bench(tmp_path / "before")
    after = write_bench(tmp_path / "after", {"dqn": 0.98, "popularity": 0.25, "new": 0.5})
    report_of(before)
    assert run_command(main, ["before/report.json", str(after)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "compared/report.html"
    page = Page((tmp_path / "compared" / "report.html").read_text())
    assert "What changed" in page.headings
    assert "Which differences are shown" not in page.headings
    assert "after: dqn is better than before: dqn" in page.text
    assert "after: popularity against before: popularity" in page.text, "the same answers: nothing to judge by"
    assert "after: new is" not in page.text
    kept = read_results(tmp_path / "compared" / "report.json")
    assert {run.variant for run in kept.runs} >= {"before: dqn", "after: dqn", "before: ppo", "after: new"}
    (found,) = find(kept, side_by_side=False)
    assert len(found.comparisons) == 15
    assert "Better than before: dqn. No change of popularity is shown." in page.text


def test_reports_are_told_apart_by_what_their_names_do_not_share(tmp_path: Path) -> None:
    def variants(*names: str) -> set[str]:
        homes = [tmp_path / str(k) / name for k, name in enumerate(names)]
        results, _ = results_of([home if home.exists() else write_bench(home, {"dqn": 0.5}) for home in homes])
        return {run.variant for run in results.runs}

    assert variants("trial-quick", "trial-full") == {"quick: dqn", "full: dqn"}
    assert variants("same", "same") == {"same (1): dqn", "same (2): dqn"}
    assert variants("a-b", "a-bc") == {"b: dqn", "bc: dqn"}


def test_single_runs_are_grouped_by_what_differs(tmp_path: Path) -> None:
    for hidden in (16, 32):
        for seed in range(3):
            write_run(tmp_path / f"r{hidden}-{seed}", "dqn", seed, hidden / 40, options={"hidden": hidden, "lr": 1})
    write_run(tmp_path / "p", "popularity", 0, 0.3)
    results, compared = results_of(sorted(path for path in tmp_path.iterdir()))
    assert not compared
    assert {run.variant for run in results.runs} == {"dqn algo.hidden=16", "dqn algo.hidden=32", "popularity"}
    assert sorted(run.seed for run in results.runs if run.variant == "dqn algo.hidden=32") == [0, 1, 2]


def test_two_runs_of_one_variant_and_seed_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second"):
        write_run(tmp_path / "runs" / name, "dqn", 0, 0.5)
    assert run_command(main, [str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert f"second: the same options and seed as {tmp_path / 'runs' / 'first'}; leave one of the two out" in error


def test_a_report_json_whose_parts_do_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = write_bench(tmp_path / "b")
    report_of(home)
    kept = json.loads((home / "report.json").read_text())
    kept["runs"][0]["scores"]["iid"].pop()
    (home / "report.json").write_text(json.dumps(kept))
    assert run_command(main, [str(home / "report.json")]) == 2
    assert "popularity, seed 0: its scores are not those of a task of the file" in capsys.readouterr().err


def test_runs_that_answered_other_instructions_are_not_compared(tmp_path: Path) -> None:
    home = write_bench(tmp_path / "b")
    for seed in range(5):
        path = home / f"dqn-{seed}" / "manifest.json"
        path.write_text(path.read_text().replace('"ab"', '"other"'))
    page = report_of(home)
    assert page.headings.count("Leaderboard · toys") == 2
    assert "dqn is better than" not in page.text
    assert "The runs were not all made with the same sha256 of data items.jsonl." in page.text


def test_markup_is_shown_and_inert(tmp_path: Path) -> None:
    page = report_of(write_bench(tmp_path / "b", words=ATTACK))
    assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
    assert page.text.count('<script>document.title="owned"</script>') > 10


def broken(name: str, text: str) -> Callable[[Path], int]:
    return lambda home: (home / name).write_text(text)


@pytest.mark.parametrize(("change", "reason"), [
    (lambda home: (home / "dqn-1" / "answers.jsonl").unlink(), "dqn-1: the run has no answers.jsonl"),
    (broken("dqn-1/answers.jsonl", '{"split": "iid"'), "answers.jsonl:1: broken JSON"),
    (broken("dqn-1/answers.jsonl", '{"split": "validation"}\n'), "it holds no answer to a test split"),
    (broken("dqn-1/result.json", "{"), "dqn-1/result.json:1: broken JSON"),
    (broken("bench.json", "[]"), "bench.json: expected a JSON object"),
    (broken("bench.json", '{"runs": []}'), "no finished run"),
])  # fmt: skip
def test_a_wrong_bench_is_one_line_and_exit_2(
    tmp_path: Path, change: Callable[[Path], Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home = write_bench(tmp_path / "b")
    change(home)
    assert run_command(main, [str(home)]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not (home / "report.html").exists()


def test_wrong_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = write_bench(tmp_path / "b")
    (tmp_path / "x.json").write_text('{"runs": 3}')
    for arguments, reason in (
        ([str(home / "nowhere")], "there is no such folder or file"),
        ([str(home), str(home / "dqn-0")], "give run folders, or benches, but not both"),
        ([str(tmp_path / "x.json")], "not a report.json of instructrec-rl: name: Field required"),
        ([], "the following arguments are required: DIR"),
        ([str(home), "--ot", "x"], "--out"),
    ):
        assert run_command(main, arguments) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_page_in_a_browser(browser: Any, tmp_path: Path, width: int, scheme: Any) -> None:
    """Nothing is fetched or run, the page does not scroll sideways, and axe-core finds nothing wrong."""
    from axe_playwright_python.sync_playwright import Axe

    home = write_bench(tmp_path / "b", words=ATTACK + "long" * 60)
    report_of(home)
    messages: list[str] = []
    requests: list[str] = []
    # axe needs to run its own script in the page, which the page's policy forbids to the page itself
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page.on("console", lambda message: messages.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((home / "report.html").as_uri())
    assert page.title() == "b · report"
    wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1], "the page scrolls sideways"
    assert requests == [(home / "report.html").as_uri()]
    found = Axe().run(page).response
    assert found["passes"]
    assert [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found["violations"]] == []
    assert messages == []
    page.close()
