"""Stable-Baselines3's DQN and PPO against our DQN on our environment: CPU-seconds to a raw score on validation.

One run, one thread. All but `plain` have the same state (the clause set), the same network (`SetNetwork`, w(s) . x(a),
the items' features fixed) and the same evaluator, whose time is left out. docs/results/peers.md says what differs.

    python -m benchmarks.peers.sb3 --json sb3.json --markdown docs/results/peers.md
    python -m benchmarks.peers.sb3 --only ppo
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported

import gymnasium
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.common.tables import about, markdown_table, show, write_between_markers
from benchmarks.peers.sb3_adapters import OURS, SIZES, Answering, ItemPreferences, ItemValues, our_network
from instructrec_rl import load_env
from instructrec_rl.algorithms import dqn
from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.algorithms.q_learning.transitions import TransitionLearner
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.env.environment import Environment
from instructrec_rl.env.gym import InstructionVectorEnv
from instructrec_rl.env.sb3 import SB3VecEnv
from instructrec_rl.run.evaluate import Scorer

TARGET = 0.65
STOCK_STEPS = 200_000  # SB3 explores during its first tenth
STOCK_RATES, BATCHED_RATES = (1e-4, 5e-4), (1.5e-3, 5e-4)  # the better ones of a short search
PPO_RATES = (3e-4, 2e-3)  # its default, and the best of a short search
PPO_STEPS = 8  # of 256 environments: the 2,048 interactions between updates that are SB3's default with one
COLUMNS = ("learner", "learning rate", "interactions", "best score", "CPU-s", "of ours")


class RaceOverError(Exception):
    """Training may stop: the target is reached, or the budget is spent."""


@dataclass
class Race:
    """A contender's clock and curve. Time spent in `evaluate` is not the contender's."""

    env: Environment
    budget: float
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # interactions, CPU-s, score
    aside: float = 0.0

    def __post_init__(self) -> None:
        self.scorer = Scorer(self.env)
        self.begin = 0.0

    def start(self) -> None:
        """Everything is built: the clock runs from here."""
        self.begin = time.process_time()

    def evaluate(self, policy: Any, step: int) -> float:
        """Greedy constraint satisfaction on validation; raises RaceOverError when the race is over."""
        now = time.process_time()
        spent = now - self.begin - self.aside
        score = float(self.scorer.metrics["constraints"].score_batch(self._answers(policy)).mean())
        self.curve.append((step, spent, score))
        self.aside += time.process_time() - now
        if score >= TARGET or spent >= self.budget:
            raise RaceOverError
        return score

    def _answers(self, policy: Any) -> Any:
        rows = self.env.spec.rows("validation")
        items = policy.act(self.env.asked(rows), self.env.spec.menu("validation"))
        return self.env.batch(rows, list(self.env.item_texts[items]))


def prepare() -> Environment:
    """A fresh environment for each contender: none profits from rewards that another one had computed."""
    env = load_env("pizza_rec", reward="constraints", state="clauses")
    env.states()  # encoding is nobody's training time
    return env


def run_ours(env: Environment, race: Race, seed: int, every: int) -> None:
    with tempfile.TemporaryDirectory() as folder:

        def validate(policy: dqn.DQNPolicy) -> dict[str, float]:
            return {"constraints": race.evaluate(policy, recorder.step)}

        recorder = Ticking(Path(folder), seed, validate)
        recorder.progress = recorder.tick
        TransitionLearner(env, OURS, seed)  # imports on first use; the peers' were paid at the top of this file
        race.start()
        dqn.learn(env, replace(OURS, eval_every=every, device="cpu"), recorder)


class Ticking(Recorder):
    """Knows the step at which it is asked to validate: one batch of answers after the last report of progress."""

    step = OURS.num_envs

    def tick(self, step: int, total: int, words: str) -> None:
        self.step = step


class Evaluating(BaseCallback):
    """Stops the clock and evaluates every `every` interactions, when what they taught is learnt."""

    def __init__(self, race: Race, every: int):
        super().__init__()
        self.race, self.every, self.due = race, every, every

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.due:
            self.due = self.num_timesteps + self.every
            self.race.evaluate(Answering(self.model), self.num_timesteps)

    def _on_step(self) -> bool:
        return True


def run_stock(env: Environment, race: Race, seed: int, every: int, learning_rate: float, total: int) -> None:
    """SB3 as its users run it: one environment, default batch, update and exploration settings, Adam."""
    single = gymnasium.make(f"instructrec/pizza_rec-v{env.spec.version}", state="clauses", reward="constraints")
    options = {"learning_rate": learning_rate, "buffer_size": 50_000}  # a million, the default, would need 25 GB
    model = DQN(ItemValues, single, policy_kwargs=our_network(env), seed=seed, device="cpu", **options)
    race.start()
    model.learn(total, callback=Evaluating(race, every))


def run_plain(env: Environment, race: Race, seed: int, every: int, learning_rate: float, total: int) -> None:
    """The first lines of SB3's own guide on our environment's defaults: a plain MLP on the sentence embedding."""
    single = gymnasium.make(f"instructrec/pizza_rec-v{env.spec.version}", reward="constraints")
    model = DQN("MlpPolicy", single, learning_rate=learning_rate, buffer_size=50_000, seed=seed, device="cpu")
    race.start()
    model.learn(total, callback=Evaluating(race, every))


def run_batched(env: Environment, race: Race, seed: int, every: int, learning_rate: float, total: int) -> None:
    """SB3 over our vector environment with our batch, updates, optimiser and schedule of the learning rate."""
    many = SB3VecEnv(InstructionVectorEnv(env, OURS.num_envs))
    adamw = {
        "optimizer_class": torch.optim.AdamW,
        "optimizer_kwargs": {"weight_decay": OURS.weight_decay, "fused": True},
    }
    model = DQN(
        ItemValues,
        many,
        policy_kwargs=our_network(env, OURS.dropout) | adamw,
        seed=seed,
        device="cpu",
        learning_rate=lambda remaining: learning_rate * min(1.0, 2 * remaining + 1e-3),
        buffer_size=50_000 // OURS.num_envs * OURS.num_envs,
        batch_size=SIZES.batch_size,
        train_freq=1,
        gradient_steps=SIZES.updates_per_step,
        learning_starts=OURS.num_envs,
    )
    race.start()
    model.learn(total, callback=Evaluating(race, every))


def run_ppo(env: Environment, race: Race, seed: int, every: int, learning_rate: float, total: int) -> None:
    """SB3's PPO over our vector environment with our batch, else with its own defaults, on our state and network."""
    many = SB3VecEnv(InstructionVectorEnv(env, OURS.num_envs))
    options = {"learning_rate": learning_rate, "n_steps": PPO_STEPS, "batch_size": SIZES.batch_size}
    model = PPO(ItemPreferences, many, policy_kwargs=our_network(env), seed=seed, device="cpu", **options)
    race.start()
    model.learn(total, callback=Evaluating(race, every))


def compete(run: Callable[..., None], budget: float, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    env = prepare()
    race = Race(env, budget)
    with contextlib.suppress(RaceOverError):
        run(env, race, **options)
    step, spent, score = race.curve[-1]
    reached = score >= TARGET
    best = max(score for _, _, score in race.curve)
    options.pop("every")
    return {"reached": reached, "cpu_s": spent, "interactions": step, "score": score, "best_score": best} | {
        "options": options,
        "curve": race.curve,
    }


PEERS = {
    "batched": ("SB3's DQN, our VectorEnv", run_batched, 100_000),
    "stock": ("SB3's DQN, stock loop", run_stock, STOCK_STEPS),
    "plain": ("SB3's DQN, MlpPolicy, sentence", run_plain, STOCK_STEPS),
    "ppo": ("SB3's PPO, our VectorEnv", run_ppo, 100_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures and curves here")
    parser.add_argument("--markdown", type=Path, help="rewrite the table of this page, between its markers")
    parser.add_argument("--only", nargs="+", choices=PEERS, help="these of the peers, beside ours")
    parser.add_argument("--stock-budget", type=float, default=600.0, help="CPU-s after which stock SB3 is stopped")
    parser.add_argument("--batched-budget", type=float, default=300.0, help="CPU-s, for those on our VectorEnv")
    parser.add_argument("--stock-rates", type=float, nargs="*", default=STOCK_RATES)
    parser.add_argument("--batched-rates", type=float, nargs="*", default=BATCHED_RATES)
    parser.add_argument("--ppo-rates", type=float, nargs="*", default=PPO_RATES)
    parser.add_argument("--every", type=int, default=1_024, help="interactions between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.only and options.markdown:
        parser.error("--markdown writes the whole table, so it goes without --only")
    torch.set_num_threads(1)
    common = {"seed": options.seed, "every": options.every}
    runs = [{"name": "ours", **compete(run_ours, float("inf"), **common)}]
    vector, stock = options.batched_budget, options.stock_budget
    terms = {
        "batched": (vector, options.batched_rates),
        "stock": (stock, options.stock_rates),
        "plain": (stock, options.stock_rates),
        "ppo": (vector, options.ppo_rates),
    }
    for peer in options.only or PEERS:
        name, run, total = PEERS[peer]
        budget, rates = terms[peer]
        for rate in rates:
            runs.append({"name": name, **compete(run, budget, learning_rate=rate, total=total, **common)})
    report(runs, options.json, options.markdown)


def report(runs: list[dict[str, Any]], json_path: Path | None, markdown: Path | None) -> None:
    ours = runs[0]["cpu_s"]
    lines = []
    for run in runs:
        rate = run["options"].get("learning_rate", SIZES.learning_rate)
        bound = "" if run["reached"] else "> "
        numbers = (f"{run['interactions']:,}", f"{run['best_score']:.3f}", f"{bound}{run['cpu_s']:.1f}")
        lines.append([run["name"], f"{rate:g}", *numbers, f"{bound}{run['cpu_s'] / ours:.1f}x"])
    versions = about(("stable-baselines3", "gymnasium", "numpy", "torch"))
    caption = "One thread; " + ", ".join(f"{name} {number}" for name, number in versions.items())
    show(f"CPU-seconds to {TARGET} of the constraints on validation", COLUMNS, lines, caption)
    if json_path:
        write_json_atomic(json_path, {"versions": versions, "threads": 1, "target": TARGET, "runs": runs})
    if markdown:
        write_between_markers(markdown, "sb3", f"{markdown_table(COLUMNS, lines)}\n\n{caption}")


if __name__ == "__main__":
    main()
