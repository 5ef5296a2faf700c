"""TRL's options for ours, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trl import GRPOConfig

from instructrec_rl.core.hardware import num_processes

if TYPE_CHECKING:
    from instructrec_rl.config.schema import PPOConfig
    from instructrec_rl.policies.language.models import LanguageModel


def arguments(config: PPOConfig, folder: Path, seed: int, iterations: int, lm: LanguageModel) -> GRPOConfig:
    """TRL's options for ours."""
    minibatches = config.batch_size // config.minibatch_size
    return GRPOConfig(
        output_dir=str(folder),
        # batches and passes over them
        per_device_train_batch_size=config.minibatch_size // num_processes(),
        steps_per_generation=minibatches,
        num_generations=config.batch_size,  # any divisor above 1 will do: it is set to ours afterwards
        num_iterations=config.epochs,
        max_steps=(steps := iterations * minibatches * config.epochs),
        warmup_steps=round(config.warmup * steps),
        # the optimizer
        learning_rate=config.learning_rate,
        lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"lr_end": 0.1 * config.learning_rate, "power": 1.0},
        weight_decay=0.0,
        max_grad_norm=config.max_gradient,
        gradient_accumulation_steps=1,
        # the loss
        epsilon=config.clip,
        beta=0.0,  # the reference is ours
        loss_type="bnpo",  # the mean over a minibatch's tokens, as PPO has it
        scale_rewards="none",
        entropy_coef=config.entropy,
        # sampling
        temperature=config.temperature,
        top_p=1.0,
        top_k=0,
        max_completion_length=lm.max_tokens,
        shuffle_dataset=False,  # the order is made beforehand, so that a resumed run goes on in it
        disable_dropout=True,
        # precision and memory
        bf16=config.dtype == "bf16",
        gradient_checkpointing=config.gradient_checkpointing,
        use_vllm=config.vllm,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        # what TRL would log and save itself
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        use_cpu=lm.model.device.type == "cpu",  # said, not found out: several processes on a CPU are DDP only so
    )
