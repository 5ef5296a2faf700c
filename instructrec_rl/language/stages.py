"""What comes before reinforcement: a verbaliser, supervised training on demonstrations, best-of-n self-training.

Each is supervised training by TRL's SFTTrainer on (instruction, answer) pairs; they differ in where the answers come
from: any item of the catalog, the data's own right answers to a few instructions, or the policy's best samples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np

from instructrec_rl.env.environment import Environment
from instructrec_rl.language.generate import Ids
from instructrec_rl.language.models import LanguageModel, restore_forward
from instructrec_rl.language.prompts import write_answers, write_prompts


def supervise(
    lm: LanguageModel, pairs: tuple[Sequence[Ids], Sequence[Ids]], batch_size: int, learning_rate: float, seed: int
) -> float:
    """One pass over (prompt, answer) pairs in a random order; returns the mean loss of the answers' tokens."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    prompts, answers = pairs
    data = Dataset.from_dict(
        {
            "input_ids": [[*prompt, *answer] for prompt, answer in zip(prompts, answers)],
            "completion_mask": [[0] * len(prompt) + [1] * len(answer) for prompt, answer in zip(prompts, answers)],
        }
    )
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
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            use_cpu=lm.model.device.type == "cpu",
        )
        trainer = SFTTrainer(lm.model, args=options, train_dataset=data, processing_class=lm.tokenizer)
        trainer.remove_callback(PrinterCallback)
        loss = float(trainer.train().training_loss)
    restore_forward(lm.model)
    return loss


def random_pairs(env: Environment, lm: LanguageModel, number: int, rng: np.random.Generator) -> tuple[list, list]:
    """Random training instructions with random items of the menu: what a verbaliser learns to write."""
    rows = rng.choice(env.spec.rows("train"), size=number)
    items = rng.choice(env.spec.menu("train"), size=number)
    return write_prompts(lm, env.asked(rows)), write_answers(lm, env.item_texts[items])


def demonstrations(env: Environment, number: int, rng: np.random.Generator) -> np.ndarray:
    """The rows of the training split whose right answers are shown."""
    return rng.permutation(env.spec.rows("train"))[:number]


def demonstration_pairs(
    env: Environment, lm: LanguageModel, rows: np.ndarray, passes: int, mixed: float, rng: np.random.Generator
) -> tuple[list, list]:
    """`passes` times each row with one of its right answers, and random pairs as a share `mixed` of them all."""
    repeated = np.tile(rows, passes)
    best = [rng.choice(env.examples[row].best) for row in repeated]
    prompts, answers = write_prompts(lm, env.asked(repeated)), write_answers(lm, env.item_texts[best])
    others = random_pairs(env, lm, round(len(repeated) * mixed / (1 - mixed)), rng)
    return prompts + others[0], answers + others[1]
