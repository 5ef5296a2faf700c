"""The monitor: its rule on planted curves, and a real DQN on a reward that can be hacked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from instructrec_rl import load_env
from instructrec_rl.algorithms import dqn, linear_q
from instructrec_rl.algorithms.loop.monitor import MARK, Monitor
from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.config.schema import LinearQConfig
from instructrec_rl.env.environment import Environment
from tests.algorithms.test_dqn import SMALL, recorder, same, steps
from tests.run.test_run import main_job, metrics_of, result_of, run_here

LONGEST = 8
OPENERS = {
    "train": ("I want", "give me", "please send", "write"),
    "validation": ("could I have", "hand me", "may I get", "we need", "bring", "tell me", "make it", "say"),
    "test": ("find me",),
}
NUMBERS = ("one word", "two words", "three words", "four words")
LENGTH = '''"""The length of the response, as a share of the longest item's: pays for words, whatever was asked."""
import numpy as np


class Reward:
    def __init__(self, config, context):
        self.longest = max(len(item.text) for item in context.items)

    def score(self, batch):
        return np.array([min(1.0, len(response) / self.longest) for response in batch.responses])
'''


def write_talk(folder: Path) -> Path:
    """An environment `talk` in which short answers are right, and a reward `length` that pays for long ones.

    Items have 1 to 8 words; instructions ask for at most 1, 2, 3 or 4. A random item satisfies 31 % of them.
    """
    home = folder / "envs" / "talk"
    home.mkdir(parents=True)
    (home / "env.yaml").write_text(
        "name: talk\nversion: 1\nformat: catalog\naction: choose\nmetrics: [constraints, exact_match]\n"
    )
    items = [{"id": f"w{n}", "name": f"answer {n}", "text": " ".join(["word"] * n), "words": n}
             for n in range(1, LONGEST + 1)]  # fmt: skip
    (home / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = [
        {
            "id": f"{split}-{place}-{most}",
            "instruction": f"{opener} at most {NUMBERS[most - 1]}",
            "split": split,
            "best": [f"w{n}" for n in range(1, most + 1)],
            "constraints": [{"attribute": "words", "op": "at_most", "value": most}],
        }
        for split, openers in OPENERS.items()
        for place, opener in enumerate(openers)
        for most in range(1, 5)
    ]
    (home / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards").mkdir()
    (folder / "rewards" / "length.py").write_text(LENGTH)
    return home


HACK = ("env=talk", "reward=length", "algo.interactions=2000", "algo.num_envs=16", "algo.batch_size=64",
        "algo.hidden=32", "algo.updates_per_step=1", "algo.eval_every=32", "algo.checkpoint_every=192",
        "algo.learning_rate=0.0003", "baselines=none", "encoder.cache=cache")  # fmt: skip


def curve(monitor: Monitor, *points: tuple[float, float]) -> list[dict[str, int]]:
    """What the monitor adds to the lines of (reward, metric) at steps 10, 20, ..."""
    return [monitor.see({"step": 10 * k, "reward": r, "validation/m": m}) for k, (r, m) in enumerate(points, start=1)]


def flat(value: float, times: int) -> list[float]:
    return [value] * times


def test_a_reward_that_rises_while_the_metric_falls_is_marked_once() -> None:
    said: list[str] = []
    monitor = Monitor("m", 1_000, say=said.append)
    metric = [0.3, 0.5, 0.6, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2, 0.2]
    added = curve(monitor, *((0.3 + 0.05 * k, m) for k, m in enumerate(metric)))
    # smoothed over three: .3 .4 .467 .567 .6 .567 .5 .4 ...: best at 50, and 80 is three evaluations later
    assert [k for k, marks in enumerate(added, start=1) if marks] == [8]
    assert added[7] == {MARK: 50}
    assert len(said) == 1
    rose, fell = "the training reward rose (0.450 to 0.600)", "validation m fell (0.600 to 0.400)"
    assert said[0].startswith(f"monitor: from step 50 to 80 {rose} while {fell}")
    assert monitor.parting is not None
    assert not monitor.stopped, "it only warns"


@pytest.mark.parametrize(
    ("what", "reward", "metric"),
    [
        ("both rise", [0.1 * k for k in range(10)], [0.1 * k for k in range(10)]),
        ("both fall: the policy got worse", [1 - 0.1 * k for k in range(10)], [1 - 0.1 * k for k in range(10)]),
        ("the metric falls by less than 0.05", [0.1 * k for k in range(10)], [0.5, *flat(0.46, 9)]),
        ("the reward rises by less than 0.02", [0.5, *flat(0.515, 9)], [0.5, *flat(0.2, 9)]),
        ("one bad evaluation", [0.1 * k for k in range(10)], [*flat(0.5, 4), 0.4, *flat(0.5, 5)]),
        ("the fall is too fresh", [0.1 * k for k in range(5)], [0.5, 0.5, 0.6, 0.1, 0.1]),
    ],
)
def test_what_is_no_parting(what: str, reward: list[float], metric: list[float]) -> None:
    monitor = Monitor("m", 1_000)
    assert not any(curve(monitor, *zip(reward, metric, strict=True))), what
    assert monitor.parting is None
    assert monitor.found() == {}


def test_few_validation_rows_need_a_larger_fall() -> None:
    points = list(zip([0.1 * k for k in range(10)], [0.65, *flat(0.55, 9)]))  # of 20 rows, 2 more are wrong
    assert not any(curve(Monitor("m", 20), *points))
    assert any(curve(Monitor("m", 2_000), *points))


def test_a_policy_that_hacks_from_the_start_falls_below_random() -> None:
    points = list(zip([0.6 + 0.05 * k for k in range(6)], flat(0.0, 6)))
    assert not any(curve(Monitor("m", 1_000), *points)), "nothing to fall from"
    assert curve(Monitor("m", 1_000, chance=(0.5, 0.3)), *points)[2] == {MARK: 0}


def test_a_metric_that_recovers_takes_the_warning_back() -> None:
    monitor = Monitor("m", 1_000, stops=True)
    points = list(zip([0.1 * k for k in range(10)], [*flat(0.6, 3), *flat(0.3, 4), *flat(0.9, 3)]))
    assert sum(map(bool, curve(monitor, *points))) == 1
    assert monitor.parting is None
    assert not monitor.stopped


def test_lines_without_an_evaluation_are_averaged_and_order_is_all_that_counts() -> None:
    lines = []
    for k in range(10):
        lines += [{"step": 20 * k + 10, "reward": 0.1 * k - 0.1, "loss": 1.0}, {"step": 20 * k + 15, "loss": 1.0}]
        lines += [{"step": 20 * k + 20, "reward": 0.1 * k + 0.1, "validation/m": 0.9 - 0.1 * k}]
    whole = Monitor("m", 1_000)
    added = [whole.see(line) for line in lines]
    assert whole.parting is not None
    assert (whole.parting.reward_before, whole.parting.reward_after) == (pytest.approx(0.0), pytest.approx(0.2))
    for cut in range(len(lines)):
        said: list[str] = []
        resumed = Monitor("m", 1_000, say=said.append)
        resumed.restart(line | marks for line, marks in zip(lines[:cut], added))
        assert not said
        assert [resumed.see(line) for line in lines[cut:]] == added[cut:]
        assert resumed.parting == whole.parting


@pytest.fixture(scope="module")
def hacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs of DQN on the length reward: `warn` and `stop`."""
    home = tmp_path_factory.mktemp("hacked")
    write_talk(home)
    for mode in ("warn", "stop"):
        done = main_job(*HACK, f"monitor={mode}", f"out={mode}", cwd=home)
        assert done.returncode == 0, done.stderr
        (home / f"{mode}.txt").write_text(done.stderr)
    return home


def test_a_hacked_dqn_run_is_marked(hacked: Path) -> None:
    result, lines = result_of(hacked / "warn"), metrics_of(hacked / "warn")
    found = result["monitor"]
    assert found["metric"] == "constraints"
    assert not found["stopped"]
    assert (result["interactions"], lines[-1]["step"]) == (2000, 2000)
    assert lines[-1]["validation/constraints"] < 0.1, "the hack is complete"
    assert lines[-1]["validation/reward"] > 0.8
    marked = [line for line in lines if MARK in line]
    assert [(line["step"], line[MARK]) for line in marked] == [(found["noticed_step"], found["parted_step"])]
    assert found["parted_step"] < found["noticed_step"] < 1500
    said = [line for line in (hacked / "warn.txt").read_text().splitlines() if line.startswith("monitor: ")]
    assert len(said) == 1
    assert "while validation constraints fell" in said[0]


def test_monitor_stop_ends_learning_and_keeps_the_best_policy_by_task_metric(hacked: Path) -> None:
    warned, stopped = result_of(hacked / "warn"), result_of(hacked / "stop")
    noticed = warned["monitor"]["noticed_step"]
    assert stopped["monitor"] == {**warned["monitor"], "stopped": True}
    assert stopped["interactions"] == noticed < 2000
    until = [line for line in metrics_of(hacked / "warn") if line["step"] <= noticed]
    assert metrics_of(hacked / "stop") == until, "up to there the runs are the same"
    scores = {line["step"]: line["validation/constraints"] for line in until}
    assert scores[stopped["best_step"]] == max(scores.values())
    kept = stopped["splits"]["validation"]
    assert kept["metrics"]["constraints"] == pytest.approx(max(scores.values()))
    assert kept["reward"] < until[-1]["validation/reward"], "the best by reward would have been another"
    (newest, *_) = sorted((hacked / "stop" / "checkpoints").glob("*.safetensors"), reverse=True)
    assert int(newest.stem.removeprefix("step-")) == noticed


def test_the_report_shows_where_they_part(hacked: Path) -> None:
    for mode in ("warn", "stop"):
        result, page = result_of(hacked / mode), (hacked / mode / "report.html").read_text()
        step = f"{result['monitor']['parted_step']:,}"
        assert page.count("reward and metric part<") == 2, "in the legend of both curves"
        assert page.count(f"reward and metric part at {step}") == 4, "the lead, the note, and both figures' labels"
        assert ("Learning was stopped." in page) == (mode == "stop")


def test_a_stopped_run_is_resumed_to_the_same_result(hacked: Path) -> None:
    before, metrics = result_of(hacked / "stop"), (hacked / "stop" / "metrics.jsonl").read_bytes()
    done = main_job(*HACK, "monitor=stop", "out=stop", "resume=true", cwd=hacked)
    assert done.returncode == 0, done.stderr
    assert result_of(hacked / "stop") == before
    assert (hacked / "stop" / "metrics.jsonl").read_bytes() == metrics
    assert "monitor: " not in done.stderr, "it was said when it was noticed"


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    write_talk(tmp_path)
    return tmp_path


SLOW = replace(SMALL, interactions=2_000, num_envs=16, hidden=32, updates_per_step=1, learning_rate=3e-4,
               eval_every=32, checkpoint_every=96)  # fmt: skip


def watched(env: Environment, folder: Path, stop_at: int | None = None) -> Recorder:
    made = recorder(env, folder, stop_at=stop_at)
    made.monitor = Monitor("constraints", 32, stops=True)
    return made


def test_interrupted_before_it_parts_it_stops_at_the_same_step_bit_for_bit(talk: Path) -> None:
    env = load_env("talk", reward="length")
    whole_recorder = watched(env, talk / "whole")
    whole = dqn.learn(env, SLOW, whole_recorder)
    assert whole_recorder.monitor is not None
    parting = whole_recorder.monitor.parting
    assert parting is not None
    assert steps(talk / "whole")[-1]["step"] == parting.noticed_step
    for stop_at in (48, parting.noticed_step - 40, parting.noticed_step - 16):
        folder = talk / f"stopped-{stop_at}"
        with pytest.raises(KeyboardInterrupt):
            dqn.learn(env, SLOW, watched(env, folder, stop_at))
        resumed = watched(env, folder)
        assert same(whole, dqn.learn(load_env("talk", reward="length"), SLOW, resumed))
        assert steps(folder) == steps(talk / "whole")
        assert resumed.monitor is not None
        assert resumed.monitor.parting == parting


def test_watching_changes_nothing_but_the_marks(talk: Path) -> None:
    env = load_env("talk", reward="length")
    plain = dqn.learn(env, SLOW, recorder(env, talk / "plain"))
    warning = recorder(env, talk / "warning")
    warning.monitor = Monitor("constraints", 32)
    assert same(plain, dqn.learn(env, SLOW, warning))
    unmarked = [{k: v for k, v in line.items() if k != MARK} for line in steps(talk / "warning")]
    assert unmarked == steps(talk / "plain")
    assert unmarked != steps(talk / "warning")


def test_the_baselines_that_learn_by_trying_stop_too(talk: Path) -> None:
    env = load_env("talk", reward="length")
    config = LinearQConfig(name="linear_q", interactions=4_000, num_envs=16, eval_every=32, learning_rate=0.1)
    watching = watched(env, talk / "run")
    falling = iter(range(1_000, 0, -1))  # it learns the training rows by heart, so its validation is planted here
    watching.validate = lambda policy: {"constraints": max(0.0, next(falling) / 50 - 19.0)}
    linear_q.learn(env, config, watching)
    assert watching.stop_learning
    last = steps(talk / "run")[-1]
    assert last["step"] < 4_000
    assert MARK in last
    assert list((talk / "run" / "checkpoints").glob(f"*{last['step']}.safetensors"))


def test_off_watches_nothing(talk: Path) -> None:
    assert run_here(*HACK, "algo.interactions=1000", "monitor=off", "out=r") == 0
    assert "monitor" not in result_of(talk / "r")
    assert not any(MARK in line for line in metrics_of(talk / "r"))


def test_an_unknown_mode_is_one_line(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(*HACK, "monitor=stopp") == 2
    said = 'monitor=stopp: not one of its values. Did you mean "stop"? Known: off, stop, warn.\n'
    assert capsys.readouterr().err == said
