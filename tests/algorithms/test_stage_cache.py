"""Stages before reinforcement that runs share: taken from another run, they are what would have been computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instructrec_rl.algorithms.language import learn as learning
from instructrec_rl.algorithms.language.stage_files import alone
from instructrec_rl.config.schema import GRPOConfig, PPOConfig
from instructrec_rl.env.environment import Environment
from tests.algorithms.test_dqn import recorder
from tests.algorithms.test_ppo import QUICK, TINY, same, steps_of

SHORT: dict[str, Any] = {**QUICK, "interactions": 256, "verbalise": 256, "eval_every": 128, "demos": 4}
SHORT |= {"demo_passes": 8}


def files_of(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("critic", ["state", "separate"])
def test_what_is_taken_is_what_would_have_been_computed(
    echo: Callable[..., Environment],
    tmp_path: Path,
    critic: str,
) -> None:
    env, cache = echo(), tmp_path / "cache"
    config = PPOConfig(**SHORT, critic=critic)
    shared = replace(config, stage_cache=str(cache))
    alone_run = learning.learn(env, config, recorder(env, tmp_path / "alone"), TINY)
    first, second = recorder(env, tmp_path / "first"), recorder(env, tmp_path / "second")
    made = learning.learn(env, shared, first, TINY)
    assert files_of(cache) == ["supervised", "verbaliser"]
    taken = learning.learn(env, shared, second, TINY)
    assert files_of(cache) == ["supervised", "verbaliser"]
    assert same(alone_run, made)
    assert same(alone_run, taken)
    assert steps_of(tmp_path / "alone") == steps_of(tmp_path / "first") == steps_of(tmp_path / "second")
    assert not any("reused" in stage for stage in first.stages.values())
    for name, stage in second.stages.items():
        assert stage["reused"]["cpu_s"] > 0, name
        assert stage["splits"] == first.stages[name]["splits"]


def test_what_comes_after_may_differ_and_what_goes_in_may_not(
    echo: Callable[..., Environment],
    tmp_path: Path,
) -> None:
    env, cache = echo(), tmp_path / "cache"
    both = ["supervised", "verbaliser"]

    def learn(name: str, config: PPOConfig, seed: int = 0, policy: Any = TINY) -> list[str]:
        run = recorder(env, tmp_path / name, seed)
        learning.learn(env, replace(config, stage_cache=str(cache)), run, policy)
        return sorted(stage for stage, found in run.stages.items() if "reused" in found)

    assert learn("ppo", PPOConfig(**SHORT)) == []
    assert learn("grpo", GRPOConfig(**SHORT)) == both
    assert learn("kl", PPOConfig(**{**SHORT, "kl": 0.2, "batch_size": 64})) == both
    assert learn("demos", PPOConfig(**{**SHORT, "demos": 5})) == ["verbaliser"]
    assert learn("seed", PPOConfig(**SHORT), seed=1) == []
    assert learn("rate", PPOConfig(**{**SHORT, "sft_learning_rate": 1e-3})) == []
    assert learn("wide", PPOConfig(**SHORT), policy=replace(TINY, hidden=96)) == []


def test_a_run_stopped_behind_its_stages_resumes_bit_for_bit(
    echo: Callable[..., Environment],
    tmp_path: Path,
) -> None:
    """No checkpoint is there yet, so the critic is made anew: by the same draws as in the run that never stopped."""
    env, config = echo(), PPOConfig(**SHORT)
    whole = learning.learn(env, config, recorder(env, tmp_path / "whole"), TINY)
    run = recorder(env, tmp_path / "run")
    first = run.stage

    def kill(name: str, *rest: Any) -> None:
        first(name, *rest)
        if name == "supervised":
            run.log = killed  # type: ignore[method-assign]

    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit

    run.stage = kill  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        learning.learn(env, config, run, TINY)
    assert not list((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert same(whole, learning.learn(env, config, recorder(env, tmp_path / "run"), TINY))
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "run")


def test_one_makes_a_stage_and_the_others_wait(tmp_path: Path) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with alone(tmp_path / "stage.safetensors", lambda: None):
            held.set()
            assert release.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(60)
    waits: list[int] = []

    def waiting() -> None:
        waits.append(1)
        release.set()

    with alone(tmp_path / "stage.safetensors", waiting):
        assert waits
    other.join()
