"""Stable-Baselines3's DQN and PPO against our DQN on our environment: CPU-seconds to a raw score on validation.

One run, one thread. All but `plain` have the same state (the clause set), the same network (`SetNetwork`, w(s) . x(a),
the items' features fixed) and the same evaluator, whose time is left out. docs/peers.md says what differs.

    python benchmarks/sb3.py --json sb3.json --markdown docs/peers.md
    python benchmarks/sb3.py --only ppo
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
import numpy as np
import torch
from environment import about, show  # the script beside this one
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import MultiInputPolicy, QNetwork
from tables import markdown_table, write_between_markers

from instructrec_rl import load_env
from instructrec_rl.algorithms import dqn
from instructrec_rl.config import DQNConfig
from instructrec_rl.env.environment import Environment
from instructrec_rl.env.gym import InstructionVectorEnv
from instructrec_rl.env.states import Asked
from instructrec_rl.evaluate import Scorer
from instructrec_rl.features import item_features
from instructrec_rl.files import write_json_atomic
from instructrec_rl.networks import SetNetwork, Sets
from instructrec_rl.run_folder import Recorder

TARGET = 0.65
OURS = DQNConfig()
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
        dqn.Learner(env, OURS, seed)  # imports on first use; the peers' were paid at the top of this file
        race.start()
        dqn.learn(env, replace(OURS, eval_every=every, device="cpu"), recorder)


class Ticking(Recorder):
    """Knows the step at which it is asked to validate: one batch of answers after the last report of progress."""

    step = OURS.num_envs

    def tick(self, step: int, total: int, words: str) -> None:
        self.step = step + OURS.num_envs


class SetExtractor(BaseFeaturesExtractor):
    """Our network as SB3's features extractor: Dict(clauses (B, K, D), mask (B, K)) -> w(s) (B, F)."""

    def __init__(self, observation_space: gymnasium.spaces.Dict, num_features: int, dropout: float):
        super().__init__(observation_space, features_dim=num_features)
        _, dim = observation_space["clauses"].shape  # type: ignore[misc]
        self.network = SetNetwork(dim, OURS.hidden, num_features, dropout)

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = observations["mask"].bool()
        members, lengths = observations["clauses"][mask], mask.sum(1)
        return self.network(Sets(members, torch.arange(len(members)), lengths.cumsum(0) - lengths))


class ItemValues(MultiInputPolicy):
    """SB3's policy whose last layer is the items' features, fixed: Q(s, a) = w(s) . x(a)."""

    def __init__(self, *args: Any, item_table: np.ndarray, **kwargs: Any):
        self.item_table = torch.from_numpy(item_table)
        super().__init__(*args, net_arch=[], **kwargs)

    def make_q_net(self) -> QNetwork:
        network = super().make_q_net()
        fix(network.q_net[0], self.item_table)
        return network


class ItemPreferences(MultiInputActorCriticPolicy):
    """SB3's actor and critic on one features extractor. The actor's logits are w(s) . x(a), the critic reads w(s)."""

    def __init__(self, *args: Any, item_table: np.ndarray, **kwargs: Any):
        self.item_table = torch.from_numpy(item_table)
        super().__init__(*args, net_arch=[], ortho_init=False, **kwargs)  # SetNetwork has a start of its own

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        fix(self.action_net, self.item_table)


def fix(last: torch.nn.Linear, table: torch.Tensor) -> None:
    """Make a last layer the items' features, which are not learnt."""
    with torch.no_grad():
        last.weight.copy_(table)
        last.bias.zero_()
    last.requires_grad_(False)


class Answering:
    """SB3's network as a policy that our evaluator can play."""

    def __init__(self, model: BaseAlgorithm):
        self.model = model

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        with_sets = isinstance(self.model.observation_space, gymnasium.spaces.Dict)
        members, mask = asked.states("clauses" if with_sets else "sentence").dense(np.arange(len(asked)))
        seen = {"clauses": members, "mask": mask} if with_sets else members[:, 0]
        return menu[self.model.predict(seen, deterministic=True)[0]]


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


class AsVecEnv(VecEnv):
    """Our vector environment in SB3's terms: a list of infos, with the last observation of an ended episode in it."""

    def __init__(self, env: InstructionVectorEnv):
        self.inner = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        return self.inner.reset(seed=self._seeds[0])[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        seen, rewards, terminated, truncated, infos = self.inner.step(self.actions)
        last = infos["final_obs"]
        told = [{"terminal_observation": last[i], "TimeLimit.truncated": False} for i in range(self.num_envs)]
        return seen, rewards.astype(np.float32), terminated | truncated, told

    def close(self) -> None:
        self.inner.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.inner, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.inner, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self.inner, method_name)(*args, **kwargs)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def our_network(env: Environment, dropout: float = 0.0) -> dict[str, Any]:
    """SB3's `policy_kwargs` for our network over the items of the training menu."""
    table, _ = item_features(env.items, OURS.item_features, lambda: env.item_vectors)
    return {
        "features_extractor_class": SetExtractor,
        "features_extractor_kwargs": {"num_features": table.shape[1], "dropout": dropout},
        "item_table": table[env.spec.menu("train")],
    }


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
    many = AsVecEnv(InstructionVectorEnv(env, OURS.num_envs))
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
        batch_size=OURS.batch_size,
        train_freq=1,
        gradient_steps=OURS.updates_per_step,
        learning_starts=OURS.num_envs,
    )
    race.start()
    model.learn(total, callback=Evaluating(race, every))


def run_ppo(env: Environment, race: Race, seed: int, every: int, learning_rate: float, total: int) -> None:
    """SB3's PPO over our vector environment with our batch, else with its own defaults, on our state and network."""
    many = AsVecEnv(InstructionVectorEnv(env, OURS.num_envs))
    options = {"learning_rate": learning_rate, "n_steps": PPO_STEPS, "batch_size": OURS.batch_size}
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
        rate = run["options"].get("learning_rate", OURS.learning_rate)
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
