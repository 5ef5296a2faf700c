"""Every baseline on a small planted problem whose embeddings are made here: no model is loaded."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.config.schema import ALGORITHM_CONFIGS, LANGUAGE_ALGORITHMS, EnvConfig
from instructrec_rl.core import InputError
from instructrec_rl.encoders.states import Asked
from instructrec_rl.env.environment import Environment, make_environment
from instructrec_rl.env.spec import load_spec
from instructrec_rl.run.evaluate import Answers, Scorer, play

NAMES = [name for name in ALGORITHM_CONFIGS if name not in ("dqn", "reward_model", *LANGUAGE_ALGORITHMS)]
LEARN_BY_TRYING = ["linucb", "linear_q"]
SMALL = {
    "linucb": {"interactions": 3000, "num_envs": 64, "eval_every": 1000, "checkpoint_every": 1000},
    "linear_q": {"interactions": 12000, "num_envs": 64, "eval_every": 4000, "checkpoint_every": 4000},
    "supervised": {"epochs": 20, "hidden": 64, "batch_size": 16, "learning_rate": 3e-3, "device": "cpu"},
}
TOPPINGS = ["onion", "olive", "ham", "basil", "corn", "tuna", "leek", "egg"]
FRAMES = ["I want {}", "something with {} please", "do you have {} today", "bring me {} now", "{} for two", "ah, {}!"]


class FakeEncoder:
    """A text's vector is the sum of its words' random vectors, scaled to length 1."""

    dim = 24

    def encode(self, texts):
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().replace(",", " ").replace("!", " ").split():
                seed = int.from_bytes(word.encode()[:8], "little")
                weight = 1.0 if word in (*TOPPINGS, "saffron") else 0.3
                vectors[row] += weight * np.random.default_rng(seed).standard_normal(self.dim)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Builds the environment: an item a topping, and one cold item that is right only in the split `cold`."""
    monkeypatch.setenv("INSTRUCTREC_PATH", str(tmp_path))
    folder = tmp_path / "envs" / "planted"
    items = [{"id": t, "name": f"pizza {t}", "text": f"pizza with {t}"} for t in TOPPINGS]
    items.append({"id": "rice", "name": "rice", "text": "rice with saffron", "split": "cold"})
    # onion is asked for most often, so popularity beats chance
    names = ("test", "validation", "train", "train", "train")
    asked = [(f, t) for f in FRAMES for t in TOPPINGS for _ in range(1 + 3 * (t == "onion"))]
    rows = [
        {
            "id": str(i),
            "instruction": f.format(t),
            "best": [t],
            "split": names[i % 5],
        }
        for i, (f, t) in enumerate(asked)
    ]
    rows += [
        {"id": f"cold{i}", "instruction": f.format("saffron"), "best": ["rice"], "split": "cold"}
        for i, f in enumerate(FRAMES)
    ]
    write_lines(folder / "items.jsonl", items)
    write_lines(folder / "instructions.jsonl", rows)
    about = "name: planted\nversion: 1\nformat: catalog\naction: choose\nmetrics: [exact_match]\n"
    (folder / "env.yaml").write_text(about)

    def build(**options) -> Environment:
        return make_environment(load_spec(EnvConfig(name="planted", **options)), FakeEncoder(), "exact_match")

    return build


@pytest.fixture
def train(tmp_path):
    """Learns by name; each call has a run folder of its own unless `folder` names one."""
    count = iter(range(1000))

    def learn(name, env, seed=0, folder=None, **options):
        config = ALGORITHM_CONFIGS[name](name=name, **{**SMALL.get(name, {}), **options})
        recorder = Recorder(folder or tmp_path / f"run{next(count)}", seed, lambda policy: scores(policy, env))
        return module(name).learn(env, config, recorder)

    return learn


def module(name):
    return importlib.import_module(f"instructrec_rl.algorithms.{name}")


def scores(policy, env, split="validation") -> dict[str, float]:
    answers: Answers = play(policy, env, split)
    return {key: float(values.mean()) for key, values in Scorer(env).per_row(answers).items()}


def accuracy(policy, env, split="test") -> float:
    return scores(policy, env, split)["exact_match"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_beats_chance(name, make, train):
    env = make()
    chance = np.mean([accuracy(train("random", env, seed=seed), env) for seed in range(20)])
    assert chance == pytest.approx(1 / len(TOPPINGS), abs=0.06)
    wanted = {"oracle": 1.0, "popularity": chance + 0.1}.get(name, 0.9)
    assert accuracy(train(name, env), env) >= wanted


@pytest.mark.parametrize("name", NAMES)
def test_answers_stay_on_the_menu(name, make, train):
    env = make()
    policy = train(name, env)
    rows = env.spec.rows("test")
    for menu in ([5, 2], [7], [3, 4, 6, 8]):
        chosen = policy.act(env.asked(rows), np.array(menu))
        assert chosen.dtype == np.int64
        assert chosen.shape == rows.shape
        assert set(chosen.tolist()) <= set(menu)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_policy(name, make, train):
    env = make()
    first, second = (train(name, env, seed=3).act(env.asked(env.spec.rows("test")), env.spec.regular) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "oracle"])
def test_saved_and_loaded_it_answers_alike(name, make, train, tmp_path):
    env = make()
    policy = train(name, env)
    folder = tmp_path / "policy"
    folder.mkdir()
    policy.save(folder)
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors"}
    texts = [str(text) for text in env.instructions]
    menu = np.arange(len(env.items))
    answers = [
        p.act(Asked.from_texts(texts, env.encoder), menu) for p in (policy, module(name).load(folder, env.items))
    ]
    assert np.array_equal(*answers)


@pytest.mark.parametrize("name", ["neighbour", "tfidf", "oracle"])
def test_reading_texts_finds_items_never_trained_on(name, make, train):
    env = make()
    assert accuracy(train(name, env), env, "cold") == 1.0


@pytest.mark.parametrize("name", ["popularity", "centroid", "linucb", "linear_q", "ngrams"])
def test_items_never_trained_on_come_last(name, make, train):
    env = make()
    policy = train(name, env)
    cold = len(TOPPINGS)
    asked = env.asked(env.spec.rows("cold"))
    assert (policy.act(asked, env.spec.menu("cold")) != cold).all()
    assert (policy.act(asked, np.array([cold])) == cold).all()


@pytest.mark.parametrize("name", LEARN_BY_TRYING)
@pytest.mark.parametrize("turns", [1, 3])
def test_resumed_it_ends_bit_for_bit_the_same(name, turns, make, train, tmp_path):
    env = make(turns=turns)
    whole = train(name, env, folder=tmp_path / "whole")
    env = make(turns=turns)

    def stop(policy):
        calls.append(policy)
        if len(calls) == 2:
            raise InterruptedError
        return scores(policy, env)

    calls: list = []
    config = ALGORITHM_CONFIGS[name](name=name, **SMALL[name])
    with pytest.raises(InterruptedError):
        module(name).learn(env, config, Recorder(tmp_path / "cut", 0, stop))
    resumed = train(name, make(turns=turns), folder=tmp_path / "cut")
    assert len(calls) == 2
    for part, value in vars(whole).items():
        assert np.array_equal(value, getattr(resumed, part)), part
    assert learning_curve(tmp_path / "cut") == learning_curve(tmp_path / "whole")


def learning_curve(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("wall_s", "cpu_s")} for line in lines]


@pytest.mark.parametrize("name", LEARN_BY_TRYING)
def test_asked_to_stop_it_leaves_a_checkpoint(name, make, tmp_path):
    env = make()
    recorder = Recorder(tmp_path / "run", 0, lambda policy: scores(policy, env))
    recorder.stopping = True
    with pytest.raises(KeyboardInterrupt):
        module(name).learn(env, ALGORITHM_CONFIGS[name](name=name, **SMALL[name]), recorder)
    saved = recorder.load_checkpoint()
    assert saved is not None
    assert saved[1]["step"] == SMALL[name]["num_envs"]


@pytest.mark.parametrize("name", LEARN_BY_TRYING)
def test_it_asks_for_the_reward_of_its_own_choice_only(name, make, train, monkeypatch):
    env = make()
    asked = []
    table = env.reward_table
    monkeypatch.setitem(env.__dict__, "reward_table", lambda rows, items: asked.append(len(rows)) or table(rows, items))
    monkeypatch.setattr(
        "instructrec_rl.run.evaluate.Scorer.per_row", lambda self, answers: {"exact_match": np.zeros(1)}
    )
    train(name, env, interactions=640)
    assert asked == [SMALL[name]["num_envs"]] * 10


def test_random_is_uniform_and_depends_on_neither_order_nor_batch(make, train):
    env = make()
    policy = train("random", env)
    texts = [f"text {i}" for i in range(8000)]
    menu = np.array([1, 4, 6, 7])
    together = policy.act(Asked.from_texts(texts, env.encoder), menu)
    backwards = policy.act(Asked.from_texts(texts[::-1], env.encoder), menu)[::-1]
    assert np.array_equal(together, backwards)
    counts = np.bincount(together, minlength=9)[menu]
    assert np.abs(counts / 8000 - 0.25).max() < 0.025
    other = train("random", env, seed=1).act(Asked.from_texts(texts, env.encoder), menu)
    assert np.mean(other == together) == pytest.approx(0.25, abs=0.03)
    later = policy.act(Asked.from_texts(texts, env.encoder), menu, np.ones((8000, 25), dtype=np.float32))
    assert np.mean(later == together) == pytest.approx(0.25, abs=0.03)


def test_an_oracle_refuses_plain_text(make, train, tmp_path):
    env = make()
    with pytest.raises(InputError, match="an oracle cannot answer plain text"):
        train("oracle", env).act(Asked.from_texts(["a pizza"], env.encoder), env.spec.regular)
    with pytest.raises(InputError, match="an oracle cannot answer plain text"):
        module("oracle").load(tmp_path, env.items)


def test_linear_q_learns_not_to_repeat_a_wrong_answer(make, train):
    """With turns the state holds the answers so far: the second answer differs from a first that was wrong."""
    env = make(turns=2, turn_cost=0.0)
    policy = train("linear_q", env, interactions=600)  # little enough that many first answers are wrong
    dynamics, rows = env.dynamics("train"), env.spec.rows("train")
    turn = dynamics.start(rows)
    first = policy.act(env.asked(rows), dynamics.menu, dynamics.context(turn.tried, turn.last_score))
    outcome = dynamics.step(turn, first)
    assert outcome.scores.mean() < 0.9
    seen = dynamics.context(outcome.turn.tried, outcome.turn.last_score)
    second = policy.act(env.asked(rows), dynamics.menu, seen)
    wrong = outcome.scores < 1
    assert np.mean(second[wrong] != first[wrong]) > 0.5


def test_linucb_equals_ridge_regression_in_closed_form(make, train, tmp_path):
    """After learning, theta_a is the ridge solution over what item a was chosen for (Li et al. 2010, eq. 3)."""
    env = make()
    linucb = module("linucb")
    config = ALGORITHM_CONFIGS["linucb"](name="linucb", interactions=500, num_envs=50, ridge=2.0)
    learner = linucb.Learner(env, config, 0)
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    update = learner._update
    learner._update = lambda x, chosen, rewards: (seen.append((x, chosen, rewards)), update(x, chosen, rewards))[1]
    while learner.state["step"] < 500:
        learner.answer(Recorder(tmp_path / "run", 0, lambda policy: {}))
    x, chosen, rewards = (np.concatenate(part) for part in zip(*seen))
    for place, item in enumerate(learner.menu):
        mine = x[chosen == place]
        solution = np.linalg.solve(mine.T @ mine + 2.0 * np.eye(x.shape[1]), mine.T @ rewards[chosen == place])
        np.testing.assert_allclose(learner.policy.theta[item], solution, atol=1e-4)


def test_principal_components_keep_the_variance():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((300, 6)) * [5, 3, 1, 0.1, 0, 0] + 7).astype(np.float32)
    mean, basis = module("linucb").principal_components(vectors, 3)
    reduced = (vectors - mean) @ basis
    assert (reduced**2).sum(1).mean() == pytest.approx(3, rel=1e-4)
    lost = 1 - (reduced**2).sum() / ((vectors - mean) ** 2).sum() * ((vectors - mean) ** 2).sum(1).mean() / 3
    assert lost == pytest.approx(0, abs=1e-3)
    assert module("linucb").principal_components(vectors, 6)[1].shape == (6, 4)  # two directions hold nothing


def test_every_option_of_a_baseline_has_a_place_in_its_page():
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "baselines.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"## {name}\n" in page
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        own = {field.name for field in dataclasses.fields(ALGORITHM_CONFIGS[name])} - {"name", "interactions"}
        assert [option for option in sorted(own) if f"`{option}`" not in section] == []
