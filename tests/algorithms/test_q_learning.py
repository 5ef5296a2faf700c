"""The learner of one-answer episodes: gradients against autograd, optimiser against torch, what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from instructrec_rl import load_env
from instructrec_rl.algorithms import dqn
from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.algorithms.q_learning.answers import AnswerLearner, Answers
from instructrec_rl.algorithms.q_learning.set_gradients import FlatSetNetwork, MemberReader
from instructrec_rl.config.schema import DQNConfig
from instructrec_rl.core import InputError
from instructrec_rl.encoders.set_network import SetNetwork, StateReader
from instructrec_rl.encoders.states import States

CPU = torch.device("cpu")
DIM, HIDDEN, OUTPUTS = 24, 16, 5


def some_states(rows: int = 40, members: int = 200, seed: int = 0) -> States:
    """Sets of 0 to 4 of 200 members, which lie near a plane of 8 dimensions."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(members, 8)) @ rng.normal(size=(8, DIM)) + 0.05 * rng.normal(size=(members, DIM)) + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = np.full((rows, 4), -1, dtype=np.int32)
    for row in range(rows):
        size = 0 if row == 3 else rng.integers(1, 5)
        index[row, :size] = rng.choice(members, size, replace=False)
    return States("clauses", vectors.astype(np.float32), index)


def networks(components: int) -> tuple[MemberReader, FlatSetNetwork, SetNetwork]:
    reader = MemberReader(some_states(), np.arange(40), components, CPU)
    flat = FlatSetNetwork(reader.dim, HIDDEN, OUTPUTS, reader.scale, seed=1, device=CPU)
    draw = torch.Generator().manual_seed(2)
    flat.flat += torch.randn(len(flat.flat), generator=draw) * 0.2
    same = SetNetwork(DIM, HIDDEN, OUTPUTS)
    same.load_state_dict(flat.as_set_network(flat.flat, reader.projection))
    return reader, flat, same


@pytest.mark.parametrize("components", [0, 12])
def test_it_is_the_function_that_is_saved(components: int) -> None:
    reader, flat, same = networks(components)
    assert (reader.projection is None) == (components == 0)
    rows = np.array([5, 0, 3, 39, 5])
    ours, _ = flat.forward(reader(rows))
    theirs = same(StateReader(some_states(), CPU)(rows))
    present = [0, 1, 3, 4]  # row 3 has no member: its mean is zero on either side, and differs by the components' mean
    torch.testing.assert_close(ours[present], theirs[present], rtol=1e-4, atol=1e-5)
    if components == 0:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_are_autograds() -> None:
    reader, flat, same = networks(components=0)
    rows, target = np.arange(40), torch.randn(40, OUTPUTS, generator=torch.Generator().manual_seed(3))
    w, seen = flat.forward(reader(rows))
    flat.backward(2 * (w - target), seen)
    loss = (same(StateReader(some_states(), CPU)(rows)) - target).square().sum()
    loss.backward()
    theirs = {name: weights.grad for name, weights in same.named_parameters()}
    ours = flat.as_set_network(flat.gradient, None)
    # the linear path reads members of length 1 there and of unit variance here: S is scaled to be the same weights
    for name, gradient in theirs.items():
        if name == "gate.bias":  # moves every member's weight alike, and so nothing: the learner has none
            assert float(gradient.abs()) < 1e-4
            continue
        error = torch.linalg.vector_norm(ours[name] - gradient) / torch.linalg.vector_norm(gradient)
        assert error < 1e-5, name


def test_a_clamped_gate_gives_no_gradient() -> None:
    reader, flat, _ = networks(components=0)
    flat.parameters["WG"][:, -1] *= 1e4
    w, seen = flat.forward(reader(np.arange(40)))
    flat.backward(torch.ones_like(w), seen)
    assert bool((seen.gate.abs() == 10).all())
    assert bool(torch.isfinite(flat.gradient).all())
    assert float(flat.gradients["WG"][:, -1].abs().max()) == 0.0


@pytest.mark.parametrize("most", [1e9, 0.5])
def test_the_optimiser_is_torchs_adamw(most: float) -> None:
    _, flat, _ = networks(components=0)
    weights = flat.flat.clone().requires_grad_(True)
    theirs = torch.optim.AdamW([weights], lr=3e-3, betas=(0.9, 0.98), weight_decay=0.1, foreach=False)
    draw = torch.Generator().manual_seed(4)
    for _ in range(25):
        gradient = torch.randn(len(weights), generator=draw)
        flat.gradient.copy_(gradient)
        flat.step(3e-3, 0.1, most)
        weights.grad = gradient
        torch.nn.utils.clip_grad_norm_([weights], most)
        theirs.step()
    torch.testing.assert_close(flat.flat, weights.detach(), rtol=1e-5, atol=1e-6)


def test_an_answer_that_comes_again_counts_towards_its_mean() -> None:
    answers = Answers(rows=3, interactions=7)  # every row comes 3 times at most
    answers.add(np.array([0, 2]), np.array([5, 6], dtype=np.int32), np.array([1.0, 0.25]), 0)
    answers.add(np.array([2, 0]), np.array([6, 0], dtype=np.int32), np.array([0.75, 0.0]), 0)
    where, items, means = answers.of(np.array([2, 1, 0, 2]))
    assert list(zip(where.tolist(), items.tolist(), means.tolist())) == [
        (0, 6, 0.5), (2, 5, 1.0), (2, 0, 0.0), (3, 6, 0.5),
    ]  # fmt: skip


def learner_of(toys: Callable[..., Path]) -> AnswerLearner:
    toys()
    return AnswerLearner(load_env("toys"), DQNConfig(interactions=400, num_envs=16, hidden=16), seed=0)


def test_an_instruction_comes_once_a_pass_and_is_answered_within_its_room(
    toys: Callable[..., Path], tmp_path: Path
) -> None:
    learner = learner_of(toys)
    recorder, size = Recorder(tmp_path, 0, lambda policy: {}), len(learner.dynamics.rows)
    while learner.count["step"] < 400:
        before = learner.count["drawn"]
        learner.advance(recorder)
        if before // size != learner.count["drawn"] // size and learner.count["drawn"] % size == 0:
            given = learner.answers.counts.sum(1)
            assert given.min() == given.max() == learner.count["drawn"] // size
    assert learner.answers.counts.sum() == 400


def test_a_reward_that_changes_corrects_what_it_taught(toys: Callable[..., Path], tmp_path: Path) -> None:
    """After a change every answer that is learned from has the new reward, and no answer is lost."""
    learner = learner_of(toys)
    recorder = Recorder(tmp_path, 0, lambda policy: {})
    while learner.count["step"] < 200:
        learner.advance(recorder)
    answers, reward = learner.answers, learner.env.reward
    counts = answers.counts.copy()
    old = reward.scorer
    learner.env.reward.scorer = Halved(old)
    learner._follow_the_reward()
    everything = np.arange(len(learner.dynamics.rows))
    _, _, before = answers.of(everything)
    learner._relabel(everything)
    _, _, after = answers.of(everything)
    np.testing.assert_allclose(after, before / 2)
    np.testing.assert_array_equal(answers.counts, counts)


class Halved:
    """A scorer that pays half of what another does, and says that it is not the same."""

    version = "halved"

    def __init__(self, scorer: object):
        self._scorer = scorer

    def score(self, batch: object) -> np.ndarray:
        return np.asarray(self._scorer.score(batch)) / 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(("options", "why"), [({"dropout": 0.1}, "has no dropout"), ({}, "env.turns=2")])
def test_what_it_cannot_do_is_said(toys: Callable[..., Path], options: dict[str, float], why: str) -> None:
    toys(turns=1 if options else 2)
    config = replace(DQNConfig(learner="answers"), **options)
    with pytest.raises(InputError, match=why):
        dqn.make_learner(load_env("toys"), config, seed=0)


def test_a_large_menu_is_learned_from_the_answers_alone(
    toys: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two ways to the slope of the loss give the same network."""
    flats: list[torch.Tensor] = []
    toys()
    env, config = load_env("toys"), DQNConfig(interactions=400, num_envs=16, hidden=16)
    for dense in (0, 1_000):
        monkeypatch.setattr("instructrec_rl.algorithms.q_learning.answers.DENSE_MENU", dense)
        learner = AnswerLearner(env, config, seed=0)
        recorder = Recorder(tmp_path / str(dense), 0, lambda policy: {})
        for _ in range(3):
            learner.advance(recorder)
        flats.append(learner.network.flat)
    torch.testing.assert_close(*flats, rtol=1e-3, atol=1e-5)
