"""reward=human_feedback: what a pair earns and from where, hot reload while a run trains, and exact replay."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrec_rl import load_env, load_reward
from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.core import InputError
from instructrec_rl.encoders.bert import Encoder
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.env.environment import Environment
from instructrec_rl.feedback.learned.annotators import aggregate, standardise
from instructrec_rl.feedback.learned.judgements import collect
from instructrec_rl.feedback.schema import make_record
from instructrec_rl.feedback.store import Store, append
from instructrec_rl.feedback.versions import Versions
from instructrec_rl.rewards import Reward
from tests.conftest import write_toys
from tests.run.test_resume import kill, start, wait_until
from tests.run.test_run import main_job, metrics_of, result_of

ASKED = "I want a square, painted red"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder()


@pytest.fixture
def env(toys: Callable[..., Path], encoder: Encoder) -> Environment:
    toys()
    return load_env("toys", encoder=encoder)


def give(*records: dict[str, Any], path: str = "rewards/feedback/a.jsonl") -> None:
    for record in records:
        append(path, {"instruction": ASKED, **record})


def rate_everything(
    env: Environment, noise: float = 0.0, seed: int = 0, path: str = "rewards/feedback/all.jsonl"
) -> None:
    """Three annotators rate five items for each training instruction, by the constraints satisfied."""
    rng = np.random.default_rng(seed)
    judge = load_reward("constraints", env=env)
    rows = np.repeat(env.spec.rows("train"), 5)
    items = rng.integers(len(env.items), size=len(rows))
    worth = judge.score_batch(env.batch(rows, list(env.item_texts[items])))
    lines = []
    for k, (row, item, value) in enumerate(zip(rows, items, worth)):
        rating = float(np.clip(np.round(1 + 4 * value + noise * rng.normal()), 1, 5))
        texts = {"instruction": env.instructions[row], "response": env.items[item].name}
        lines.append({"id": f"r{k:05}", "annotator": f"a{k % 3}", "env": "toys", **texts, "rating": rating})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))


def scores(reward: Reward, *responses: str, asked: str = ASKED) -> list[float]:
    return reward.score([asked] * len(responses), responses, [[] for _ in responses]).round(6).tolist()


def test_no_feedback_is_an_error_that_says_how_to_give_some(env: Environment) -> None:
    with pytest.raises(InputError) as error:
        load_reward("human_feedback", env=env)
    for word in (
        "there is no feedback in",
        "instructrec-rl annotate env=toys",
        "rewards/feedback/you.jsonl",
        '"rating": 4',
    ):
        assert word in str(error.value)
    Path("rewards").mkdir()
    Path("rewards/x.jsonl").write_text('{"rating": 4}\n')
    with pytest.raises(InputError, match="1 lines are set aside"):
        load_reward("human_feedback", env=env)


def test_feedback_of_another_environment_does_not_count(env: Environment) -> None:
    give({"response": "red square", "rating": 5, "env": "pizza_rec"})
    with pytest.raises(InputError, match="is of env \"toys\"; there is some of \\['pizza_rec'\\]"):
        load_reward("human_feedback", env=env)


def test_a_run_says_what_counts_nowhere_and_what_is_set_aside(
    env: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    give({"response": "red square", "rating": 4}, {"response": "blue star", "rating": 4, "env": "toyz"})
    with Path("rewards/feedback/a.jsonl").open("a") as stream:
        stream.write('{"rating": 4}\n')
    capsys.readouterr()
    load_reward("human_feedback", env=env)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        'human_feedback: 1 record is of the environment "toyz", which does not exist here: counts'
    )
    assert 'Did you mean "toys"?' in lines[0]
    assert "1 lines or files are set aside, the first is" in lines[1]
    assert 'a.jsonl:3: a rating needs "' in lines[1]
    Path("rewards/feedback/a.jsonl").write_text("")
    give({"response": "red square", "rating": 4, "confidence": 0})
    with pytest.raises(InputError, match="has the confidence 0, which counts for nothing"):
        load_reward("human_feedback", env=env)


def test_a_run_says_that_its_learned_reward_is_worse_than_length(
    env: Environment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rate_everything(env, noise=0.5)
    load_reward("human_feedback", env=env, interaction="never")
    assert "the longer one wins" not in capsys.readouterr().err, "it learned something"
    rng = np.random.default_rng(0)
    words = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    Path("rewards/feedback/all.jsonl").unlink()
    for k in range(30):  # the longer one always wins, and its words are chance
        long, short = " ".join(rng.choice(words, 12)), " ".join(rng.choice(words, 3))
        give({"id": f"{k:03}", "chosen": long, "rejected": short})
    made = load_reward("human_feedback", env=env, interaction="never").scorer
    capsys.readouterr()
    made.learned.left_out_z = -np.abs(made.learned.left_out_z)
    made._say_what_is_amiss()
    assert 'tells the better of two answers 0 % of the time, "the longer one wins" 100 %' in capsys.readouterr().err


def test_a_rated_pair_earns_its_rating_and_the_rest_the_floor(env: Environment) -> None:
    give({"response": "red square", "rating": 4}, {"response": "blue_star", "rating": 1, "env": "toys"})
    reward = load_reward("human_feedback", env=env, floor=0.1)
    assert scores(reward, "red square", "a square painted red", "RED_SQUARE", "blue star", "green star") == [
        0.75, 0.75, 0.75, 0.0, 0.1,
    ]  # fmt: skip
    assert scores(reward, "red square", asked="another instruction") == [0.1]
    parts = reward.parts(env.batch(np.array([0]), ["red square"]))
    assert {name: values.tolist() for name, values in parts.items()} == {
        "rated": [0.0], "learned": [0.0], "fallback": [0.0], "floor": [1.0],
    }  # fmt: skip


def test_the_fallback_scores_what_is_not_rated(env: Environment) -> None:
    give({"response": "red square", "rating": 4})
    reward = load_reward("human_feedback", env=env, fallback="constraints")
    rows = np.array([row for row in env.spec.rows("train") if env.instructions[row] != ASKED][:5])
    batch = env.batch(rows, [env.item_texts[env.examples[row].best[0]] for row in rows])
    assert reward.score_batch(batch).tolist() == [1.0] * 5
    assert reward.scorer.shares() == {
        "feedback/rated": 0.0, "feedback/learned": 0.0, "feedback/fallback": 1.0, "feedback/floor": 0.0,
    }  # fmt: skip


def test_conflicts_are_averaged_with_their_spread_and_bias_is_taken_out() -> None:
    lines = [{"annotator": "a", "response": f"r{k}", "rating": 1 + k % 4} for k in range(40)]
    lines += [{"annotator": "b", "response": f"r{k}", "rating": 2 + k % 4} for k in range(40)]
    judged = collect([make_record({"instruction": ASKED, **line}) for line in lines])
    rated = aggregate(judged, standardise(judged), np.ones(2))
    assert (rated.count == 2).all()
    assert rated.spread.max() < 0.06, "b is only kinder than a"
    few = collect(
        [make_record({"instruction": ASKED, "response": "x", "rating": r, "annotator": str(r)}) for r in (1, 5)]
    )
    rated = aggregate(few, standardise(few), np.ones(2))
    assert rated.score[0] == pytest.approx(0.5)
    assert rated.spread[0] > 0.3
    trust = np.array([1.0 if name == "1" else 0.01 for name in few.annotators])
    alone = aggregate(few, standardise(few), trust)
    assert alone.score[0] < 0.3, "an annotator who is not trusted counts for little"
    assert len(aggregate(few, standardise(few), np.array([0.01, 0.01])).pair) == 0


def test_the_learned_reward_ranks_answers_to_instructions_that_no_one_rated(env: Environment) -> None:
    rate_everything(env, noise=0.3)
    reward = load_reward("human_feedback", env=env)
    rows = env.spec.rows("test")
    items = np.arange(len(env.items))
    learned, true = (
        np.stack([r.score_batch(env.batch(np.full(len(items), row), list(env.item_texts))) for row in rows])
        for r in (reward, load_reward("constraints", env=env))
    )
    best = true[np.arange(len(rows)), learned.argmax(1)]
    assert best.mean() > true.mean() + 0.25
    assert scores(reward, "asdf qwer zxcv uiop", "", "a square " * 300) == [0.0] * 3


def test_new_lines_count_at_the_next_look(env: Environment) -> None:
    give({"response": "red square", "rating": 2})
    reward = load_reward("human_feedback", env=env)
    reward.at(0)
    before = reward.version
    give({"response": "red square", "rating": 5, "annotator": "anonymous"})
    assert (scores(reward, "red square"), reward.version) == ([0.25], before), "only `at` looks"
    time.sleep(0.3)
    reward.at(256)
    assert scores(reward, "red square") == [1.0]
    assert reward.version == Store(["rewards"]).version != before
    reward.at(0)  # a baseline's first step
    Path("rewards/feedback/a.jsonl").unlink()
    time.sleep(0.3)
    reward.at(300)
    assert scores(reward, "red square") == [1.0], "a run goes on with what it had"


def test_the_reward_is_learned_anew_only_when_enough_changed(env: Environment) -> None:
    rate_everything(env)
    reward = load_reward("human_feedback", env=env, refit=0.05, interaction="never")
    fitted = reward.scorer.learned
    give({"response": "red square", "rating": 5})
    time.sleep(0.3)
    reward.at(1)
    assert reward.scorer.learned is fitted
    assert scores(reward, "red square") != [0.0]
    for k in range(40):
        give({"response": f"red square {k}", "rating": 5})
    time.sleep(0.3)
    reward.at(2)
    assert reward.scorer.learned is not fitted


def test_a_composed_reward_follows_feedback_too(env: Environment, tmp_path: Path) -> None:
    give({"response": "red square", "rating": 2})
    reward = load_reward("weighted", env=env, parts={"human_feedback": 1.0, "constraints": 0.0})
    recorder = Recorder(tmp_path / "run", 0, lambda policy: {})
    reward.attach(recorder)
    reward.at(0)
    give({"response": "red square", "rating": 5})
    time.sleep(0.3)
    reward.at(128)
    (line,) = metrics_of(tmp_path / "run")
    assert line["step"] == 128
    assert line["feedback"] == Store(["rewards"]).version


def test_versions_are_kept_and_a_cut_one_is_forgotten(tmp_path: Path) -> None:
    records = [make_record({"instruction": "q", "response": f"r{k}", "rating": 3}) for k in range(6)]
    kept = Versions(tmp_path)
    kept.add(0, "a", True, records[:3])
    kept.add(256, "b", False, records[1:5])
    kept.add(512, "c", True, [*records[:1], *records[4:]])
    again = Versions(tmp_path)
    assert [v.step for v in again.history] == [0, 256, 512]
    for place, expected in enumerate((records[:3], records[1:5], [records[0], *records[4:]])):
        assert sorted(r.id for r in again.at(place)) == sorted(r.id for r in expected)
    with (tmp_path / "records.jsonl").open("a") as stream:
        stream.write('{"kind": "rating"}\n{"half')
    with (tmp_path / "versions.jsonl").open("a") as stream:
        stream.write('{"step": 768')
    third = Versions(tmp_path)
    third.add(900, "d", False, records)
    assert sorted(r.id for r in Versions(tmp_path).at(3)) == sorted(r.id for r in records)


JOB = ("env=toys", "reward=human_feedback", "algo.interactions=1000000", "algo.eval_every=25600", "baselines=none")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> tuple[Path, float]:
    """A run to which feedback was added while it trained, ended by a kill, and how long it took to notice."""
    home = tmp_path_factory.mktemp("followed")
    write_toys(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        rate_everything(load_env("toys", encoder=encoder))
    process = start(*JOB, "out=run", "algo.checkpoint_every=5000000", cwd=home)
    metrics = home / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, process, timeout_s=250)
    noticed = []
    for k in range(3):
        append(
            home / "rewards" / "feedback" / "live.jsonl", {"instruction": ASKED, "response": f"new {k}", "rating": 5}
        )
        changed, began = Store([home / "rewards"]).version, time.monotonic()
        wait_until(lambda version=changed: version in metrics.read_text(), process)
        noticed.append(time.monotonic() - began)
    kill(process)
    return home, min(noticed)  # of three: other programs may hold the machine for a moment


def test_a_running_training_sees_new_feedback_within_a_second(followed: tuple[Path, float]) -> None:
    home, noticed = followed
    assert noticed < 1.0
    lines = metrics_of(home / "run")
    changes = [line for line in lines if "feedback" in line]
    assert len(changes) == 3
    assert 0 < changes[0]["step"] < changes[1]["step"] < changes[2]["step"]
    assert changes[-1]["feedback"] == Store([home / "rewards"]).version
    manifest = json.loads((home / "run" / "manifest.json").read_text())
    history = Versions(home / "run" / "feedback").history
    seen = [manifest["sha256"]["feedback"], *(line["feedback"] for line in changes)]
    assert seen == [version.version for version in history]
    assert len(manifest["sha256"]["feedback"]) == 64
    evaluated = next(line for line in lines if "validation/reward" in line)
    assert sum(value for key, value in evaluated.items() if key.startswith("feedback/")) == pytest.approx(1)


def without_shares(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the shares of pairs scored: a resumed run scores again what it had in memory."""
    return [{k: v for k, v in line.items() if not k.startswith("feedback/")} for line in metrics_of(folder)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_resumed_run_replays_the_versions_it_saw(tmp_path: Path) -> None:
    """A run that saw feedback change is done again from its first step, then from a checkpoint: all ends the same."""
    home = tmp_path
    write_toys(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        rate_everything(load_env("toys"))
    job = ("env=toys", "reward=human_feedback", "algo.interactions=60000", "algo.eval_every=5120", "baselines=none")
    job += ("algo.checkpoint_every=5120",)
    process = start(*job, "out=run", cwd=home)
    folder = home / "run"
    wait_until(lambda: any(folder.glob("checkpoints/step-*.safetensors")), process, timeout_s=250)
    for k in range(30):  # more than 2 %: the reward is learned anew
        append(home / "rewards" / "live.jsonl", {"instruction": f"{ASKED} {k}", "response": "red square", "rating": 5})
    half = home / "half"
    wait_until(lambda: any("feedback" in line for line in metrics_of(folder)), process)
    shutil.copytree(folder, half)
    assert process.wait(timeout=300) == 0
    assert len(Versions(folder / "feedback").history) >= 2
    for name in ("start", "half"):
        again = home / name
        if name == "start":
            shutil.copytree(folder, again, ignore=shutil.ignore_patterns("checkpoints", "result.json", "policy"))
        else:
            shutil.rmtree(again / "feedback")
            shutil.copytree(folder / "feedback", again / "feedback")
        done = main_job(*job, f"out={name}", "resume=true", cwd=home)
        assert done.returncode == 0, done.stderr
        assert without_shares(again) == without_shares(folder)
        assert result_of(again) == result_of(folder)
