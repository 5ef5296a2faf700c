"""The stages before reinforcement learning, in order, each done once and kept."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instructrec_rl.algorithms.language import stages
from instructrec_rl.algorithms.language.stage_files import alone, key_of_stage, load_stage, save_stage
from instructrec_rl.core.hardware import num_processes
from instructrec_rl.policies.language.models import LanguageModel, own_copy

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import PPOConfig
    from instructrec_rl.env.environment import Environment


class Plan:
    """The stages before reinforcement, in order; each one's weights are kept in the run's folder once it is done."""

    def __init__(self, env: Environment, config: PPOConfig, recorder: Recorder, lm: LanguageModel, policy: Any):
        self.env, self.config, self.recorder, self.lm, self.policy = env, config, recorder, lm, policy
        self._reused: dict[str, float] = {}  # seconds that the stage took in the run it was taken from, if it was
        # a model that comes trained can write, and what is cheap for a small one takes hours
        default = (10_000, 300) if lm.made_here else (0, 0)
        self._number = default[0] if config.verbalise is None else config.verbalise
        self._demos = default[1] if config.demos is None else config.demos

    def run(self) -> LanguageModel | None:
        """Run them all; returns the reference that the KL is taken to, None where it costs nothing."""
        config, lm = self.config, self.lm
        if not lm.made_here and not self.recorder.load_stage("start"):
            self.recorder.stage("start", self.policy)  # a model that comes trained can do something before
        reference = self._copy() if config.kl_to == "start" else None
        if self._number:
            self._stage("verbaliser", self._verbalise)
        if config.kl_to == "verbaliser":
            reference = self._copy()
        if self._demos:
            self._stage("supervised", self._demonstrate)
        if config.best_of_n:
            self._stage("best_of_n", self._improve)
        return reference if reference is not None else self._copy()

    def _copy(self) -> LanguageModel | None:
        if not self.config.kl:
            return None
        return dataclasses.replace(self.lm, model=own_copy(self.lm.model).requires_grad_(False))

    def _stage(self, name: str, work: Callable[[], int]) -> None:
        """Do one stage, or read what it left when the run was stopped later. work: returns the answers it tried."""
        path = self.recorder.folder / "checkpoints" / f"stage-{name}.safetensors"
        torch.manual_seed(self.recorder.seed)  # so that a resumed run goes on with the same draws
        if path.exists() and self.recorder.load_stage(name) and load_stage(path, self.lm.model) is not None:
            return
        self._reused = {}
        tried = work()
        self.recorder.stage(name, self.policy, tried, self._reused)
        if self.recorder.writes:
            save_stage(path, self.lm.model, self._reused)

    def _supervise(self, pairs: stages.Pairs, words: str) -> int:
        size = max(1, self.config.sft_batch_size // num_processes())

        def seen(pairs_seen: int, total: int) -> None:
            self._seen(pairs_seen, total, f"before learning: {words}")

        stages.supervise(self.lm, pairs, size, self.config.sft_learning_rate, self.recorder.seed, seen)
        return 0

    def _supervise_once(self, pairs: stages.Pairs, name: str) -> int:
        """A stage that is nothing but supervised training: taken from `algo.stage_cache` where it is there."""
        config, seed = self.config, self.recorder.seed
        if not config.stage_cache or num_processes() > 1:  # several processes must all do the same
            return self._supervise(pairs, name)
        settings = {"stage": name, "seed": seed, "batch": config.sft_batch_size, "rate": config.sft_learning_rate}
        key = key_of_stage(self.lm.model, pairs, settings)
        path = Path(config.stage_cache).expanduser() / f"{name}-{key[:32]}.safetensors"
        words = f"before learning: {name}, which another run is making"
        with alone(path, lambda: self._seen(0, len(pairs[0]), words)):
            taken = load_stage(path, self.lm.model) if path.exists() else None
            if taken is not None:
                self._reused = taken
            else:
                wall, cpu = time.perf_counter(), time.process_time()
                self._supervise(pairs, name)
                spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
                save_stage(path, self.lm.model, {name: round(seconds, 3) for name, seconds in spent.items()})
        return 0

    def _seen(self, done: int, total: int, words: str) -> None:
        """Show how far a stage is; at Ctrl-C it is left at once, to be done anew by a resumed run."""
        self.recorder.progress(done, total, words)
        if self.recorder.stopping:
            raise KeyboardInterrupt

    def _verbalise(self) -> int:
        rng = np.random.default_rng((self.recorder.seed, 1))
        return self._supervise_once(stages.random_pairs(self.env, self.lm, self._number, rng), "verbaliser")

    def _demonstrate(self) -> int:
        rng = np.random.default_rng((self.recorder.seed, 2))
        rows = stages.demonstrations(self.env, self._demos, rng)
        pairs = stages.demonstration_pairs(self.env, self.lm, rows, self.config.demo_passes, 0.25, rng)
        return self._supervise_once(pairs, "supervised")

    def _improve(self) -> int:
        """Rounds of best-of-n, with fewer samples after the first; returns the answers tried."""
        config, best = self.config, stages.BestSoFar(self.env)
        first, later = config.best_of_n_samples, max(2, config.best_of_n_samples // 2)
        total = len(best.rows) * (first + later * (config.best_of_n - 1))
        tried = 0

        def seen(number: int) -> None:
            nonlocal tried
            tried += number
            mean = best.scores[best.scores >= 0].mean()
            self._seen(tried, total, f"before learning: best of n, mean of the best {mean:.3f}")

        for k in range(config.best_of_n):
            best.sample(self.lm, later if k else first, seen)
            self._supervise(best.pairs(self.lm), f"best of n, round {k + 1}")
        return tried
