"""One run of our trainer for trl_ppo.py: writes what it came to as JSON.

python -m benchmarks.peers.trl_ppo_ours WARM_START RESULT.json --seed 0 --episodes 8192 --critic separate
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from benchmarks.peers.ppo_setup import Meter, load_start, settings, validation  # first: it sets the threads
from instructrec_rl.algorithms.language.critic import attach
from instructrec_rl.algorithms.language.trainer import PolicyTrainer
from instructrec_rl.core.files import write_json_atomic


class Curve(TrainerCallback):
    """The mean reward of each iteration's samples."""

    trainer: PolicyTrainer

    def __init__(self) -> None:
        self.rewards: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.trainer.iteration_steps == 0:
            self.rewards.append(self.trainer._metrics["train"]["reward"][-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("warm_start", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=8_192)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--critic", default="separate")
    options = parser.parse_args()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    start = load_start(options.warm_start, options.seed)
    before = validation(start.env, start.lm)
    curve = Curve()
    with tempfile.TemporaryDirectory() as folder:
        config = settings(options.episodes, options.critic, options.batch)
        critic = attach(start.lm.model, config.critic)
        trainer = PolicyTrainer(
            start.lm, start.env.dynamics("train"), config, start.reference, critic, Path(folder), options.seed, [curve]
        )
        trainer.remove_callback(PrinterCallback)
        curve.trainer = trainer
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
