"""One run of TRL 1.12's own PPOTrainer for trl_ppo.py, in an environment that has that TRL: writes JSON.

Its reward "model" is our reward: it decodes what was written and asks the environment. Its value model is a copy of the
policy's trunk with a scalar head that starts at zero, as our `critic=separate`.

    TRL_EXPERIMENTAL_SILENCE=1 python -m benchmarks.peers.trl_ppo_peer WARM_START RESULT.json --seed 0 --episodes 8192
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.peers.ppo_setup import Meter, Start, load_start, settings, validation  # first: it sets the threads
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.policies.language.prompts import write_prompts


class EnvironmentReward(nn.Module):
    """What TRL takes for a reward model: `score` of the hidden states of `backbone`, which are the rewards already."""

    base_model_prefix = "backbone"

    def __init__(self, start: Start):
        super().__init__()
        self.backbone, self.score = Scores(start), nn.Identity()


class Scores(nn.Module):
    """The rewards of B episodes, (B, L, 1): the same at every position, as TRL reads the one of the last token."""

    def __init__(self, start: Start):
        super().__init__()
        self.lm, self.dynamics = start.lm, start.env.dynamics("train")
        rows = self.dynamics.rows
        prompts = write_prompts(self.lm, start.env.asked(rows))
        self.row_of = {tuple(prompt): row for prompt, row in zip(prompts, rows)}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        tokenizer, rows, answers = self.lm.tokenizer, [], []
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist()):
            shown = [token for token, on in zip(ids, mask) if on]
            end = shown.index(tokenizer.sep_token_id) + 1
            rows.append(self.row_of[tuple(shown[:end])])
            answers.append(shown[end:])
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        outcome = self.dynamics.step_texts(self.dynamics.start(np.array(rows)), texts)
        scores = torch.as_tensor(outcome.rewards, dtype=torch.float32)
        return SimpleNamespace(hidden_states=[scores[:, None, None].expand(-1, input_ids.shape[1], 1)])


def value_model(start: Start) -> LlamaForSequenceClassification:
    """A copy of the policy's trunk, soft tokens included, with a scalar head that starts at zero."""
    config = copy.deepcopy(start.lm.model.config)
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)
    model.model = copy.deepcopy(start.lm.model.model)
    model.score = nn.Linear(config.hidden_size, 1)
    nn.init.zeros_(model.score.weight)
    nn.init.zeros_(model.score.bias)
    return model


class Curve(TrainerCallback):
    """The mean reward of each iteration's samples."""

    def __init__(self) -> None:
        self.rewards: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.rewards.append(logs["objective/scores"])


def arguments(folder: str, options: argparse.Namespace, max_tokens: int) -> PPOConfig:
    """Our settings in the peer's terms."""
    ours = settings(options.episodes, "separate")
    return PPOConfig(
        output_dir=folder,
        total_episodes=options.episodes,
        per_device_train_batch_size=ours.batch_size,  # with num_mini_batches: a step of the optimizer each minibatch
        gradient_accumulation_steps=1,
        num_mini_batches=ours.batch_size // ours.minibatch_size,
        num_ppo_epochs=ours.epochs,
        local_rollout_forward_batch_size=options.rollout,
        response_length=max_tokens,
        stop_token="eos",
        temperature=ours.temperature,
        kl_coef=ours.kl,
        cliprange=ours.clip,
        cliprange_value=ours.value_clip,
        vf_coef=ours.value_coefficient,
        gamma=ours.gamma,
        lam=0.95,
        num_sample_generations=0,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=options.seed,
    )


def optimizer(start: Start, critic: nn.Module, config: Any) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer and schedule that ours has; the peer sets the learning rate once a batch, not a minibatch."""
    weights = [*start.lm.model.parameters(), *critic.parameters()]
    adamw = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0, fused=True)
    minibatches = config.batch_size // config.minibatch_size
    steps = -(-config.interactions // config.batch_size) * minibatches
    rising = round(config.warmup * steps)

    def share(batch: int) -> float:
        middle = min((batch + 0.5) * minibatches, steps)
        if middle < rising:
            return middle / rising
        return 1 - 0.9 * (middle - rising) / (steps - rising)

    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("warm_start", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=8_192)
    parser.add_argument("--rollout", type=int, default=256, help="local_rollout_forward_batch_size")
    parser.add_argument("--no-gc", action="store_true", help="patch the trainer's gc.collect out")
    options = parser.parse_args()
    assert trl.__version__.startswith("1.12."), trl.__version__
    if options.no_gc:
        ppo_trainer.gc = SimpleNamespace(collect=lambda: 0)
    start = load_start(options.warm_start, options.seed)
    before = validation(start.env, start.lm)
    prompts = write_prompts(start.lm, start.env.asked(start.env.spec.rows("train")))
    curve, critic = Curve(), value_model(start)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        trainer = PPOTrainer(
            args=arguments(folder, options, start.lm.max_tokens),
            processing_class=start.lm.tokenizer,
            model=start.lm.model,
            ref_model=start.reference.model,
            reward_model=EnvironmentReward(start),
            value_model=critic,
            train_dataset=Dataset.from_dict({"input_ids": prompts}),
            callbacks=[curve],
            optimizers=optimizer(start, critic, settings(options.episodes, "separate")),
        )
        with Meter() as spent:
            trainer.train()
    result = {
        "rewards": curve.rewards,
        "validation": [before, validation(start.env, start.lm)],
        "cpu_s": spent.cpu_s,
        "peak_mb": spent.peak_mb,
        "grown_mb": spent.grown_mb,
    }
    write_json_atomic(options.result, result)


if __name__ == "__main__":
    main()
