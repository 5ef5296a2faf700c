"""A bench: it ends, is reused, resumed after a kill, goes on past failures, and says kindly what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from instructrec_rl.bench import command as bench
from instructrec_rl.bench.folder import State
from instructrec_rl.bench.plan import override
from instructrec_rl.bench.screen import seconds_left
from instructrec_rl.config.overrides import parse
from instructrec_rl.core import command_line as cli
from instructrec_rl.core.files import read_yaml
from tests.conftest import write_toys
from tests.run.test_run import ROOT, environment

pytestmark = pytest.mark.timeout(900)  # each run is a process that imports torch

BENCHES = [path for path in sorted((ROOT / "experiments").glob("*.yaml")) if bench.is_bench(read_yaml(path))]
TINY = """
description: which policy suits the toys?
overrides: {env: toys, reward: constraints, algo.interactions: 1000, encoder.cache: cache}
variants:
  popularity: {algo: popularity}
  dqn: {algo: dqn, algo.eval_every: 500}
sizes:
  quick: {seeds: [0], variants: {dqn: {seeds: [0, 1]}}}
  full: {seeds: [0, 1], variants: {dqn: {seeds: [5], algo.hidden: 64}}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toys environment in an empty current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    write_toys(tmp_path)
    return tmp_path


def write_bench(home: Path, text: str = TINY, name: str = "tiny") -> None:
    (home / "experiments").mkdir(exist_ok=True)
    (home / "experiments" / f"{name}.yaml").write_text(text)


def command(*options: str) -> int:
    return cli.run_command(bench.main, ["experiment=tiny", "out=b", "workers=1", *options])


def runs_of(home: Path) -> dict[str, dict[str, Any]]:
    """The runs in bench.json by the name of their folder."""
    return {run["folder"]: run for run in json.loads((home / "b" / "bench.json").read_text())["runs"]}


def made(home: Path) -> dict[str, int]:
    """When each run's result was written, in nanoseconds."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (home / "b").glob("*/result.json")}


def test_a_bench_ends_is_reused_and_repeats_what_changed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bench(home)
    assert command() == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0].endswith(f"3 runs, 0 of them done before, 1 at once, in {home / 'b'}")
    assert lines[-1].startswith("dqn-1: done in ")
    assert "(3 of 3)" in lines[-1]
    assert said.out.splitlines()[-2:] == [
        f"results: {home / 'b' / 'bench.json'}",
        f"report: {home / 'b' / 'report.html'}",
    ]
    assert "\x1b" not in said.out + said.err
    runs, first = runs_of(home), made(home)
    assert list(runs) == ["popularity-0", "dqn-0", "dqn-1"]
    for name, run in runs.items():
        assert (run["status"], run["reused"], run["attempts"], run["metric"]) == ("done", False, 1, "constraints")
        assert run["cpu_s"] > 0
        assert len(run["hash"]) == 64
        assert (home / "b" / name / "answers.jsonl").exists()
        assert "report: " in (home / "b" / run["log"]).read_text()
    assert runs["dqn-0"]["score"] > 0.3 > abs(runs["popularity-0"]["score"])
    assert len({run["hash"] for run in runs.values()}) == 3
    baselines = json.loads((home / "b" / "dqn-0" / "result.json").read_text())["baselines"]
    assert set(baselines) == {"random", "oracle"}, "the baselines are variants, and need not be computed in every run"

    assert command() == 0
    assert made(home) == first
    assert all(run["reused"] and run["cpu_s"] > 0 for run in runs_of(home).values())

    write_bench(home, TINY.replace("algo.eval_every: 500", "algo.eval_every: 250"))
    capsys.readouterr()
    assert command() == 0
    said = capsys.readouterr()
    assert f"dqn-0: runs again, as its config changed; the earlier run is now in {home}/b/old/dqn-0-1" in said.err
    again = made(home)
    assert {name for name in first if again[name] != first[name]} == {"dqn-0", "dqn-1"}
    assert (home / "b" / "old" / "dqn-0-1" / "dqn-0" / "result.json").exists()

    with (home / "envs" / "toys" / "items.jsonl").open("a") as items:
        items.write(json.dumps({"id": "new", "name": "new", "text": "a new toy", "colour": "red", "shape": "cone"}))
    assert command("only=popularity") == 0
    assert "popularity-0: runs again, as its data changed" in capsys.readouterr().err


def start(home: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "instructrec_rl.bench", "experiment=tiny", "out=b", "workers=1"]
    with (home / "err.txt").open("w") as err:
        return subprocess.Popen(
            arguments, cwd=home, env=environment(), stdout=subprocess.DEVNULL, stderr=err, text=True
        )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, (path, (path.parents[2] / "err.txt").read_text())
        assert time.monotonic() < end
        time.sleep(0.01)


LONGER = TINY.replace("algo.eval_every: 500", "algo.eval_every: 256, algo.checkpoint_every: 256").replace(
    "algo.interactions: 1000", "algo.interactions: 12000"
)
LONGER = LONGER.replace("{dqn: {seeds: [0, 1]}}", "{}")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_bench_that_is_stopped_repeats_no_finished_run(home: Path, sent: signal.Signals) -> None:
    write_bench(home, LONGER)
    process = start(home)
    wait_for(home / "b" / "dqn-0" / "metrics.jsonl", process)
    process.send_signal(sent)
    assert process.wait(timeout=120) == (-signal.SIGKILL if sent == signal.SIGKILL else 130)
    first = made(home)
    assert set(first) == {"popularity-0"}
    if sent == signal.SIGINT:
        assert runs_of(home)["dqn-0"]["status"] == "stopped"
        assert list((home / "b" / "dqn-0" / "checkpoints").glob("step-*"))
        assert (home / "b" / "dqn-0.log").read_text().endswith("interrupted\n")
    assert command() == 0
    again = made(home)
    assert {name: again[name] for name in first} == first
    assert set(again) == {"popularity-0", "dqn-0"}
    log = (home / "b" / "dqn-0.log").read_text()
    assert "resume=true" in log, "what the first bench had learned is not learned again"
    assert not any("resume=true" in (home / "b" / f"{name}.log").read_text() for name in first)


MOODY = """
overrides: {env: toys, algo: popularity, encoder.cache: cache}
variants: {moody: {reward: moody}, popularity: {reward: constraints}}
sizes: {quick: {seeds: [0]}}
"""


def test_a_run_that_fails_is_tried_again_and_stops_no_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "rewards").mkdir()
    (home / "rewards" / "moody.py").write_text(
        '"""Fails in training."""\nfrom pathlib import Path\n\n\ndef score(batch, config):\n'
        '    if not Path("mended").exists():\n        raise ValueError("not in the mood")\n'
        "    return [1.0] * len(batch.responses)\n"
    )
    write_bench(home, MOODY)
    assert command() == 2, "all that failed had wrong input"
    said = capsys.readouterr()
    assert "moody-0: failed (exit code 2), is tried again" in said.err
    assert f"moody-0 failed 2 times; its log: {home / 'b' / 'moody-0.log'}" in said.out
    assert "ValueError: not in the mood" in said.out
    runs = runs_of(home)
    assert [run["status"] for run in runs.values()] == ["failed", "done"]
    assert runs["moody-0"]["attempts"] == 2
    assert "ValueError: not in the mood" in "\n".join(runs["moody-0"]["last_words"])
    assert (home / "b" / "moody-0.log").read_text().count("# 2") == 2

    (home / "mended").touch()
    first = made(home)
    assert command() == 0
    assert {run["status"] for run in runs_of(home).values()} == {"done"}
    assert {name: made(home)[name] for name in first} == first


def test_a_run_killed_by_the_system_is_tried_again(home: Path) -> None:
    write_bench(home, LONGER)
    process = start(home)
    wait_for(home / "b" / "dqn-0" / "checkpoints", process)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    assert process.wait(timeout=250) == 0
    assert runs_of(home)["dqn-0"]["attempts"] == 2
    assert "dqn-0: failed (exit code -9), is tried again" in (home / "err.txt").read_text()


def test_two_benches_do_not_share_a_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instructrec_rl.bench.folder.LOCK_WAIT_S", 0.2)
    write_bench(home)
    process = start(home)
    wait_for(home / "b" / "popularity-0.log", process)
    with pytest.raises(bench.InputError, match="another bench is at work in this folder"):
        bench.main(["experiment=tiny", "out=b"])
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_the_sizes_and_the_grid(home: Path) -> None:
    grid = "grid:\n  reward: [constraints, rouge]\n  env.state: [sentence, clauses]\n"
    write_bench(home, TINY + grid)
    found = bench.read_bench("tiny", "full")
    assert list(found.variants)[:2] == ["popularity-constraints-sentence", "popularity-constraints-clauses"]
    assert len(found.variants) == 8
    last = found.variants["dqn-rouge-clauses"]
    assert (last["reward"], last["env.state"], last["algo.hidden"]) == ("rouge", "clauses", 64)
    assert found.seeds["dqn-rouge-clauses"] == [5]
    assert found.seeds["popularity-rouge-clauses"] == [0, 1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("variants:\n", "variant:\n", 'unknown key "variant". Did you mean "variants"?'),
        (
            "quick: {seeds: [0]",
            "quick: {seeds: [0, 0]",
            "sizes.quick.seeds: expected a list of different whole numbers",
        ),
        ("quick: {seeds: [0]", "quick: {seed: [0]", 'unknown key "sizes.quick.seed". Did you mean "seeds"?'),
        ("  popularity: {", "  a/b: {", 'variants: "a/b" becomes a folder'),
        ("{algo: popularity}", "{algo: popularity, seed: 3}", "variants.popularity.seed: bench sets this itself"),
        ("{algo: popularity}", "[popularity]", "variants.popularity: expected a mapping"),
        ("{algo: popularity}", "{algo: popularty}", 'no such algorithm. Did you mean "popularity"?'),
        ("algo.eval_every", "algo.evaluate", 'unknown option "evaluate" of algo=dqn. Did you mean "eval_every"?'),
        ("env: toys", "env: toy", 'no such environment. Did you mean "toys"?'),
        (
            "quick: {seeds: [0], variants: {dqn:",
            "quick: {seeds: [0], variants: {dqm:",
            'no variant "dqm". Did you mean "dqn"?',
        ),
        ("quick:", "quik:", 'size=quick: the bench has no such size. Did you mean "quik"?'),
        ("sizes:", "grid: {reward: rouge}\nsizes:", "grid.reward: expected a list of values"),
        ("description:", "description: [", "broken YAML"),
    ],
)
def test_a_wrong_file_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    assert old in TINY
    write_bench(home, TINY.replace(old, new, 1))
    assert command() == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert "tiny.yaml" in err
    assert not (home / "b").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["experiment=tinny"], 'there is no such experiment. Did you mean "tiny"?'),
        (["experiment=pizza_quick"], "this is one run; start it with: instructrec-rl run experiment=pizza_quick"),
        (["experiment=tiny", "worker=2"], 'unknown option "worker". Did you mean "workers"?'),
        (["experiment=tiny", "workers=0"], "workers=0: expected a whole number from 1 on"),
        (["experiment=tiny", "resume=maybe"], "resume=maybe: expected true or false"),
        (["experiment=tiny", "seed=3"], "seed: bench sets this itself; the seeds are in the experiment's sizes"),
        (["experiment=tiny", "launcher=rai"], 'launcher=rai: expected local or ray. Did you mean "ray"?'),
        (["experiment=tiny", "only=dqm"], 'only=dqm: there is no variant "dqm". Did you mean "dqn"?'),
        (["experiment=tiny", "algo.interactions=1,2"], "several values are a sweep"),
        (["experiment=tiny", "algo.interactions=x"], "expected an integer"),
        (["quick"], 'malformed option "quick"'),
        ([], "experiment=NAME says which bench; there is "),
    ],
)
def test_a_wrong_command_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    write_bench(home)
    assert cli.run_command(bench.main, options) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (home / "runs").exists()


def test_run_and_list_know_a_bench(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bench(home)
    assert cli.run_command(cli.dispatch, ["run", "experiment=tiny"]) == 2
    assert "a bench of many runs; start it with: instructrec-rl bench experiment=tiny" in capsys.readouterr().err
    assert cli.run_command(cli.dispatch, ["list", "experiments"]) == 0
    out = capsys.readouterr().out
    assert "tiny\tbench, size=quick|full: which policy suits the toys?" in out
    assert "pizza_quick\ta first look" in out
    assert cli.run_command(cli.dispatch, ["bench", "--help"]) == 0
    assert "  tiny                 which policy suits the toys?" in capsys.readouterr().out


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "a b",
        "it's",
        "back\\slash",
        "ends in\\",
        "a,b",
        "{x}",
        "",
        True,
        None,
        3,
        0.5,
        ["a b", 1],
        {"val": "test"},
    ],
)
def test_a_value_survives_the_command_line(value: Any) -> None:
    (setting,) = parse([override("key", value)])
    assert setting.value == value


def test_the_time_left_is_what_the_others_took(tmp_path: Path) -> None:
    def state(variant: str, status: str, wall_s: float = 0.0, began: float = 0.0) -> State:
        run: Any = type("Run", (), {"variant": variant, "name": variant})
        return State(run, tmp_path, status=status, wall_s=wall_s, began=began)

    assert seconds_left([state("a", "running")], 2, 5.0) is None
    states = [state("a", "done", 10), state("a", "waiting"), state("b", "running", began=2), state("c", "failed", 99)]
    assert seconds_left(states, 2, 5.0) == (10 + (10 - 3)) / 2
    assert seconds_left([state("a", "done", 10)], 2, 5.0) == 0


@pytest.mark.slow
def test_on_a_local_ray(home: Path) -> None:
    pytest.importorskip("ray", reason="ray is an extra")
    write_bench(home)
    assert command("launcher=ray", "workers=2") == 0
    runs, first = runs_of(home), made(home)
    assert {run["status"] for run in runs.values()} == {"done"}
    assert all(run["cpu_s"] > 0 for run in runs.values())
    assert command("launcher=local") == 0
    assert made(home) == first


def test_without_ray_it_says_what_to_install(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    write_bench(home)
    assert command("launcher=ray") == 2
    assert capsys.readouterr().err == "launcher=ray needs the package ray: pip install 'instructrec-rl[bench]'\n"


@pytest.mark.parametrize("size", ["quick", "full"])
@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_every_bench_of_ours_composes(home: Path, path: Path, size: str) -> None:
    from instructrec_rl.bench.plan import plan

    found = bench.read_bench(path.stem, size)
    runs = plan(found, home / "b")
    assert len({run.name for run in runs}) == len(runs)
    assert len({run.hash for run in runs}) == len(runs)
    assert found.description


def test_simulated_ratings_are_made_once_a_seed_and_belong_to_the_identity(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rated = TINY.replace("  dqn: {algo: dqn,", "  dqn: {algo: dqn, reward: human_feedback, simulated_ratings: 60,")
    write_bench(home, rated)
    assert command("only=dqn") == 0
    files = sorted((home / "b" / "feedback").glob("*/ratings.jsonl"))
    assert [path.parent.name for path in files] == ["toys-60-0", "toys-60-1"]
    assert [len(path.read_text().splitlines()) for path in files] == [60, 60]
    assert files[0].read_bytes() != files[1].read_bytes()
    used = json.loads((home / "b" / "dqn-1" / "manifest.json").read_text())
    assert f"reward.folder={files[1].parent}" in used["command"]

    before = made(home)
    files[0].write_text(files[0].read_text().replace('"rating": 3.0', '"rating": 4.0'))
    assert command("only=dqn") == 0
    assert "dqn-0: runs again, as its data changed" in capsys.readouterr().err
    assert [name for name, at in made(home).items() if at != before[name]] == ["dqn-0"]

    for wrong, reason in (("0", "expected 1 to"), ("many", "expected a whole number, beside reward=human_feedback")):
        write_bench(home, rated.replace("simulated_ratings: 60", f"simulated_ratings: {wrong}"))
        assert command("only=dqn") == 2
        error = capsys.readouterr().err
        assert f"simulated_ratings={wrong}: {reason}" in error
