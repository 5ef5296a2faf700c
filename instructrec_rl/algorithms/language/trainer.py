"""PPO, GRPO and RLOO as one small subclass of TRL's GRPOTrainer.

TRL gives the loop, the clipped loss, accelerate with all it drives (several processes, FSDP, DeepSpeed, mixed
precision, gradient checkpointing), PEFT and vLLM. Ours are the episodes over the batched dynamics, KL in the reward,
a critic with GAE, and checkpoints that are whole or not there. docs/ppo.md names every logged metric and what differs
from the papers; tests/algorithms/test_trl_contract.py fails where TRL renames a hook that is overridden here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from instructrec_rl.algorithms.language.critic import Critic
from instructrec_rl.algorithms.language.packing import Packed, Shape, pack, shape_of
from instructrec_rl.algorithms.language.rollout import Rollout, roll_out
from instructrec_rl.algorithms.language.trained_weights import WEIGHTS, load_trained, save_trained, trained_of
from instructrec_rl.algorithms.language.trl_arguments import arguments
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.policies.language.generate import (
    Completions,
    Ids,
    complete,
    entropy,
    left_pad,
    log_distributions,
    right_pad,
)

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.rollouts import RolloutLog
    from instructrec_rl.config.schema import PPOConfig
    from instructrec_rl.env.environment import Dynamics
    from instructrec_rl.policies.language.models import LanguageModel

STATE = "instructrec.json"  # written last: a checkpoint that has it is whole
ESTIMATORS = {"ppo": "gae", "grpo": "group", "rloo": "leave_one_out"}
LARGE_VOCABULARY = 16_384  # from here on TRL's fused head, which never holds all logits, is worth its second pass


class PolicyTrainer(GRPOTrainer):
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
        self.timed: dict[str, float] = dict.fromkeys(
            ("generate", "reward", "old", "reference", "value", "forward", "backward", "optimizer"), 0.0
        )
        self.estimator = ESTIMATORS[config.name]
        self.interactions, self.kl_coefficient = 0, config.kl
        self._shape: Shape | None = None  # of the iteration's batch
        self._packed: Packed | None = None  # how the policy's last forward pass had its rows
        samples = config.samples
        groups = config.batch_size // samples
        iterations = max(1, math.ceil(config.interactions / config.batch_size))
        rng = np.random.default_rng(seed)
        passes = -(-iterations * groups // len(dynamics.rows))
        order = np.concatenate([rng.permutation(dynamics.rows) for _ in range(passes)])[: iterations * groups]
        super().__init__(
            model=lm.model,
            reward_funcs=_paid_by_the_environment,
            args=arguments(config, folder, seed, iterations, lm),
            train_dataset=Dataset.from_dict({"row": order}),
            processing_class=lm.tokenizer,
            callbacks=callbacks,
        )
        self.num_generations = samples  # TRL wants at least 2; PPO needs no group
        self.reference: Any = None
        if reference is not None:
            self.reference = self.accelerator.prepare_model(reference.model.eval(), evaluation_mode=True)

    @property
    def iteration_steps(self) -> int:
        """Gradient steps of one iteration."""
        return self.args.steps_per_generation * self.num_iterations

    # -- playing ------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Play the episodes of one iteration and give what `_compute_loss` reads."""
        config = self.settings
        self.dynamics.env.reward.at(self.interactions)
        with self.clock("reward"):  # and what goes with it: prompts, decoding, the world's turns
            played = self.play(np.array([row["row"] for row in inputs]))
        answers = gather_object(played.answers)
        if self.rollouts is not None:
            self.rollouts.add_texts(self.interactions, answers)
        self.interactions += len(answers)
        ids = torch.cat([played.prompts, played.ids], 1)
        mask = torch.cat([played.prompt_mask, played.mask], 1)
        keep, own = played.ids.shape[1], played.own
        self._shape = shape_of(mask, keep)  # one for all of the policy's passes: in equal shapes, equal bits
        old = played.logprobs
        if config.old_logprobs == "recompute" or self.use_vllm:
            with self.clock("old"), torch.no_grad():
                old = self._in_parts(self.model, ids, mask, keep) * own
        kl = torch.zeros_like(old)
        against = None
        if self.reference is not None:
            with self.clock("reference"), torch.no_grad():
                against = self._in_parts(self.reference, ids, mask, keep)
            kl = (old - against) * own
        in_loss = self.estimator == "group"  # GRPO has its KL in the loss, the others in the reward
        rewards = played.rewards if in_loss else played.rewards - self.kl_coefficient * kl
        output = {
            "prompt_ids": played.prompts,
            "prompt_mask": played.prompt_mask,
            "completion_ids": played.ids,
            "completion_mask": played.mask,
            "tool_mask": own,
            "old_per_token_logps": old,
            "num_items_in_batch": self._sum(own.sum().float()),
        }
        if in_loss and against is not None:
            output["ref_per_token_logps"] = against
        advantage, of_critic = self._advantages(rewards, ids, mask, own)
        output |= of_critic
        if config.whiten:
            advantage = estimate.whiten(advantage, own, self._sum)
        output["advantages"] = advantage
        self.beta = self.kl_coefficient if in_loss else 0.0
        per_episode = kl.sum(1).mean()
        self._log("reward", played.rewards.sum(1).mean())
        if against is not None:  # without a reference there is no KL, which is not a KL of 0
            self._log("kl", per_episode)
            self._log("kl_coefficient", torch.tensor(self.kl_coefficient))
        self._log("answer_tokens", own.sum(1).float().mean() * len(inputs) / max(played.num_answers, 1))
        self._log("valid", torch.tensor(float((self.dynamics.env.finder(played.texts) >= 0).mean())))
        self._next_kl(float(self._mean(per_episode)))
        return output

    def _advantages(self, rewards: Tensor, ids: Tensor, mask: Tensor, own: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Advantages (B, T), and with a critic the values and returns (B, T) that it learns from."""
        config, keep = self.settings, own.shape[1]
        if self.estimator != "gae":
            of_group = {"group": estimate.group_relative, "leave_one_out": estimate.leave_one_out}[self.estimator]
            return of_group(rewards.sum(1), config.samples)[:, None] * own, {}
        with self.clock("value"), torch.no_grad():
            values = self._values(ids, mask, keep) * own
        of_state = self.critic is not None and self.critic.kind == "state"
        lam = config.gae_lambda if config.gae_lambda is not None else 1.0 if of_state else 0.95
        advantage, returns = estimate.gae(rewards, values, own, config.gamma, lam)
        self._log("explained_variance", estimate.explained_variance(values, returns, own))
        self._log("value", estimate.masked_mean(values, own))
        return advantage, {"old_values": values, "returns": returns}

    def play(self, rows: np.ndarray) -> Rollout:
        """Sampled episodes of some rows (B,), by vLLM where it is on."""
        pad, device = self._tokenizer.pad_token_id, self.accelerator.device

        @self.clock("generate")
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

    def _in_parts(self, model: Any, ids: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Log-probabilities (B, T), a minibatch at a time."""

        def of(rows: Tensor) -> Tensor:
            return self._get_per_token_logps_and_entropies(model, ids[rows], mask[rows], keep)[0]

        return self._minibatches(of, mask)

    def _minibatches(self, of: Callable[[Tensor], Tensor], mask: Tensor) -> Tensor:
        """`of` on minibatches of rows of like lengths, put together in the rows' own order."""
        order = mask.sum(1).argsort(stable=True)
        parts = [of(rows) for rows in order.split(self.settings.minibatch_size)]
        return torch.cat(parts)[order.argsort()]

    def _values(self, ids: Tensor, mask: Tensor, keep: int) -> Tensor:
        """The critic's values (B, T), a minibatch at a time."""
        critic = self.critic
        assert critic is not None

        def of(rows: Tensor) -> Tensor:
            packed = pack(ids[rows], mask[rows], keep)
            with self.accelerator.autocast():
                if critic.kind != "shared":
                    return packed.answered(critic(packed.ids, packed.mask))
                critic.asked = True
                self.model(input_ids=packed.ids, attention_mask=packed.mask, logits_to_keep=1, use_cache=False)
                critic.asked = False
                return packed.answered(critic.take())

        return self._minibatches(of, mask)

    def _next_kl(self, kl: float) -> None:
        """The KL coefficient of the next iteration: constant, falling to a tenth, or adapted to its target."""
        config = self.settings
        if config.kl_control == "adaptive":
            self.kl_coefficient = estimate.adapt_kl(
                self.kl_coefficient, kl, config.kl_target, config.batch_size, config.kl_horizon
            )
        elif config.kl_control == "annealed":
            done = min(1.0, self.interactions / config.interactions)
            self.kl_coefficient = config.kl * (1 - 0.9 * done)

    # -- learning -----------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The next minibatch: TRL plays a new batch when one is due; every later pass gets an order of its own."""
        position = self._step % self.iteration_steps
        if position and position % self.args.steps_per_generation == 0 and self._buffered_inputs:
            parts = self._buffered_inputs
            whole = {
                key: value if value.dim() == 0 else torch.cat([part[key] for part in parts])
                for key, value in parts[0].items()
            }
            self._buffered_inputs = split_tensor_dict(shuffle_sequence_dict(whole), len(parts))
        return super()._prepare_inputs(generation_batch)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **options: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities (B, T) of the last T tokens, and entropies where asked. A small head is taken whole."""
        self._packed = None
        if self.lm.vocabulary >= LARGE_VOCABULARY and model is not self.reference:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, **options
            )
        self._packed = packed = pack(
            input_ids, attention_mask, logits_to_keep, None if model is self.reference else self._shape
        )
        width, start = packed.shape
        with self.accelerator.autocast():
            output = model(
                input_ids=packed.ids, attention_mask=packed.mask, logits_to_keep=width - start + 1, use_cache=False
            )
        all_logps = log_distributions(output.logits[:, :-1], self.temperature)
        tokens = packed.ids[:, start:].clamp(max=all_logps.shape[2] - 1)  # a prompt's soft tokens are no words
        logps = packed.answered(all_logps.gather(2, tokens[..., None])[..., 0], start)
        if not options.get("compute_entropy"):
            return logps, None, None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.entropy > 0):  # else it is but logged
            return logps, packed.answered(entropy(all_logps), start), None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's clipped policy loss, and with a critic its clipped squared error (Schulman et al. 2017)."""
        with self.clock("forward"):
            if self.critic is None:
                return super()._compute_loss(model, inputs)
            config, own, old = self.settings, inputs["tool_mask"], inputs["old_values"]
            self.critic.asked = True
            loss = super()._compute_loss(model, inputs)
            self.critic.asked = False
            said = self.critic.take()
            values = said[:, -own.shape[1] :] if self._packed is None else self._packed.answered(said)
            near = old + (values - old).clamp(-config.value_clip, config.value_clip)
            errors = torch.maximum((values - inputs["returns"]) ** 2, (near - inputs["returns"]) ** 2)
            value_loss = 0.5 * estimate.masked_mean(errors, own)
            self._log("value_loss", value_loss.detach())
            return loss + config.value_coefficient * value_loss / self.current_gradient_accumulation_steps

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """TRL's, timed: what is neither playing nor the loss is the backward pass."""
        before, started = sum(self.timed.values()), time.perf_counter()
        output = super().training_step(model, inputs, num_items_in_batch)
        self.timed["backward"] += time.perf_counter() - started - (sum(self.timed.values()) - before)
        return output

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
        state = json.loads((Path(resume_from_checkpoint) / STATE).read_text())
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
            write_json_atomic(folder / STATE, state)

    # -- small things -------------------------------------------------------------------------------------------

    @contextmanager
    def clock(self, what: str) -> Iterator[None]:
        """Adds the seconds spent inside to `timed[what]`, less what was timed inside of it."""
        before, started = sum(self.timed.values()), time.perf_counter()
        yield
        self.timed[what] += time.perf_counter() - started - (sum(self.timed.values()) - before)

    def _sum(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")

    def _mean(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value.detach().float().to(self.accelerator.device), reduction="mean")

    def _log(self, name: str, value: Tensor) -> None:
        self._metrics["train"][name].append(self._mean(value).item())


def _paid_by_the_environment(**_: Any) -> list[float]:
    raise RuntimeError("rewards come from the environment's dynamics, not from TRL")
