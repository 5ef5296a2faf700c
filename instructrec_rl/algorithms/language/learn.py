"""From an environment to a trained language-model policy: the stages before reinforcement, then the trainer."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from instructrec_rl.algorithms.language.checkpoint_folders import folders_newest_first, read_folder
from instructrec_rl.algorithms.language.critic import attach, detach
from instructrec_rl.algorithms.language.trained_weights import save_trained
from instructrec_rl.algorithms.language.trainer import PolicyTrainer
from instructrec_rl.algorithms.language.warm_start import Plan
from instructrec_rl.algorithms.loop.checkpoints import first_whole
from instructrec_rl.algorithms.loop.recorder import is_due
from instructrec_rl.core import InputError
from instructrec_rl.core.hardware import num_processes, pick_device
from instructrec_rl.policies.language.models import LanguageModel, load_language_model, restore_forward
from instructrec_rl.policies.language.policy import LanguagePolicy
from instructrec_rl.policies.language.prompts import bind_states, write_prompts, write_turn

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import PolicyConfig, PPOConfig
    from instructrec_rl.env.environment import Environment

BEST = "best.safetensors"


def learn(env: Environment, config: PPOConfig, recorder: Recorder, policy: PolicyConfig) -> LanguagePolicy:
    """Make or load the language model, run its stages, train it; returns it as it was best on validation.

    The same seed, thread count and kind of machine give the same run bit for bit, also when it is stopped and resumed.
    """
    _check_sizes(config)
    _quieten()
    torch.manual_seed(recorder.seed)
    lm = load_language_model(env, policy)
    lm.model.to(pick_device(config.device)[0])
    bind_states(lm, env.states)
    kind = config.critic if config.critic != "auto" else "separate" if lm.input == "text" else "state"
    _check_model(config, kind, lm, env)
    answers = LanguagePolicy(lm, policy.decode, env.items)
    reference = Plan(env, config, recorder, lm, answers).run()
    critic = attach(lm.model, kind) if config.name == "ppo" else None
    trainer, follower = _trainer(env, config, recorder, lm, reference, critic, answers)
    last = follower.newest()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    restore_forward(lm.model)
    if critic is not None:
        detach(lm.model)
    if recorder.stopping and not follower.done:
        raise KeyboardInterrupt
    lm.model.load_state_dict({k: v for k, v in follower.best.items() if not k.startswith("critic.")}, strict=False)
    recorder.best_step = follower.best_step
    lm.model.eval()
    return answers


def _quieten() -> None:
    """Silence what the libraries say of their own affairs: bars of a second, and options that TRL sets itself."""
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*no accelerator", category=UserWarning)


def _check_sizes(config: PPOConfig) -> None:
    """Raise InputError for sizes that do not fit each other."""
    for key, size in (("samples", config.samples), ("minibatch_size", config.minibatch_size)):
        if config.batch_size % size:
            raise InputError(f"algo.batch_size={config.batch_size} must be a multiple of algo.{key}={size}")
    world = num_processes()
    if config.minibatch_size % world or config.batch_size // world % config.samples:
        raise InputError(
            f"algo.minibatch_size={config.minibatch_size} and the answers of a group (algo.samples={config.samples}) "
            f"must divide among {world} processes"
        )
    if config.name == "ppo" and config.samples > 1:
        raise InputError("algo.samples is for algo=grpo and algo=rloo; PPO has a critic instead")


def _check_model(config: PPOConfig, critic: str, lm: LanguageModel, env: Environment) -> None:
    """Raise InputError, before anything is trained, for what the model cannot do."""
    if critic == "state" and lm.input == "text":
        raise InputError("algo.critic=state reads the state, which policy.input=text leaves out")
    if config.vllm and lm.input != "text":
        raise InputError("algo.vllm=true needs policy.input=text: vLLM knows no soft tokens")
    if config.vllm and importlib.util.find_spec("vllm") is None:
        raise InputError("algo.vllm=true needs the package vllm, and a GPU: pip install vllm")
    longest = max(map(len, write_prompts(lm, env.asked(np.arange(len(env.examples))))))
    between = max(map(len, write_turn(lm, [tenths / 10 for tenths in range(11)])))
    whole = longest + env.spec.turns * lm.max_tokens + (env.spec.turns - 1) * between
    if whole > lm.context:
        raise InputError(
            f"env.turns={env.spec.turns}: an episode may have {whole} tokens, the longest prompt {longest} of them and "
            f"each answer policy.max_tokens={lm.max_tokens}; that is more than the model's context of {lm.context}"
        )


def _trainer(
    env: Environment, config: PPOConfig, recorder: Recorder, lm: LanguageModel, reference: Any, critic: Any, policy: Any
) -> tuple[PolicyTrainer, Follower]:
    follower = Follower(env, config, recorder, policy)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    trainer = PolicyTrainer(
        lm, env.dynamics("train"), config, reference, critic, recorder.checkpoints, recorder.seed, [follower],
        recorder.rollouts,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    follower.trainer = trainer
    return trainer, follower


class Follower(TrainerCallback):
    """Between iterations: evaluates, logs, shows progress, keeps the best weights, saves, and stops where asked."""

    trainer: PolicyTrainer

    def __init__(self, env: Environment, config: PPOConfig, recorder: Recorder, policy: LanguagePolicy):
        self.env, self.config, self.recorder, self.policy = env, config, recorder, policy
        self.metric = env.spec.metrics[0]
        self.best: dict[str, Tensor] = {}
        self.best_score, self.best_step, self.done = -math.inf, 0, False
        self._scores: dict[str, float] = {}  # of the last evaluation, to be logged
        self._last = 0  # interactions at the end of the iteration before
        self._began = 0.0

    def newest(self) -> Path | None:
        """The newest whole checkpoint, whose best weights and scores are taken in; older lines of the log are kept."""
        recorder = self.recorder
        loaded = first_whole(
            folders_newest_first(recorder.checkpoints),
            read_folder,
            lambda content: recorder.journal.check(content[1].get("logs")),
        )
        if loaded is None:
            recorder.go_on_from(-1, {})
            return None
        folder, state = loaded
        recorder.go_on_from(state["step"], state["spent"], state.get("logs"))
        self.best_score, self.best_step, self._last = state["best_score"], state["best_step"], state["step"]
        self.best = load_file(folder / BEST)
        return folder

    def kept(self, folder: Path) -> dict[str, Any]:  # called in the first process only
        """What a checkpoint of the trainer holds beside its own: the best weights so far, and how far it is."""
        save_trained(self.best, folder / BEST)
        reached = {"best_score": self.best_score, "best_step": self.best_step, "step": self.trainer.interactions}
        return {**reached, **self.recorder.vouched()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The warm start is the first that may be kept."""
        if not self.best:
            self._evaluate()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the optimizer's clock."""
        self._began = time.perf_counter()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the optimizer's clock."""
        self.trainer.timed["optimizer"] += time.perf_counter() - self._began

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """At the end of an iteration, see what is due."""
        trainer, config, recorder = self.trainer, self.config, self.recorder
        if state.global_step % trainer.iteration_steps:
            return
        now, before = trainer.interactions, self._last
        self._last = now
        self.done = now >= config.interactions or state.global_step >= state.max_steps
        if self.done or is_due(config.eval_every, before, now):
            self._evaluate()
            control.should_log = True
        recorder.progress(now, config.interactions, f"validation {self.metric} {self.best_score:.3f}")
        due = is_due(config.checkpoint_every, before, now)
        control.should_save = self.done or recorder.stopping or due
        control.should_training_stop = self.done or recorder.stopping or recorder.stop_learning

    def _evaluate(self) -> None:
        scores = self.recorder.validate(self.policy)
        self._scores = {f"validation/{name}": value for name, value in scores.items()}
        if scores[self.metric] > self.best_score:
            self.best_score, self.best_step = scores[self.metric], self.trainer.interactions
            self.best = {name: value.detach().cpu().clone() for name, value in self.trainer.trainable().items()}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write the means since the last line, where the seconds went, and what validation said."""
        if logs is None or "reward" not in logs:
            return
        kept = {name: value for name, value in logs.items() if name in LOGGED and value is not None}
        shown = {LOGGED[name]: round(float(value), 6) for name, value in kept.items()}
        shown |= {f"seconds/{name}": round(value, 3) for name, value in self.trainer.timed.take().items()}
        self.recorder.log(self.trainer.interactions, **shown, **self._scores)


LOGGED = {  # TRL's and our names in the trainer -> ours in metrics.jsonl
    "reward": "reward",
    "valid": "valid",
    "kl": "kl",
    "kl_coefficient": "kl_coefficient",
    "entropy": "entropy",
    "loss": "loss",
    "value_loss": "value_loss",
    "value": "value",
    "explained_variance": "explained_variance",
    "clip_ratio/region_mean": "clip_fraction",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "answer_tokens": "answer_tokens",
}
