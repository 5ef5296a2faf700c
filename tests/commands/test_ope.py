"""Off-policy evaluation: the estimators by hand, on a known truth, without overlap, and the command on real logs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_rl import load_env, load_policy
from instructrec_rl.algorithms import dqn
from instructrec_rl.algorithms.loop.exploration import boltzmann_propensity, greedy_propensity
from instructrec_rl.algorithms.loop.journal import Journal
from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.commands.ope.estimators import estimate
from instructrec_rl.commands.ope.regression import cross_fit
from instructrec_rl.config.schema import DQNConfig
from instructrec_rl.core import command_line as cli
from tests.conftest import write_toys
from tests.run.test_run import main_job, read_lines


def outcome(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.run_command(cli.dispatch, ["ope", *argv])
    return code, *capsys.readouterr()


def test_estimates_by_hand() -> None:
    """Two kinds of round, forty times each: w = 2 and 0.5; r = 1 and 0; q_a = 0.5 and 0.5; v = 0.7 and 0.3."""
    many = 40
    rewards, target = np.tile([1.0, 0.0], many), np.tile([0.8, 0.25], many)
    propensities = np.tile([0.4, 0.5], many)
    q_logged, q_target = np.full(2 * many, 0.5), np.tile([0.7, 0.3], many)
    found = estimate(rewards, target, propensities, q_logged, q_target)
    values = {name: each.value for name, each in found.estimates.items()}
    assert values["IPS"] == pytest.approx(1.0)  # mean of 2 and 0
    assert values["SNIPS"] == pytest.approx(0.8)  # 2 / 2.5
    assert values["DM"] == pytest.approx(0.5)
    assert values["DR"] == pytest.approx(0.5 + (2 * 0.5 + 0.5 * -0.5) / 2)
    assert found.effective == pytest.approx(2.5**2 / 4.25 * many)
    assert found.largest_weight == 2.0
    ips = found.estimates["IPS"]
    error = np.sqrt(1.0 / (2 * many - 1))  # values 2 and 0 deviate by 1 from their mean
    assert ips.low == pytest.approx(1 - 1.959964 * error)
    assert ips.high == pytest.approx(1 + 1.959964 * error)
    snips = found.estimates["SNIPS"]
    influence = np.array([2 * 0.2, 0.5 * -0.8]) / 1.25
    assert snips.high == pytest.approx(0.8 + 1.959964 * np.sqrt((influence**2).mean() / (2 * many - 1)))
    model, robust = found.estimates["DM"], found.estimates["DR"]
    assert model.high == robust.high
    assert "bias is -0.375" in model.note, "DM - DR"


def test_switch_leaves_extreme_weights_to_the_model() -> None:
    rng = np.random.default_rng(0)
    propensities = np.full(4000, 0.5)
    propensities[:8] = 1e-5
    target, rewards = np.full(4000, 0.5), rng.random(4000)
    target[:8] = 0.002  # a weight of 200
    found = estimate(rewards, target, propensities, np.full(4000, 0.5), np.full(4000, 0.5))
    assert found.threshold is not None
    switch, robust = found.estimates["SWITCH-DR"], found.estimates["DR"]
    if found.threshold < 200:
        kept = propensities == 0.5
        assert switch.value == pytest.approx(0.5 + np.where(kept, rewards - 0.5, 0).mean())
        assert "left to the model" in switch.note
    else:
        assert switch.value == robust.value


def test_rounds_of_one_group_count_as_one() -> None:
    rng = np.random.default_rng(1)
    rewards, half = rng.random(500), np.full(500, 0.5)
    once = estimate(rewards, half, half).estimates["IPS"]
    copied = estimate(np.tile(rewards, 4), np.tile(half, 4), np.tile(half, 4), groups=np.tile(np.arange(500), 4))
    assert copied.estimates["IPS"].low == pytest.approx(once.low)
    assert copied.estimates["IPS"].high == pytest.approx(once.high)


def test_on_a_known_truth() -> None:
    """A short form of benchmarks/results/ope.py, whose table is in docs/results/ope.md."""
    from benchmarks.results.ope import world

    errors: dict[str, list[float]] = {}
    inside = 0
    for seed in range(8):
        found, truth = world(seed)
        for name, each in found.estimates.items():
            assert each.value is not None
            errors.setdefault(name, []).append(abs(each.value - truth) / truth)
        robust = found.estimates["DR"]
        inside += bool((robust.low or 0) <= truth <= (robust.high or 0))
    means = {name: float(np.mean(each)) for name, each in errors.items()}
    assert max(means["DR"], means["SNIPS"]) <= 0.02
    assert max(means["DR"], means["SNIPS"]) < means["IPS"]
    assert inside >= 6


def test_cross_fitting_never_reads_its_own_group() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 2)
    contexts = np.concatenate([rng.normal(size=(200, 2)), np.ones((200, 1))], axis=1)
    actions = np.eye(3)[rng.integers(3, size=200)]
    rewards = contexts[:, 0] * actions[:, 0] + 0.2
    q_logged, q_target = cross_fit(contexts, actions, actions, rewards, groups)
    np.testing.assert_allclose(q_logged, q_target)
    assert np.corrcoef(q_logged, rewards)[0, 1] > 0.98
    changed = rewards.copy()
    changed[:2] += 0.01  # both rounds of group 0
    again, _ = cross_fit(contexts, actions, actions, changed, groups)
    np.testing.assert_allclose(again[:2], q_logged[:2], rtol=1e-12)
    assert np.abs(again - q_logged).max() > 1e-6


def test_without_overlap_nothing_is_given() -> None:
    rewards = np.ones(1000)
    found = estimate(rewards, np.zeros(1000), np.full(1000, 0.5), rewards, rewards)
    assert found.reason.startswith("no overlap")
    assert {each.value for each in found.estimates.values()} == {None}
    # the logs show four of ten actions, of which the policy does 30 %: the mean weight is 0.3
    seen = np.where(np.arange(1000) % 10 < 3, 1.0, 0.0)
    found = estimate(rewards, seen, np.ones(1000), rewards, rewards)
    assert found.out_of_reach == pytest.approx(0.7)
    assert found.reason.startswith("too little overlap: at least 6")
    assert found.estimates["SNIPS"].value is None
    found = estimate(rewards, np.full(1000, 0.9), np.full(1000, 0.5))
    assert "mean weight" in found.reason, "the policy depends on the logs, or the propensities are wrong"
    few = estimate(rewards[:5], np.full(5, 0.5), np.full(5, 0.5))
    assert "5.0 effective rounds" in few.reason
    alone = estimate(rewards, seen, None, rewards, rewards, never_logged=0.4)
    assert alone.estimates["DM"].value is None


def test_without_propensities_the_model_alone() -> None:
    rewards = np.linspace(0, 1, 100)
    found = estimate(rewards, np.ones(100), None, rewards, rewards)
    assert found.estimates["DM"].value == pytest.approx(0.5)
    assert "its bias is unknown" in found.estimates["DM"].note
    assert {name for name, each in found.estimates.items() if each.value is None} == {"IPS", "SNIPS", "DR", "SWITCH-DR"}


extreme = st.sampled_from([0.0, 1.0, -1.0, 1e308, -1.7e308, 1.7976931348623157e308, 1e154, 1e-200, 5e-324, 0.3])
tiny = st.sampled_from([1.0, 0.5, 1e-9, math.exp(-400), 1e-300, 5e-324])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(extreme, st.sampled_from([0.0, 1.0, 1e-320, 0.5]), tiny, extreme, extreme), min_size=1),
       st.integers(1, 3), st.booleans())  # fmt: skip
def test_any_rewards_and_propensities_give_figures_or_none(rounds: list[Any], repeat: int, known: bool) -> None:
    columns = np.tile(np.array(rounds), (10 * repeat, 1)).T.copy()
    rewards, target, propensities, q_logged, q_target = columns
    with np.errstate(all="raise", under="ignore"):
        found = estimate(rewards, target, propensities if known else None, q_logged, q_target)
    json.dumps(dataclasses.asdict(found), allow_nan=False)
    for each in found.estimates.values():
        figures = (each.value, each.low, each.high)
        assert figures == (None,) * 3 or (each.low <= each.value <= each.high)  # type: ignore[operator]
    assert len(found.reason) < 300


@pytest.mark.parametrize("unit", [2.0**1000, 2.0**-1000, 2.0**600, 2.0**-600])
def test_the_unit_of_the_rewards_changes_nothing_but_the_unit(unit: float) -> None:
    rng = np.random.default_rng(0)
    target, rewards = rng.uniform(0.2, 1, 500), rng.uniform(0, 1, 500)
    propensities = np.clip(target * rng.uniform(0.7, 1.6, 500), 0.1, 1)
    q = rng.uniform(0, 1, 500)
    one = estimate(rewards, target, propensities, q, q)
    other = estimate(rewards * unit, target, propensities, q * unit, q * unit)
    assert one.reason == other.reason == ""
    for name, each in one.estimates.items():
        assert each.value is not None
        assert other.estimates[name].value == pytest.approx(each.value * unit, rel=1e-12)
        assert other.estimates[name].high == pytest.approx(each.high * unit, rel=1e-12)  # type: ignore[operator]
    contexts, answers = rng.normal(size=(500, 3)), rng.normal(size=(500, 2))
    small = cross_fit(contexts, answers, answers, rewards)
    large = cross_fit(contexts, answers, answers, rewards * unit)
    np.testing.assert_allclose(large[0] / unit, small[0], rtol=1e-12)


def test_weights_that_no_float_holds_identify_nothing() -> None:
    rewards = np.tile([1.0, 0.0], 100)
    for log in (-400, -690.7, -744):
        found = estimate(rewards, np.tile([1.0, 0.0], 100), np.full(200, math.exp(log)), rewards, rewards)
        assert found.reason.startswith("the mean weight is")
        assert len(found.reason) < 200
    one = np.full(200, 1.0)
    one[0] = 1e-300
    found = estimate(rewards, np.ones(200), one, rewards, rewards)
    assert found.effective == pytest.approx(1.0)
    assert {each.value for each in found.estimates.values()} == {None}
    nothing = estimate(rewards, np.zeros(200), np.full(200, 5e-324))
    assert (nothing.effective, nothing.largest_weight) == (0.0, 0.0)


def test_one_instruction_alone_has_no_interval() -> None:
    rewards = np.tile([1.0, 0.0], 100)
    found = estimate(rewards, np.full(200, 0.5), np.full(200, 0.5), rewards, rewards, groups=np.zeros(200))
    assert found.reason.startswith("all rounds are of one instruction")
    found = estimate(rewards, np.ones(200), None, rewards, rewards, groups=np.zeros(200))
    assert found.estimates["DM"].value is None


@pytest.mark.parametrize(
    "arrays",
    [
        ([], []),
        ([1.0, 0.0], [1.0]),
        ([np.nan], [1.0]),
        ([1.0], [1.5]),
        ([1.0], [1.0], [0.0]),
    ],
)
def test_wrong_arrays_raise(arrays: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|no rounds"):
        estimate(*(np.array(each, dtype=float) for each in arrays))


def test_propensities_are_the_shares_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    values = np.array([[0.1, 0.5, 0.5, 0.3]])
    drawn = (values / 0.2 + rng.gumbel(size=(200_000, 4))).argmax(1)
    drawn = np.where(rng.random(200_000) < 0.1, rng.integers(4, size=200_000), drawn)
    shares = np.bincount(drawn, minlength=4) / 200_000
    likely = [boltzmann_propensity(values / 0.2, np.array([a]), 0.1)[0] for a in range(4)]
    np.testing.assert_allclose(likely, shares, atol=0.004)
    greedy = [greedy_propensity(values, np.array([a]), 0.1)[0] for a in range(4)]
    np.testing.assert_allclose(greedy, [0.025, 0.475, 0.475, 0.025])


def test_forgetting_keeps_whole_lines_up_to_a_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    log = journal.rollouts
    log.add_items(0, ["a", 'b"'], ["x", "é"], np.array([0.5, 1 / 3]), np.array([1, 0.25]))
    log.add_items(2, ["c"], ["y"], np.array([1.0]), np.array([0.0]), np.array([1]))
    log.flush()
    assert read_lines(log.path)[1] == {"step": 2, "id": 'b"', "item": "é", "propensity": 0.333333, "reward": 0.25}
    assert read_lines(log.path)[2]["turn"] == 1
    with log.path.open("a") as file:
        file.write('{"step": 4, "id')
    journal.go_back(2)
    assert [line["step"] for line in read_lines(log.path)] == [1, 2]
    journal.go_back(-1)
    assert log.path.read_bytes() == b""


def test_a_resumed_run_has_the_same_rollouts(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys(turns=2)
    env = load_env("toys")
    config = DQNConfig(interactions=600, num_envs=16, updates_per_step=1, eval_every=128, checkpoint_every=128)

    def recorder(folder: str, stop_at: int) -> Recorder:
        made = Recorder(tmp_path / folder, 0, lambda policy: {"constraints": 0.0})

        def stop(step: int, total: int, words: str) -> None:
            made.stopping = step >= stop_at

        made.progress = stop
        return made

    dqn.learn(env, config, recorder("whole", 10_000))
    with pytest.raises(KeyboardInterrupt):
        dqn.learn(env, config, recorder("cut", 300))
    with (tmp_path / "cut" / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 999, "id": "r0", "item": "x"}\n{"st')
    dqn.learn(env, config, recorder("cut", 10_000))
    lines = read_lines(tmp_path / "whole" / "rollouts.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 601))
    assert {line["turn"] for line in lines} == {0, 1}
    assert all(0 < line["propensity"] <= 1 for line in lines)
    assert (tmp_path / "cut" / "rollouts.jsonl").read_bytes() == (tmp_path / "whole" / "rollouts.jsonl").read_bytes()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toys and two tiny runs on them, `one` by the real command."""
    home = tmp_path_factory.mktemp("ope")
    write_toys(home)
    for name, seed in (("one", 0), ("two", 1)):
        done = main_job("env=toys", f"out={name}", f"seed={seed}", "algo.interactions=3000", "baselines=none", cwd=home)
        assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def home(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(runs)
    return runs


def test_the_command_judges_one_run_by_another(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "logs=one", "policy=two", "temperature=0.2", "json=found.json")
    assert (code, err) == (0, "")
    found = json.loads((home / "found.json").read_text())
    assert [line.split()[0] for line in out.splitlines()[1:7]] == ["estimate", *found["estimates"]]
    policy, env = dqn.load(home / "two" / "policy", load_env("toys").items), load_env("toys")
    rows = env.spec.rows("train")
    values = policy.values(env.asked(rows)).numpy() / 0.2
    chances = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    menu = np.arange(len(env.items))
    truth = (chances * env.reward_table(rows.repeat(12), np.tile(menu, len(rows))).reshape(-1, 12)).sum(1).mean()
    assert found["estimates"]["SNIPS"]["value"] == pytest.approx(truth, abs=0.05)
    assert found["estimates"]["DR"]["value"] == pytest.approx(truth, abs=0.07)
    assert outcome(capsys, "logs=one", "policy=one")[1].count("learned from these very answers") >= 1
    anew = outcome(capsys, "logs=one/rollouts.jsonl", "policy=two", "temperature=0.2", "reward=exact_match")[1]
    assert anew.splitlines()[0] != out.splitlines()[0]


def test_the_command_reads_own_logs_and_feedback(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "I want a circle, painted red"
    names = ["red circle", "blue_star", "a square painted green", "yellow star"]
    rows = [{"instruction": f"{asked} {k}", "response": names[k % 4], "reward": k % 2, "propensity": 0.25}
            for k in range(400)]  # fmt: skip
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert outcome(capsys, "logs=own.jsonl", "policy=two", "temperature=50")[0] == 0
    ratings = [{"instruction": row["instruction"], "response": row["response"], "rating": 4} for row in rows]
    Path("ratings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ratings))
    code, out, _ = outcome(capsys, "logs=ratings.jsonl", "policy=two")
    assert code == 0
    assert out.count("needs propensities") == 4
    assert "no propensities" in out
    shown = [{**row, "propensity": 0.25} for row in ratings]
    Path("shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    assert "needs propensities" not in outcome(capsys, "logs=shown.jsonl", "policy=two")[1]
    other = [{**row, "response": "a teapot"} for row in rows]
    Path("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    code, out, _ = outcome(capsys, "logs=other.jsonl", "policy=two")
    assert code == 0
    assert "not identified: no overlap" in out
    assert "0." not in "".join(out.splitlines()[2:7])


@pytest.mark.parametrize(
    ("log", "reward"),
    [(-400.0, 1.0), (-100_000.0, 1.0), (-1e308, 1.0), (-2.5, 1.7e308), (-2.5, -1e308), (-2.5, 1e-320)],
)
def test_the_command_withholds_what_floats_cannot_hold(
    home: Path, capsys: pytest.CaptureFixture[str], log: float, reward: float
) -> None:
    env = load_env("toys")
    lines = [
        {"instruction": env.instructions[row], "response": env.items[k % len(env.items)].text,
         "reward": reward * (k % 2), "log_propensity": log}
        for k, row in enumerate(np.tile(env.spec.rows("train"), 3))
    ]  # fmt: skip
    (home / "large.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for temperature in ("0", "1e-320", "0.3"):
        code, out, err = outcome(
            capsys, "logs=large.jsonl", "policy=two", "env=toys", f"temperature={temperature}", "json=large.json"
        )
        assert (code, err) == (0, "")
        assert max(map(len, out.splitlines())) < 400
        found = json.loads((home / "large.json").read_text())
        assert all(each["value"] is None or abs(each["value"]) < 1.8e308 for each in found["estimates"].values())


def test_a_texts_propensity_is_of_the_very_text(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = load_policy(home / "two")
    asked = [example.instruction for example in load_env("toys").examples[:20]]
    said = policy.act(asked)
    rows = [{"instruction": text, "text": answer if k % 2 else answer.upper(), "log_propensity": float(np.log(0.5)),
             "reward": k % 2} for text, answer in zip(asked, said) for k in range(20)]  # fmt: skip
    rows += [{**row, "text": "\u07adL\u4e2d", "log_propensity": -900.0, "reward": 0} for row in rows[:3]]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = outcome(capsys, "logs=texts.jsonl", "policy=two", "json=texts.json")
    assert (code, err) == (0, "")
    found = json.loads(Path("texts.json").read_text())
    assert found["largest_weight"] == pytest.approx(2)
    assert found["effective"] == pytest.approx(200), "only the answers that are the very text"
    assert found["estimates"]["SNIPS"]["value"] == pytest.approx(1), out


LINE = {"instruction": "a toy", "response": "red circle", "reward": 1, "propensity": 0.5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"propensity": 0}, 'bad.jsonl:2: "propensity": expected a probability above 0 and at most 1, got 0'),
        ({"propensity": None}, "bad.jsonl:2: a round without a propensity among others with one: give all or none"),
        ({"reward": "high"}, "bad.jsonl:2: \"reward\": expected a number, got 'high'"),
        ({"response": 3}, 'bad.jsonl:2: "response": expected a text, got 3'),
    ],
)
def test_bad_lines_are_named(home: Path, change: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.jsonl").write_text(json.dumps(LINE) + "\n" + json.dumps({**LINE, **change}) + "\n")
    assert outcome(capsys, "logs=bad.jsonl", "policy=two") == (2, "", said + "\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["policy=two"], "ope needs logs=PATH, such as logs=runs/first"),
        (["logs=one", "polcy=two"], 'polcy=two: unknown option "polcy". Did you mean "policy"?'),
        (["logs=one", "two"], 'malformed "two": expected key=value, such as logs=runs/first'),
        (["logs=three", "policy=two"], "three: logs: there is no such file or folder"),
        (["logs=one", "policy=two", "temperature=-1"], "temperature=-1: expected a number of at least 0 (0 is greedy)"),
        (["logs=one", "policy=envs"], "envs: no policy here; expected a run folder with policy/policy.json"),
        (["logs=one", "policy=two", "reward=rogue"], 'reward=rogue: there is no such reward. Did you mean "rouge"?'),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line(
    home: Path, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = outcome(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert err.count("\n") == 1
