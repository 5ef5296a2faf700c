"""What the PPO benchmarks' contenders share: the policy as our stages left it, its reference, a clock, and a judge.

Nothing here imports TRL, so that the peer's process may use it with another version of TRL.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
from safetensors.torch import load_file

from benchmarks.common.whole_runs import finished
from instructrec_rl import load_env
from instructrec_rl.algorithms.language.stage_files import GENERATOR
from instructrec_rl.config.schema import PolicyConfig, PPOConfig
from instructrec_rl.env.environment import Environment
from instructrec_rl.policies.language.models import LanguageModel, load_language_model, own_copy
from instructrec_rl.policies.language.policy import LanguagePolicy
from instructrec_rl.policies.language.prompts import bind_states
from instructrec_rl.run.evaluate import Scorer, play

WEIGHTS = Path("checkpoints") / "stage-supervised.safetensors"  # where PPO starts, and what the KL is taken to


def settings(episodes: int, critic: str, batch_size: int = 256) -> PPOConfig:
    """Ours as the contest has it: the KL is to where PPO starts, at the peer's own default coefficient."""
    return PPOConfig(
        interactions=episodes, critic=critic, batch_size=batch_size, kl=0.05, kl_control="fixed", device="cpu"
    )


def warm_start(folder: Path, seed: int) -> Path:
    """A run folder with the weights after our verbaliser and supervised training, of which one iteration follows."""
    if not (folder / WEIGHTS).exists():
        options = ["env=pizza_rec", "reward=constraints", "algo=ppo", "algo.interactions=256", "baselines=none"]
        finished(folder, [*options, f"seed={seed}"])
    return folder


@dataclass
class Start:
    """One seed's start, the same for every contender."""

    env: Environment
    lm: LanguageModel
    reference: LanguageModel


def load_start(folder: Path, seed: int) -> Start:
    """The policy that `warm_start` left, and a frozen copy, over pizza_rec with reward=constraints."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # options of transformers' that TRL sets itself
    torch.manual_seed(seed)
    env = load_env("pizza_rec", reward="constraints")
    lm = load_language_model(env, PolicyConfig(name="tiny"))
    weights = load_file(folder / WEIGHTS)
    weights.pop(GENERATOR)  # each contender begins at its seed
    lm.model.load_state_dict(weights)  # all of it: the table of states is no part of the weights
    bind_states(lm, env.states)  # before it is copied
    return Start(env, lm, dataclasses.replace(lm, model=own_copy(lm.model).requires_grad_(False)))


def validation(env: Environment, lm: LanguageModel) -> float:
    """Constraints satisfied by greedy answers to the validation split."""
    answers = play(LanguagePolicy(lm, "generate", env.items), env, "validation")
    return float(Scorer(env).metrics["constraints"].score_batch(env.batch(answers.rows, answers.responses(env))).mean())


class Meter:
    """CPU-seconds and memory of what stands between `with` and its end.

    cpu_s: of the process; peak_mb: the most memory it held at once; grown_mb: that less what it held at the beginning.
    Linux only: the kernel's high-water mark is set back at the beginning, so that loading does not count.
    """

    cpu_s = peak_mb = grown_mb = 0.0

    def __enter__(self) -> Meter:
        Path("/proc/self/clear_refs").write_text("5")
        self._before, self._began = _memory("VmRSS"), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s = time.process_time() - self._began
        self.peak_mb = _memory("VmHWM")
        self.grown_mb = self.peak_mb - self._before


def _memory(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024
