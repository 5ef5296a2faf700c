"""DQN: it learns a planted problem in seconds, repeats itself, resumes bit for bit, and bootstraps where it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instructrec_rl import load_env
from instructrec_rl.algorithms import dqn
from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.algorithms.q_learning.transitions import Replay, TransitionLearner
from instructrec_rl.config.schema import DQNConfig
from instructrec_rl.core.files import read_jsonl
from instructrec_rl.env.environment import Environment
from instructrec_rl.run.evaluate import Scorer, play

SMALL = DQNConfig(
    interactions=3_000,
    num_envs=32,
    batch_size=64,
    hidden=64,
    eval_every=1_000,
    checkpoint_every=500,
    learning_rate=3e-3,
)


def recorder(env: Environment, folder: Path, seed: int = 0, stop_at: int | None = None) -> Recorder:
    scorer = Scorer(env)

    def validate(policy: Any) -> dict[str, float]:
        return {name: float(v.mean()) for name, v in scorer.per_row(play(policy, env, "validation")).items()}

    made = Recorder(folder, seed, validate)
    if stop_at is not None:

        def stop(step: int, total: int, words: str) -> None:
            made.stopping = step >= stop_at

        made.progress = stop
    return made


def score(policy: Any, env: Environment, split: str = "test") -> dict[str, float]:
    return {name: float(v.mean()) for name, v in Scorer(env).per_row(play(policy, env, split)).items()}


def same(a: dqn.DQNPolicy, b: dqn.DQNPolicy) -> bool:
    first, second = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def steps(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in record.items() if k not in ("wall_s", "cpu_s")}
        for _, record in read_jsonl(folder / "metrics.jsonl")
    ]


BOTH = pytest.mark.parametrize("learner", ["answers", "transitions"])


@BOTH
@pytest.mark.parametrize("state", ["sentence", "clauses", "tokens"])
def test_learns_toys_on_every_state(toys: Callable[..., Path], tmp_path: Path, state: str, learner: str) -> None:
    toys(state=state)
    env = load_env("toys")
    policy = dqn.learn(env, replace(SMALL, interactions=6_000, learner=learner), recorder(env, tmp_path / "run"))
    assert score(policy, env)["exact_match"] >= 0.9


@BOTH
@pytest.mark.parametrize("features", ["text", "ids"])
def test_learns_without_attributes(toys: Callable[..., Path], tmp_path: Path, features: str, learner: str) -> None:
    toys()
    env = load_env("toys")
    config = replace(SMALL, interactions=8_000, item_features=features, learner=learner)
    policy = dqn.learn(env, config, recorder(env, tmp_path / "run"))
    assert score(policy, env)["constraints"] >= 0.85


@pytest.mark.parametrize("turns", [1, 2])
def test_same_seed_same_run_and_resume_is_bit_exact(toys: Callable[..., Path], tmp_path: Path, turns: int) -> None:
    toys(turns=turns)
    env = load_env("toys")
    config = replace(SMALL, target_update=50)
    whole = dqn.learn(env, config, recorder(env, tmp_path / "whole"))
    again = dqn.learn(load_env("toys"), config, recorder(env, tmp_path / "again"))
    assert same(whole, again)
    assert steps(tmp_path / "whole") == steps(tmp_path / "again")
    other = dqn.learn(env, config, recorder(env, tmp_path / "other", seed=1))
    assert not same(whole, other)
    for stop_at in (30, 1_234, 2_600):
        folder = tmp_path / f"stopped-{stop_at}"
        with pytest.raises(KeyboardInterrupt):
            dqn.learn(env, config, recorder(env, folder, stop_at=stop_at))
        resumed = dqn.learn(load_env("toys"), config, recorder(env, folder))
        assert same(whole, resumed)
        assert steps(folder) == steps(tmp_path / "whole")


def test_metrics_after_the_checkpoint_are_logged_anew(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys()
    env = load_env("toys")
    whole = dqn.learn(env, SMALL, recorder(env, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        dqn.learn(env, SMALL, recorder(env, tmp_path / "run", stop_at=1_500))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2016, "reward": 0.9}\n{"step": 20')  # a kill leaves later lines, the last one cut
    resumed = dqn.learn(env, SMALL, recorder(env, tmp_path / "run"))
    assert same(whole, resumed)
    assert steps(tmp_path / "run") == steps(tmp_path / "whole")


def test_save_and_load_answer_alike(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys()
    env = load_env("toys")
    policy = dqn.learn(env, SMALL, recorder(env, tmp_path / "run"))
    policy.save(tmp_path)
    loaded = dqn.load(tmp_path, env.items)
    asked = env.asked(env.spec.rows("test"))
    torch.testing.assert_close(loaded.values(asked), policy.values(asked), rtol=0, atol=1e-6)
    assert not list(tmp_path.glob("*.p*t"))
    assert not list(tmp_path.glob("*.pkl"))


def test_the_target_is_the_papers(toys: Callable[..., Path], tmp_path: Path) -> None:
    """With the learning rate at 0, the logged loss is the hand-computed double-DQN error of the sampled batch."""
    toys(turns=3)
    env = load_env("toys")
    config = replace(SMALL, learning_rate=0.0, gamma=0.7, dropout=0.0, dtype="fp32")
    learner = TransitionLearner(env, config, seed=0)
    for _ in range(6):
        learner.explore(recorder(env, tmp_path / "run"))
    with torch.no_grad():  # so that online and target networks disagree
        for weights in learner.target.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    state = learner.rng.bit_generator.state
    batch = learner.replay.sample(learner.rng, config.batch_size)
    learner.rng.bit_generator.state = state
    learner.update()
    features, errors = learner.features, []
    for i in range(config.batch_size):
        row = batch["rows"][i : i + 1]
        here = learner.context(batch["tried"][i : i + 1], batch["last_score"][i : i + 1])
        there = learner.context(batch["next_tried"][i : i + 1], batch["next_last_score"][i : i + 1])
        with torch.no_grad():
            value = (learner.weights(learner.network, row, here) @ features.T)[0, batch["items"][i]]
            choice = (learner.weights(learner.network, row, there) @ features.T)[0].argmax()
            ahead = (learner.weights(learner.target, row, there) @ features.T)[0, choice]
        goal = batch["rewards"][i] + (0.0 if batch["terminated"][i] else 0.7 * float(ahead))
        errors.append((goal - float(value)) ** 2)
    assert learner.sums["loss"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert 0 < batch["terminated"].sum() < config.batch_size


def test_the_untrained_network_is_the_zero_shot_prior(toys: Callable[..., Path]) -> None:
    toys(state="sentence")
    env = load_env("toys")
    learner = TransitionLearner(env, replace(SMALL, item_features="text"), seed=0)
    rows = env.spec.rows("train")
    cosine = env.states().vectors[env.states().index[rows, 0]] @ env.item_vectors.T
    expected = 0.5 * (cosine - (env.states().vectors[env.states().index[rows, 0]] @ env.item_vectors.mean(0))[:, None])
    np.testing.assert_allclose(
        dqn.policy_of(learner, "sentence", best=True).values(env.asked(rows)).numpy(), expected, atol=2e-3
    )


def test_replay_is_a_ring(toys: Callable[..., Path]) -> None:
    toys()
    env = load_env("toys")
    world, replay = env.dynamics(), Replay(capacity=10, turns=1)
    for k in range(7):
        turn = world.start(env.spec.rows("train")[k : k + 3])
        replay.add(turn, np.full(3, k), world.step(turn, np.full(3, k)))
    assert replay.size == 10
    assert replay.head == 1
    assert sorted(replay.columns["items"]) == [3, 4, 4, 4, 5, 5, 5, 6, 6, 6]


def test_every_instruction_comes_once_a_pass(toys: Callable[..., Path]) -> None:
    toys()
    learner = TransitionLearner(load_env("toys"), replace(SMALL, num_envs=7), seed=3)
    learner.count["drawn"], size = 0, len(learner.dynamics.rows)
    drawn = np.concatenate([learner.draw(n) for n in (5, size, 2 * size - 5)])
    for k in range(3):
        assert sorted(drawn[k * size : (k + 1) * size]) == sorted(learner.dynamics.rows)


def test_cold_items_are_answered_only_where_they_are_on_offer(toys: Callable[..., Path], tmp_path: Path) -> None:
    home = toys()
    path = home / "items.jsonl"
    lines = path.read_text().splitlines()
    lines[-1] = lines[-1].replace('"id"', '"split": "test", "id"')
    path.write_text("\n".join(lines) + "\n")
    rows = home / "instructions.jsonl"
    kept = [x for x in rows.read_text().splitlines() if '"best": ["yellow_star"]' not in x or '"test"' in x]
    rows.write_text("\n".join(kept) + "\n")
    env = load_env("toys")
    policy = dqn.learn(env, replace(SMALL, interactions=6_000), recorder(env, tmp_path / "run"))
    assert 11 not in play(policy, env, "validation").items
    asked = np.array([i for i in env.spec.rows("test") if env.examples[i].best == (11,)])
    assert (policy.act(env.asked(asked), env.spec.menu("test")) == 11).all()
