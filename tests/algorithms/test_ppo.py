"""PPO, GRPO and RLOO on TRL: they learn a planted problem in seconds, repeat themselves, and resume bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instructrec_rl.algorithms.language import learn as learning
from instructrec_rl.algorithms.language.critic import attach
from instructrec_rl.algorithms.language.rollout import roll_out
from instructrec_rl.algorithms.language.trainer import PolicyTrainer
from instructrec_rl.config.schema import GRPOConfig, PolicyConfig, PPOConfig, RLOOConfig
from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_jsonl
from instructrec_rl.env.environment import Environment
from instructrec_rl.policies.language.models import load_language_model
from instructrec_rl.policies.language.policy import LanguagePolicy
from tests.algorithms.test_dqn import recorder, score, steps

TINY = PolicyConfig(name="tiny", hidden=64, layers=2)
QUICK: dict[str, Any] = {
    "interactions": 16_384,
    "batch_size": 128,
    "minibatch_size": 32,
    "learning_rate": 1e-3,
    "kl": 0.05,
    "verbalise": 1_600,
    "sft_batch_size": 16,
    "demos": 0,
    "eval_every": 2_048,
    "checkpoint_every": 2_048,
}
CONFIGS = {"ppo": PPOConfig, "grpo": GRPOConfig, "rloo": RLOOConfig}


def weights(policy: LanguagePolicy) -> dict[str, torch.Tensor]:
    return policy.lm.model.state_dict()


def same(a: LanguagePolicy, b: LanguagePolicy) -> bool:
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in step.items() if not k.startswith("seconds/")} for step in steps(folder)]


@pytest.mark.parametrize(("algo", "kl"), [("ppo", 0.05), ("grpo", 0.1), ("rloo", 0.05)])  # each 6 of 6 seeds: 1.0
def test_learns_to_repeat_the_word(echo: Callable[..., Environment], tmp_path: Path, algo: str, kl: float) -> None:
    env = echo()
    run = recorder(env, tmp_path / "run")
    policy = learning.learn(env, CONFIGS[algo](**{**QUICK, "kl": kl}), run, TINY)
    assert score(policy, env)["exact_match"] >= 0.85  # 7 of 8; random has 1 of 8
    logged = [record for _, record in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert logged[-1]["step"] == 16_384
    assert logged[-1]["reward"] > logged[0]["reward"]
    for key in ("kl", "entropy", "valid", "clip_fraction", "validation/exact_match", "seconds/generate"):
        assert all(np.isfinite(line[key]) for line in logged), key
    assert logged[-1]["seconds/reward"] > 0
    assert ("explained_variance" in logged[-1]) == (algo == "ppo")


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_learns_with_a_critic_that_reads_the_answer(
    echo: Callable[..., Environment], tmp_path: Path, critic: str
) -> None:
    env = echo()
    policy = learning.learn(env, PPOConfig(**QUICK, critic=critic), recorder(env, tmp_path / "run"), TINY)
    assert score(policy, env)["exact_match"] >= 0.7


def test_the_same_seed_gives_the_same_run_and_another_another(echo: Callable[..., Environment], tmp_path: Path) -> None:
    env = echo()
    short = PPOConfig(**{**QUICK, "interactions": 512, "verbalise": 256, "eval_every": 256})
    runs = [
        learning.learn(env, short, recorder(env, tmp_path / f"run{i}", seed), TINY) for i, seed in enumerate((0, 0, 1))
    ]
    assert same(runs[0], runs[1])
    assert steps_of(tmp_path / "run0") == steps_of(tmp_path / "run1")
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize(
    ("algo", "options"),
    [("ppo", {"critic": "separate", "epochs": 2, "kl_control": "adaptive"}), ("ppo", {}), ("grpo", {})],
)
def test_a_stopped_run_resumes_bit_for_bit(
    echo: Callable[..., Environment], tmp_path: Path, algo: str, options: dict[str, Any]
) -> None:
    env = echo()
    short = {"interactions": 1_024, "verbalise": 256, "eval_every": 256, "checkpoint_every": 256, "demos": 4}
    config = CONFIGS[algo](**{**QUICK, **short, "demo_passes": 8, **options})
    whole = learning.learn(env, config, recorder(env, tmp_path / "whole"), TINY)
    with pytest.raises(KeyboardInterrupt):
        learning.learn(env, config, recorder(env, tmp_path / "run", stop_at=512), TINY)
    again = recorder(env, tmp_path / "run")
    resumed = learning.learn(env, config, again, TINY)
    assert same(whole, resumed)
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "run")
    assert list(again.stages) == ["verbaliser", "supervised"]


def trainer_of(env: Environment, folder: Path, config: PPOConfig) -> PolicyTrainer:
    torch.manual_seed(0)
    lm = load_language_model(env, TINY)
    critic = attach(lm.model, "state") if config.name == "ppo" else None
    return PolicyTrainer(lm, env.dynamics("train"), config, None, critic, folder, 0, [])


@pytest.mark.parametrize("old", ["recompute", "generation"])
def test_the_first_pass_has_a_ratio_of_one(echo: Callable[..., Environment], tmp_path: Path, old: str) -> None:
    """Before any update the policy is the one that wrote: exactly 1 with a second pass, to rounding without it."""
    env = echo()
    config = PPOConfig(**{**QUICK, "batch_size": 32, "minibatch_size": 32, "kl": 0.0}, old_logprobs=old)
    trainer = trainer_of(env, tmp_path, config)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"row": int(row)} for row in env.spec.rows("train")[:24]] * 1)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    now, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, batch["completion_ids"].shape[1])
    ratio = torch.exp((now - batch["old_per_token_logps"]) * batch["tool_mask"])
    if old == "recompute":
        assert (ratio == 1).all()
    else:
        assert (ratio - 1).abs().max() < 1e-5


def test_every_later_pass_has_an_order_of_its_own(echo: Callable[..., Environment], tmp_path: Path) -> None:
    env = echo()
    config = PPOConfig(**{**QUICK, "batch_size": 24, "minibatch_size": 8, "epochs": 3, "kl": 0.0})
    trainer = trainer_of(env, tmp_path, config)
    trainer.model.train()
    given, seen = [{"row": int(row)} for row in env.spec.rows("train")], []
    for step in range(9):
        trainer._step = step
        part = trainer._prepare_inputs(given)
        seen.append([tuple(row) for row in torch.cat([part["prompt_ids"], part["completion_ids"]], 1).tolist()])
    passes = [[row for part in seen[i : i + 3] for row in part] for i in (0, 3, 6)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert passes[0] != passes[1] != passes[2]


def test_several_turns_are_one_sequence_with_a_reward_at_the_end_of_each(echo: Callable[..., Environment]) -> None:
    env = echo(turns=3, turn_cost=0.1)
    torch.manual_seed(0)
    lm = load_language_model(env, TINY)
    policy = LanguagePolicy(lm, "generate", env.items)
    rows = env.spec.rows("train")[:3]
    right = {row: [*lm.tokenizer(env.items[env.examples[row].best[0]].text)["input_ids"], lm.tokenizer.eos_token_id]
             for row in rows}  # fmt: skip
    wrong = [*lm.tokenizer("nothing")["input_ids"], lm.tokenizer.eos_token_id]
    plan = [[right[rows[0]], wrong, wrong], [right[rows[1]], wrong], [wrong]]  # who is right at which turn

    def say(prompts: list[list[int]]) -> Any:
        from instructrec_rl.policies.language.generate import Completions, right_pad

        said = plan.pop(0)
        assert len(prompts) == len(said)
        mask = right_pad([[1] * len(ids) for ids in said], 0, torch.long)
        return Completions(right_pad(said, 0, torch.long), mask, -1.0 * mask)

    played = roll_out(lm, env.dynamics("train"), rows, say)
    assert played.num_answers == 6
    assert [line["turn"] for line in played.answers] == [0, 0, 0, 1, 1, 2]
    assert [line["log_propensity"] for line in played.answers][:2] == [-float(len(right[rows[0]])), -float(len(wrong))]
    assert [line["id"] for line in played.answers].count(env.examples[rows[2]].id) == 3
    assert played.rewards.sum(1).tolist() == pytest.approx([1.0, 0.9, -0.2])
    for row, turns in enumerate((1, 2, 3)):
        own = played.own[row].bool()
        assert (played.ids[row][own] == lm.tokenizer.eos_token_id).sum() == turns
        ends = torch.nonzero(played.rewards[row]).flatten().tolist()
        assert all(played.ids[row][t] == lm.tokenizer.eos_token_id for t in ends)
        between = played.ids[row][played.mask[row].bool() & ~own]
        assert lm.tokenizer.decode(between) == "<score_0><sep>" * (turns - 1)
        assert (played.logprobs[row] == -1.0).sum() == own.sum()
    assert len(policy.write(env.asked(rows), np.arange(8), [[("nothing", 0.0)]] * 3)) == 3


def test_learns_with_several_turns(echo: Callable[..., Environment], tmp_path: Path) -> None:
    env = echo(turns=2, turn_cost=0.3)
    run = recorder(env, tmp_path / "run")
    policy = learning.learn(env, PPOConfig(**QUICK), run, TINY)
    assert score(policy, env)["exact_match"] >= 0.8


def test_best_of_n_needs_no_right_answers(echo: Callable[..., Environment], tmp_path: Path) -> None:
    env = echo()
    config = PPOConfig(**{**QUICK, "interactions": 128, "best_of_n": 6, "learning_rate": 1e-5})
    run = recorder(env, tmp_path / "run")
    learning.learn(env, replace(config, best_of_n_samples=8, sft_batch_size=8), run, TINY)
    assert run.stages["best_of_n"]["interactions"] == 24 * (8 + 5 * 4)
    scores = {name: stage["splits"] for name, stage in run.stages.items()}
    assert list(scores) == ["verbaliser", "best_of_n"]


@pytest.mark.parametrize(
    ("change", "policy", "turns", "reason"),
    [
        (
            {"batch_size": 100, "minibatch_size": 64},
            {},
            1,
            "algo.batch_size=100 must be a multiple of algo.minibatch_size=64",
        ),
        ({"samples": 2}, {}, 1, "algo.samples is for algo=grpo and algo=rloo"),
        (
            {"critic": "state"},
            {"input": "text"},
            1,
            "algo.critic=state reads the state, which policy.input=text",
        ),
        ({"vllm": True}, {}, 1, "algo.vllm=true needs policy.input=text: vLLM knows no soft tokens"),
        ({}, {"max_tokens": 200}, 3, r"env.turns=3: an episode may have \d+ tokens, the longest prompt \d+ of them"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(
    echo: Callable[..., Environment],
    tmp_path: Path,
    change: dict[str, Any],
    policy: dict[str, Any],
    turns: int,
    reason: str,
) -> None:
    env = echo(turns=turns)
    run = recorder(env, tmp_path / "run")
    with pytest.raises(InputError, match=reason):
        learning.learn(env, PPOConfig(**{**QUICK, **change}), run, replace(TINY, **policy))
    assert not (tmp_path / "run").exists()


def test_ctrl_c_in_a_stage_stops_at_once_and_the_run_resumes(echo: Callable[..., Environment], tmp_path: Path) -> None:
    env = echo()
    config = PPOConfig(**{**QUICK, "interactions": 256, "verbalise": 320, "demos": 4, "demo_passes": 40})
    whole = learning.learn(env, config, recorder(env, tmp_path / "whole"), TINY)
    seen: list[str] = []
    run = recorder(env, tmp_path / "run")

    def stop(step: int, total: int, words: str) -> None:
        seen.append(words)
        run.stopping = "supervised" in words and step >= total // 2

    run.progress = stop
    with pytest.raises(KeyboardInterrupt):
        learning.learn(env, config, run, TINY)
    assert seen[0] == "before learning: verbaliser"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("*.safetensors")] == [
        "stage-verbaliser.safetensors"
    ]
    assert same(whole, learning.learn(env, config, recorder(env, tmp_path / "run"), TINY))


def test_without_a_reference_no_kl_is_told(echo: Callable[..., Environment], tmp_path: Path) -> None:
    env = echo()
    config = PPOConfig(**{**QUICK, "interactions": 256, "verbalise": 160, "kl": 0.0, "eval_every": 128})
    learning.learn(env, config, recorder(env, tmp_path / "run"), TINY)
    logged = steps_of(tmp_path / "run")
    assert logged
    assert all("kl" not in line and "kl_coefficient" not in line for line in logged)


def test_evaluations_come_where_episodes_of_several_turns_pass_them(
    echo: Callable[..., Environment], tmp_path: Path
) -> None:
    """An iteration of 128 episodes has up to 384 answers: none of the marks that it passes is missed."""
    env = echo(turns=3, turn_cost=0.05)
    config = PPOConfig(**{**QUICK, "interactions": 1_500, "verbalise": 160, "eval_every": 300})
    learning.learn(env, config, recorder(env, tmp_path / "run"), TINY)
    at = [line["step"] for line in steps_of(tmp_path / "run")]
    assert len(at) >= 4
    assert all(later - earlier < 300 + 384 for earlier, later in zip([0, *at], at))
