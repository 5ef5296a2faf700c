"""PPO, GRPO and RLOO as one small subclass of TRL's GRPOTrainer.

TRL gives the loop, the clipped loss, accelerate with all it drives (several processes, FSDP, DeepSpeed, mixed
precision, gradient checkpointing), PEFT and vLLM. Ours are the episodes over the batched dynamics, KL in the reward,
a critic with GAE, and checkpoints that are whole or not there. docs/explanation/ppo.md names every logged metric and
what differs from the papers; tests/algorithms/test_trl_contract.py fails where TRL renames a hook that we override.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict

from instructrec_rl.algorithms.language import advantages as estimate
from instructrec_rl.algorithms.language.answer_scorer import AnswerScorer
from instructrec_rl.algorithms.language.checkpoint_folders import STATE, seal_folder
from instructrec_rl.algorithms.language.clock import Clock
from instructrec_rl.algorithms.language.critic import Critic
from instructrec_rl.algorithms.language.packing import joined, shape_of
from instructrec_rl.algorithms.language.rollout import Rollout, in_random_passes, roll_out
from instructrec_rl.algorithms.language.trained_weights import WEIGHTS, load_trained, save_trained, trained_of
from instructrec_rl.algorithms.language.trl_arguments import arguments
from instructrec_rl.core import DivergedError
from instructrec_rl.core.files import read_json
from instructrec_rl.policies.language.generate import (
    Completions,
    Ids,
    complete,
    left_pad,
    right_pad,
)
from instructrec_rl.policies.language.prompts import bind_states

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.rollouts import RolloutLog
    from instructrec_rl.config.schema import PPOConfig
    from instructrec_rl.env.environment import Dynamics
    from instructrec_rl.policies.language.models import LanguageModel

ESTIMATORS = {"ppo": "gae", "grpo": "group", "rloo": "leave_one_out"}


class PolicyTrainer(AnswerScorer):
    """Trains `lm` on episodes of `dynamics`. reference: a frozen copy that the KL is taken to, or None where the KL
    costs nothing; critic: attached to the model, for PPO; rollouts: logs every answer.

    One iteration: `batch_size` episodes, then `epochs` passes over them in minibatches of `minibatch_size`, in a new
    order each time.
    """

    def __init__(
        self,
        lm: LanguageModel,
        dynamics: Dynamics,
        config: PPOConfig,
        reference: LanguageModel | None,
        critic: Critic | None,
        folder: Path,
        seed: int,
        callbacks: list[TrainerCallback],
        rollouts: RolloutLog | None = None,
    ):
        self.lm, self.dynamics, self.settings, self.critic = lm, dynamics, config, critic
        self.rollouts = rollouts
        self.timed = Clock("generate", "reward", "old", "reference", "value", "forward", "backward", "optimizer")
        self.estimator = ESTIMATORS[config.name]
        self.interactions, self.kl_coefficient = 0, config.kl
        # draw the rows of every iteration
        groups = config.batch_size // config.samples
        iterations = max(1, math.ceil(config.interactions / config.batch_size))
        order = in_random_passes(dynamics.rows, iterations * groups, np.random.default_rng(seed))
        super().__init__(
            model=lm.model,
            reward_funcs=_paid_by_the_environment,
            args=arguments(config, folder, seed, iterations, lm),
            train_dataset=Dataset.from_dict({"row": order}),
            processing_class=lm.tokenizer,
            callbacks=callbacks,
        )
        # put right what TRL takes otherwise
        self.num_generations = config.samples  # TRL wants at least 2; PPO needs no group
        # make the reference ready
        if reference is not None:
            self.reference = self.accelerator.prepare_model(reference.model.eval(), evaluation_mode=True)
        bind_states(lm, dynamics.env.states, reference.model if reference else None)

    @property
    def iteration_steps(self) -> int:
        """Gradient steps of one iteration."""
        return self.args.steps_per_generation * self.num_iterations

    # -- playing ------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Play the episodes of one iteration and give what `_compute_loss` reads."""
        in_loss = self.estimator == "group"  # GRPO has its KL in the loss, the others in the reward
        # play the episodes
        played = self._play_and_count(np.array([row["row"] for row in inputs]))
        # score their answers against the old policy and the reference
        old, reference = self._logprobs(played)
        kl = torch.zeros_like(old) if reference is None else (old - reference) * played.own
        # estimate advantages
        rewards = played.rewards if in_loss else played.rewards - self.kl_coefficient * kl
        advantages, critics = self._advantages(played, rewards)
        output = {
            "prompt_ids": played.prompts,
            "prompt_mask": played.prompt_mask,
            "completion_ids": played.ids,
            "completion_mask": played.mask,
            "tool_mask": played.own,
            "old_per_token_logps": old,
            "num_items_in_batch": self._sum(played.own.sum().float()),
            "advantages": advantages,
        }
        if in_loss and reference is not None:
            output["ref_per_token_logps"] = reference
        self.beta = self.kl_coefficient if in_loss else 0.0
        # log the iteration, and set the KL coefficient of the next one
        self._log_iteration(played, None if reference is None else kl)
        self.kl_coefficient = estimate.next_kl(
            self.settings, self.kl_coefficient, float(self._mean(kl.sum(1).mean())), self.interactions
        )
        return output | critics

    def _play_and_count(self, rows: np.ndarray) -> Rollout:
        """Play rows (B,), write every process's answers into the log of rollouts, and count them."""
        self.dynamics.env.reward.at(self.interactions)
        with self.timed.adding("reward"):  # and what goes with it: prompts, decoding, the world's turns
            played = self.play(rows)
        answers = gather_object(played.answers)
        if self.rollouts is not None:
            self.rollouts.add_texts(self.interactions, answers)
        self.interactions += len(answers)
        return played

    def _logprobs(self, played: Rollout) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (B, T) of the answers under the policy that gave them, and under the reference."""
        ids, mask, keep = *played.whole, played.ids.shape[1]
        self._shape = shape_of(mask, keep)  # one for all of the policy's passes: in equal shapes, equal bits
        old, reference = played.logprobs, None
        if self.settings.old_logprobs == "recompute" or self.use_vllm:
            with self.timed.adding("old"), torch.no_grad():
                old = self._in_parts(self.model, ids, mask, keep) * played.own
        if self.reference is not None:
            with self.timed.adding("reference"), torch.no_grad():
                reference = self._in_parts(self.reference, ids, mask, keep)
        return old, reference

    def _advantages(self, played: Rollout, rewards: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Advantages (B, T) of rewards (B, T), and with a critic the values and returns (B, T) it learns from."""
        config, own, critics = self.settings, played.own, dict[str, Tensor]()
        if self.estimator == "gae":
            with self.timed.adding("value"), torch.no_grad():
                values = self._values(*played.whole, own.shape[1]) * own
            default = 1.0 if self.critic is not None and self.critic.kind == "state" else 0.95
            lam = default if config.gae_lambda is None else config.gae_lambda
            advantages, returns = estimate.gae(rewards, values, own, config.gamma, lam)
            self._log("explained_variance", estimate.explained_variance(values, returns, own))
            self._log("value", estimate.masked_mean(values, own))
            critics = {"old_values": values, "returns": returns}
        else:
            of_group = {"group": estimate.group_relative, "leave_one_out": estimate.leave_one_out}[self.estimator]
            advantages = of_group(rewards.sum(1), config.samples)[:, None] * own
        return estimate.whiten(advantages, own, self._sum) if config.whiten else advantages, critics

    def _log_iteration(self, played: Rollout, kl: Tensor | None) -> None:
        """Log what was played. kl: (B, T), None without a reference, which is not a KL of 0."""
        self._log("reward", played.rewards.sum(1).mean())
        if kl is not None:
            self._log("kl", kl.sum(1).mean())
            self._log("kl_coefficient", torch.tensor(self.kl_coefficient))
        answers = max(played.num_answers, 1)
        self._log("answer_tokens", played.own.sum(1).float().mean() * len(played.own) / answers)
        self._log("valid", torch.tensor(float((self.dynamics.env.finder(played.texts) >= 0).mean())))

    def play(self, rows: np.ndarray) -> Rollout:
        """Sampled episodes of some rows (B,), by vLLM where it is on."""
        pad, device = self._tokenizer.pad_token_id, self.accelerator.device

        @self.timed.adding("generate")
        def sample(prompts: list[Ids]) -> Completions:
            if self.use_vllm:
                ids, logprobs = self._generate_single_turn(prompts, None, {}, 1)
                mask = right_pad([[1] * len(row) for row in ids], 0, torch.long)
                return Completions(right_pad(ids, pad, torch.long), mask, right_pad(logprobs, 0.0, torch.float32))
            with (
                unwrap_model_for_generation(
                    self.model_wrapped,
                    self.accelerator,
                    gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                ) as model,
                self._dist.summon_full_params(self.model_wrapped, recurse=False),
                self.accelerator.autocast(),
            ):
                return complete(
                    model, left_pad(prompts, pad, device), self.lm.max_tokens, self.lm.eos, pad,
                    sample=True, temperature=self.temperature,
                )  # fmt: skip

        return roll_out(self.lm, self.dynamics, rows, sample)

    # -- learning -----------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The next minibatch: TRL plays a new batch when one is due; every later pass gets an order of its own."""
        position = self._step % self.iteration_steps
        if position and position % self.args.steps_per_generation == 0 and self._buffered_inputs:
            parts = self._buffered_inputs
            whole: Any = shuffle_sequence_dict(joined(parts))
            self._buffered_inputs: Any = split_tensor_dict(whole, len(parts))
        return super()._prepare_inputs(generation_batch)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's clipped policy loss, and with a critic its clipped squared error (Schulman et al. 2017)."""
        with self.timed.adding("forward"):
            if self.critic is None:
                return super()._compute_loss(model, inputs)
            config, own = self.settings, inputs["tool_mask"]
            with self.critic.listening() as heard:
                loss = super()._compute_loss(model, inputs)
            values = heard[-1][:, -own.shape[1] :] if self._packed is None else self._packed.answered(heard[-1])
            value_loss = estimate.value_loss(values, inputs["old_values"], inputs["returns"], own, config.value_clip)
            self._log("value_loss", value_loss.detach())
            return loss + config.value_coefficient * value_loss / self.current_gradient_accumulation_steps

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """TRL's, timed: what is neither playing nor the loss is the backward pass."""
        with self.timed.adding("backward"):
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not loss.isfinite():
            raise DivergedError(self.interactions, "the loss", value=self.settings.learning_rate)
        return loss

    # -- keeping ------------------------------------------------------------------------------------------------

    def trainable(self, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Every trained tensor by name: adapters or all weights, the state's projection, the critic."""
        return trained_of(self.accelerator.unwrap_model(self.model), state)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_trained(self.trainable(state_dict), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint) / WEIGHTS)
        state = read_json(Path(resume_from_checkpoint) / STATE)
        self.interactions, self.kl_coefficient = state["interactions"], state["kl_coefficient"]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainer's own checkpoint (no model card); the file that makes it whole comes last."""
        super(GRPOTrainer, self)._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            state = {"interactions": self.interactions, "kl_coefficient": self.kl_coefficient}
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "kept"):
                    state |= callback.kept(folder)
            seal_folder(folder, state)

    # -- small things -------------------------------------------------------------------------------------------

    def _sum(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")

    def _mean(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value.detach().float().to(self.accelerator.device), reduction="mean")

    def _log(self, name: str, value: Tensor) -> None:
        self._metrics["train"][name].append(self._mean(value).item())


def _paid_by_the_environment(**_: Any) -> list[float]:
    raise RuntimeError("rewards come from the environment's dynamics, not from TRL")
