"""Episodes of a language model over the batched dynamics: it writes, the world answers, and it may write again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from instructrec_rl.env.environment import Dynamics
from instructrec_rl.policies.language.generate import Completions, Ids, left_pad, right_pad
from instructrec_rl.policies.language.models import LanguageModel
from instructrec_rl.policies.language.prompts import write_prompts, write_turn

Sampler = Callable[[list[Ids]], Completions]


class Rollout(NamedTuple):
    """B episodes. prompts, prompt_mask: (B, P), padded on the left; ids, mask: (B, T) everything behind the prompt,
    padded on the right; own: (B, T) 1 on the policy's tokens, 0 on what stood between its answers; logprobs, rewards:
    (B, T) float32, the rewards at the last token of each turn; texts: the last answer of each; answers: every
    answer as a line of rollouts.jsonl, in the order they were given.
    """

    prompts: Tensor
    prompt_mask: Tensor
    ids: Tensor
    mask: Tensor
    own: Tensor
    logprobs: Tensor
    rewards: Tensor
    texts: list[str]
    answers: list[dict[str, Any]]

    @property
    def whole(self) -> tuple[Tensor, Tensor]:
        """Ids and mask of prompts and all behind them, (B, P + T)."""
        return torch.cat([self.prompts, self.ids], 1), torch.cat([self.prompt_mask, self.mask], 1)

    @property
    def num_answers(self) -> int:
        """How many answers were given in all the episodes."""
        return len(self.answers)


@dataclass
class Episode:
    """One sequence as it grows: the prompt, an answer, what it scored, an answer, ...

    ids: all behind the prompt; own, logprobs, rewards: of each of these tokens, as in Rollout; text: the last answer.
    """

    prompt: Ids
    ids: Ids = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    text: str = ""

    def answer(self, ids: Ids, logprobs: list[float], reward: float, text: str) -> None:
        """Append an answer, its reward at its last token."""
        self.ids += ids
        self.own += [1] * len(ids)
        self.logprobs += logprobs
        self.rewards += [0.0] * (len(ids) - 1) + [reward]
        self.text = text

    def hear(self, ids: Ids) -> None:
        """Append what the world says between two answers."""
        self.ids += ids
        self.own += [0] * len(ids)
        self.logprobs += [0.0] * len(ids)
        self.rewards += [0.0] * len(ids)


def in_random_passes(rows: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """`number` rows: pass after pass over all of them, each in an order of its own."""
    passes = -(-number // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(passes)])[:number]


def roll_out(lm: LanguageModel, dynamics: Dynamics, rows: np.ndarray, sample: Sampler) -> Rollout:
    """Play an episode for each of rows (B,) to its end; the model is bound to their states. sample: continues B
    prompts.
    """
    episodes = [Episode(prompt) for prompt in write_prompts(lm, dynamics.env.asked(rows))]
    answers: list[dict[str, Any]] = []
    going, turn = np.arange(len(rows)), dynamics.start(rows)
    while len(going):
        # let the model answer
        written = sample([episodes[i].prompt + episodes[i].ids for i in going])
        ids = [row[:n] for row, n in zip(written.ids.tolist(), written.mask.sum(1).tolist())]
        texts = lm.tokenizer.batch_decode(ids, skip_special_tokens=True)
        # step the world
        outcome = dynamics.step_texts(turn, texts)
        # keep the answers with their rewards
        for j, (i, logprobs) in enumerate(zip(going, written.logprobs.tolist())):
            logprobs, reward = logprobs[: len(ids[j])], float(outcome.rewards[j])
            episodes[i].answer(ids[j], logprobs, reward, texts[j])
            answers.append(
                {
                    "id": dynamics.env.examples[rows[i]].id,
                    "text": texts[j],
                    "log_propensity": round(sum(logprobs), 6),
                    "reward": round(reward, 6),
                    **({"turn": int(turn.turn[j])} if dynamics.turns > 1 else {}),
                }
            )
        # tell those that go on what they scored
        on = ~(outcome.terminated | outcome.truncated)
        going, turn = going[on], outcome.turn.select(on)
        for i, heard in zip(going, write_turn(lm, outcome.scores[on].tolist())):
            episodes[i].hear(heard)
    return _padded(episodes, answers, lm.tokenizer.pad_token_id, lm.model.device)


def _padded(episodes: list[Episode], answers: list[dict[str, Any]], pad: int, device: torch.device) -> Rollout:
    prompts, prompt_mask = left_pad([episode.prompt for episode in episodes], pad, device)
    return Rollout(
        prompts,
        prompt_mask,
        right_pad([episode.ids for episode in episodes], pad, torch.long).to(device),
        right_pad([[1] * len(episode.ids) for episode in episodes], 0, torch.long).to(device),
        right_pad([episode.own for episode in episodes], 0, torch.long).to(device),
        right_pad([episode.logprobs for episode in episodes], 0.0, torch.float32).to(device),
        right_pad([episode.rewards for episode in episodes], 0.0, torch.float32).to(device),
        [episode.text for episode in episodes],
        answers,
    )
