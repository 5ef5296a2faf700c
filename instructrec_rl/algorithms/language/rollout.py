"""Episodes of a language model over the batched dynamics: it writes, the world answers, and it may write again."""

from __future__ import annotations

from collections.abc import Callable
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
    def num_answers(self) -> int:
        """How many answers were given in all the episodes."""
        return len(self.answers)


def roll_out(lm: LanguageModel, dynamics: Dynamics, rows: np.ndarray, sample: Sampler) -> Rollout:
    """Play an episode for each of rows (B,) to its end. sample: continues B prompts.

    An episode of several turns is one sequence: prompt, answer, what it scored, answer, ...
    """
    prompts = write_prompts(lm, dynamics.env.asked(rows))
    ids: list[Ids] = [[] for _ in rows]
    own: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    rewards: list[list[float]] = [[] for _ in rows]
    texts: list[str] = [""] * len(rows)
    given: list[dict[str, Any]] = []
    going, turn = np.arange(len(rows)), dynamics.start(rows)
    while len(going):
        written = sample([prompts[i] + ids[i] for i in going])
        lengths = written.mask.sum(1).tolist()
        answers = [row[:n] for row, n in zip(written.ids.tolist(), lengths)]
        said = lm.tokenizer.batch_decode(answers, skip_special_tokens=True)
        outcome = dynamics.step_texts(turn, said)
        for j, (i, kept) in enumerate(zip(going, written.logprobs.tolist())):
            ids[i] += answers[j]
            own[i] += [1] * lengths[j]
            logprobs[i] += kept[: lengths[j]]
            rewards[i] += [0.0] * (lengths[j] - 1) + [float(outcome.rewards[j])]
            texts[i] = said[j]
            given.append(
                {
                    "id": dynamics.env.examples[rows[i]].id,
                    "text": said[j],
                    "log_propensity": round(sum(kept[: lengths[j]]), 6),
                    "reward": round(float(outcome.rewards[j]), 6),
                    **({"turn": int(turn.turn[j])} if dynamics.turns > 1 else {}),
                }
            )
        on = ~(outcome.terminated | outcome.truncated)
        going, turn = going[on], outcome.turn.select(on)
        for i, between in zip(going, write_turn(lm, outcome.scores[on].tolist())) if len(going) else ():
            ids[i] += between
            own[i] += [0] * len(between)
            logprobs[i] += [0.0] * len(between)
            rewards[i] += [0.0] * len(between)
    pad, device = lm.tokenizer.pad_token_id, lm.model.device
    padded, mask = left_pad(prompts, pad, device)
    own_mask = right_pad(own, 0, torch.long).to(device)
    whole = right_pad([[1] * len(row) for row in ids], 0, torch.long).to(device)
    return Rollout(
        padded,
        mask,
        right_pad(ids, pad, torch.long).to(device),
        whole,
        own_mask,
        right_pad(logprobs, 0.0, torch.float32).to(device),
        right_pad(rewards, 0.0, torch.float32).to(device),
        texts,
        given,
    )
