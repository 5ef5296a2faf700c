"""What comes before reinforcement: a verbaliser, supervised training on demonstrations, best-of-n self-training.

Each is supervised training by TRL's SFTTrainer on (instruction, answer) pairs; they differ in where the answers come
from: any item of the catalog, the data's own right answers to a few instructions, or the policy's best samples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from instructrec_rl.core import DivergedError
from instructrec_rl.env.environment import Environment
from instructrec_rl.policies.language.generate import Ids, complete, left_pad
from instructrec_rl.policies.language.models import LanguageModel, restore_forward
from instructrec_rl.policies.language.prompts import write_answers, write_prompts

RATE = "algo.sft_learning_rate"
CHUNK = 512  # answers sampled at once
Pairs = tuple[list[Ids], list[Ids]]


def supervise(
    lm: LanguageModel,
    pairs: tuple[Sequence[Ids], Sequence[Ids]],
    batch_size: int,
    learning_rate: float,
    seed: int,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """One pass over (prompt, answer) pairs in a random order.

    batch_size: pairs in an update of this process; seen: told how many pairs of how many were seen, after each update.
    """
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Follow(TrainerCallback):
        """Tells `seen`."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen(round(len(pairs[0]) * state.global_step / state.max_steps), len(pairs[0]))

    # lay out the pairs
    prompts, answers = pairs
    data = Dataset.from_dict(
        {
            "input_ids": [[*prompt, *answer] for prompt, answer in zip(prompts, answers)],
            "completion_mask": [[0] * len(prompt) + [1] * len(answer) for prompt, answer in zip(prompts, answers)],
        }
    )
    # train for one pass
    with tempfile.TemporaryDirectory(prefix="instructrec-sft-") as scratch:
        options = SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=batch_size,
            num_train_epochs=1,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=20,
            weight_decay=0.01,
            completion_only_loss=True,
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            ddp_find_unused_parameters=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            use_cpu=lm.model.device.type == "cpu",
        )
        trainer = _watched(SFTTrainer, learning_rate)(
            lm.model, args=options, train_dataset=data, processing_class=lm.tokenizer, callbacks=[Follow()]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    _check_weights(lm, learning_rate)
    # undo what TRL did to the model
    restore_forward(lm.model)


def _watched(base: Any, learning_rate: float) -> Any:
    """A trainer that ends where the loss is no number."""

    class Watched(base):
        def training_step(self, *arguments: Any, **options: Any) -> Any:
            loss = super().training_step(*arguments, **options)
            if not loss.isfinite():
                raise DivergedError(0, "the loss of a stage before reinforcement", RATE, learning_rate)
            return loss

    return Watched


def _check_weights(lm: LanguageModel, learning_rate: float) -> None:
    if not all(weights.isfinite().all() for weights in lm.model.parameters()):
        raise DivergedError(0, "a weight", RATE, learning_rate)


def random_pairs(env: Environment, lm: LanguageModel, number: int, rng: np.random.Generator) -> Pairs:
    """Random training instructions with random items of the menu: what a verbaliser learns to write."""
    rows = rng.choice(env.spec.rows("train"), size=number)
    items = rng.choice(env.spec.menu("train"), size=number)
    return write_prompts(lm, env.asked(rows)), write_answers(lm, list(env.item_texts[items]))


def demonstrations(env: Environment, number: int, rng: np.random.Generator) -> np.ndarray:
    """The rows of the training split whose right answers are shown."""
    return rng.permutation(env.spec.rows("train"))[:number]


def demonstration_pairs(
    env: Environment, lm: LanguageModel, rows: np.ndarray, passes: int, mixed: float, rng: np.random.Generator
) -> Pairs:
    """`passes` times each row with one of its right answers, and random pairs as a share `mixed` of them all."""
    repeated = np.tile(rows, passes)
    best = [rng.choice(env.examples[row].best) for row in repeated]
    prompts, answers = write_prompts(lm, env.asked(repeated)), write_answers(lm, list(env.item_texts[best]))
    others = random_pairs(env, lm, round(len(repeated) * mixed / (1 - mixed)), rng)
    return prompts + others[0], answers + others[1]


class BestSoFar:
    """The best answer known to each training instruction, by the training reward, out of the policy's own samples.

    Best-of-n self-training (expert iteration; Anthony et al. 2017, and ReST, Gulcehre et al. 2023): sample, keep what
    scored highest, train on that, sample again. It needs no right answers, only the reward.
    """

    def __init__(self, env: Environment):
        self.env, self.rows = env, env.spec.rows("train")
        self.scores = np.full(len(self.rows), -np.inf)
        self.texts = np.full(len(self.rows), "", dtype=object)

    def sample(self, lm: LanguageModel, number: int, seen: Callable[[int], None]) -> None:
        """Sample `number` answers to every training instruction. seen: told how many were sampled, for the screen."""
        prompts = write_prompts(lm, self.env.asked(self.rows))
        order = np.repeat(np.argsort([len(prompt) for prompt in prompts], kind="stable"), number)
        for start in range(0, len(order), CHUNK):
            which = order[start : start + CHUNK]
            padded = left_pad([prompts[i] for i in which], lm.tokenizer.pad_token_id, lm.model.device)
            written = complete(lm.model, padded, lm.max_tokens, lm.eos, lm.tokenizer.pad_token_id, sample=True)
            ids = [row[:n] for row, n in zip(written.ids.tolist(), written.mask.sum(1).tolist())]
            texts = lm.tokenizer.batch_decode(ids, skip_special_tokens=True)
            scores = self.env.reward.score_batch(self.env.batch(self.rows[which], texts))
            for i, text, score in zip(which, texts, scores):
                if score > self.scores[i]:
                    self.scores[i], self.texts[i] = score, text
            seen(len(which))

    def pairs(self, lm: LanguageModel) -> Pairs:
        """Every training instruction with its best answer."""
        return write_prompts(lm, self.env.asked(self.rows)), write_answers(lm, list(self.texts))
