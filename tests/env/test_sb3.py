"""Stable-Baselines3 trains on our environment, of one turn and of several, with either state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO

from instructrec_rl.env.sb3 import SB3VecEnv


@pytest.mark.parametrize(
    ("turns", "state", "policy"), [(1, "sentence", "MlpPolicy"), (2, "clauses", "MultiInputPolicy")]
)
def test_it_learns_from_the_adapter(toys: Callable[..., Path], turns: int, state: str, policy: str) -> None:
    toys(turns=turns)
    env = SB3VecEnv("toys", 4, state=state)
    learner = DQN if turns == 1 else PPO
    options = {"learning_starts": 16} if turns == 1 else {"n_steps": 8, "batch_size": 32}
    learner(policy, env, seed=0, **options).learn(64)
    seen = env.reset()
    for _ in range(3):
        seen, rewards, ended, infos = env.step(np.zeros(4, dtype=np.int64))
        assert rewards.dtype == np.float32
        assert [("terminal_observation" in info) for info in infos] == ended.tolist()
    assert isinstance(seen, dict) == (state == "clauses")
