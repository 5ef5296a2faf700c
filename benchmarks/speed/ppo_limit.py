"""Our PPO trainer against the raw limit: the same arithmetic with no trainer around it, in one run on one thread.

The limit generates (transformers' `generate`, sampling), runs the reference forward, and the policy and the critic
forward and backward with a step of AdamW for each minibatch. Ours does that and all else: the critic's pass before the
update, rewards, advantages, logs, the Trainer's loop. Both profiles are in CPU-seconds, so the gap can be read off.

    python -m benchmarks.speed.ppo_limit --json ppo_limit.json --markdown docs/results/peers.md
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback

from benchmarks.common.tables import about, markdown_table, show, write_between_markers
from benchmarks.peers.ppo_setup import Start, load_start, settings, warm_start  # first: it sets the threads
from instructrec_rl.algorithms.language import clock as clock_file
from instructrec_rl.algorithms.language.critic import attach
from instructrec_rl.algorithms.language.trainer import PolicyTrainer
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.policies.language.generate import left_pad
from instructrec_rl.policies.language.prompts import write_prompts

COLUMNS = ("batch", "critic", "limit, episodes/CPU-s", "ours", "share", "tokens an answer, both")
PARTS = ("generate", "reward", "reference", "value", "forward", "backward", "optimizer", "rest")
Figures = dict[str, Any]


class Raw:
    """The limit: what has to be computed, and nothing around it. The learning rate is 0, so the policy stays."""

    def __init__(self, start: Start, critic: str, batch: int, minibatch: int, seed: int):
        self.start, self.batch, self.minibatch = start, batch, minibatch
        self.model, self.critic = start.lm.model, attach(start.lm.model, critic)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
        self.prompts = write_prompts(start.lm, start.env.asked(start.env.spec.rows("train")))
        self.rng = np.random.default_rng(seed)
        self.seconds: Counter[str] = Counter()
        self.tokens = self.episodes = 0

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[part] += time.process_time() - began

    def run(self, episodes: int) -> Figures:
        torch.manual_seed(0)
        self.seconds, self.tokens, self.episodes = Counter(), 0, episodes
        for _ in range(episodes // self.batch):
            self.iterate()
        return {
            "rate": episodes / sum(self.seconds.values()),
            "tokens": self.tokens / episodes,
            "seconds": {part: seconds / episodes for part, seconds in self.seconds.items()},
        }

    def iterate(self) -> None:
        lm = self.start.lm
        pad, chosen = lm.tokenizer.pad_token_id, self.rng.choice(len(self.prompts), self.batch, replace=False)
        prompts, prompt_mask = left_pad([self.prompts[i] for i in chosen], pad, lm.model.device)
        with self.clock("generate"), torch.no_grad():
            ids = self.model.eval().generate(
                input_ids=prompts, attention_mask=prompt_mask, max_new_tokens=lm.max_tokens, do_sample=True,
                temperature=1.0, top_k=0, top_p=1.0, eos_token_id=lm.eos, pad_token_id=pad,
            )  # fmt: skip
        width = prompts.shape[1]
        ended = torch.isin(ids[:, width:], torch.tensor(lm.eos))
        own = (ended.cumsum(1) - ended.long() == 0).long()
        mask = torch.cat([prompt_mask, own], 1)
        self.tokens += int(own.sum())
        self.model.train()
        parts = list(zip(*(tensor.split(self.minibatch) for tensor in (ids, mask, own))))
        with self.clock("reference"), torch.no_grad():
            for part in parts:
                self.logprobs(self.start.reference.model, *part)
        for part in parts:
            self.update(*part)

    def logprobs(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        keep = own.shape[1]
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep + 1, use_cache=False).logits[:, :-1]
        return logits.log_softmax(-1).gather(2, ids[:, -keep:, None])[..., 0]

    def update(self, ids: torch.Tensor, mask: torch.Tensor, own: torch.Tensor) -> None:
        with self.clock("forward"):
            with self.critic.listening() as heard:
                now = self.logprobs(self.model, ids, mask, own)
            values = heard[-1][:, -own.shape[1] :]
            ratio = torch.exp(now - now.detach())
            policy_loss = -(torch.minimum(ratio, ratio.clamp(0.8, 1.2)) * own).sum() / own.sum()
            loss = policy_loss + 0.25 * ((values - 0.5) ** 2 * own).sum() / own.sum()
        with self.clock("backward"):
            loss.backward()
        with self.clock("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()


class Watch(TrainerCallback):
    """Times the optimizer's step as our own loop does, and keeps the answers' lengths."""

    trainer: PolicyTrainer

    def __init__(self) -> None:
        self.began, self.tokens = 0.0, []

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.began = time.process_time()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.timed["optimizer"] += time.process_time() - self.began

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.trainer.iteration_steps == 0:
            self.tokens.append(self.trainer._metrics["train"]["answer_tokens"][-1])


def run_ours(start: Start, critic: str, batch: int, episodes: int, seed: int) -> Figures:
    """Episodes a CPU-second of our trainer, whole: from `train()` to its end."""
    config, watch = settings(episodes, critic, batch), Watch()
    with tempfile.TemporaryDirectory() as folder:
        head = attach(start.lm.model, critic)
        trainer = PolicyTrainer(
            start.lm, start.env.dynamics("train"), config, start.reference, head, Path(folder), seed, [watch]
        )
        trainer.remove_callback(PrinterCallback)
        watch.trainer = trainer
        began = time.process_time()
        trainer.train()
        spent = time.process_time() - began
    seconds = {part: value / episodes for part, value in trainer.timed.items() if value}
    seconds["rest"] = spent / episodes - sum(seconds.values())
    return {"rate": episodes / spent, "tokens": float(np.mean(watch.tokens)), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="rewrite the tables of this page, between their markers")
    parser.add_argument("--episodes", type=int, default=2_048, help="of each round")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts, on either side")
    parser.add_argument("--runs", type=Path, default=Path("runs/trl_ppo"), help="where the warm start is kept")
    options = parser.parse_args()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    clock_file.time = SimpleNamespace(perf_counter=time.process_time)  # its profile in CPU-seconds
    folder = warm_start(options.runs / "warm-start-0", 0)
    results = []
    for critic, batch in (("separate", 64), ("separate", 256), ("state", 256)):
        rounds: dict[str, list[Figures]] = {"limit": [], "ours": []}
        Raw(load_start(folder, 0), critic, batch, 64, seed=99).run(batch)  # imports and buffers on first use
        for k in range(options.rounds):
            rounds["limit"].append(Raw(load_start(folder, 0), critic, batch, 64, k).run(options.episodes))
            rounds["ours"].append(run_ours(load_start(folder, 0), critic, batch, options.episodes, k))
        best = {name: max(found, key=lambda figures: figures["rate"]) for name, found in rounds.items()}
        results.append({"critic": critic, "batch": batch, "rounds": rounds, **best})
    report(results, options)


def report(results: list[Figures], options: argparse.Namespace) -> None:
    lines, gaps = [], []
    for result in results:
        limit, ours = result["limit"], result["ours"]
        batch = f"{result['batch']}/64"
        rates = (f"{limit['rate']:.0f}", f"{ours['rate']:.0f}", f"{ours['rate'] / limit['rate']:.0%}")
        lines.append([batch, result["critic"], *rates, f"{limit['tokens']:.1f}, {ours['tokens']:.1f}"])
        for name, figures in (("limit", limit), ("ours", ours)):
            each = [f"{1000 * figures['seconds'].get(part, 0):.2f}" for part in PARTS]
            gaps.append([f"{batch}, {result['critic']}: {name}", *each])
    versions = about(("torch", "transformers", "accelerate", "trl"))
    caption = (
        f"{options.episodes:,} episodes a round, the best of {options.rounds} rounds; batch/minibatch; one thread; "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
    )
    header = ("CPU-ms an episode", *PARTS)
    show("Our trainer against the raw limit", COLUMNS, lines, caption)
    show("Where the time goes", header, gaps, "CPU-milliseconds an episode")
    if options.json:
        write_json_atomic(options.json, {"versions": versions, "episodes": options.episodes, "results": results})
    if options.markdown:
        tables = f"{markdown_table(COLUMNS, lines)}\n\n{markdown_table(header, gaps)}\n\n{caption}"
        write_between_markers(options.markdown, "ppo_limit", tables)


if __name__ == "__main__":
    main()
