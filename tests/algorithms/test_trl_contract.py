"""What the trainer takes from TRL's private side: it fails here, by name, where a new TRL renames or drops it."""

from __future__ import annotations

import inspect

import pytest
from transformers import Trainer
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from instructrec_rl.algorithms.language.answer_scorer import AnswerScorer
from instructrec_rl.algorithms.language.trainer import PolicyTrainer

HOOKS = {  # overridden here -> the parameters it must still have
    "_generate_and_score_completions": ["inputs"],
    "_prepare_inputs": ["generation_batch"],
    "_get_per_token_logps_and_entropies": ["model", "input_ids", "attention_mask", "logits_to_keep"],
    "_compute_loss": ["model", "inputs"],
    "training_step": ["model", "inputs", "num_items_in_batch"],
    "_save": ["output_dir", "state_dict"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_save_checkpoint": ["model", "trial"],
}
CALLED = {  # TRL's method -> what it must still call or read for our override to be reached or our value used
    "training_step": ["_step", "training_step"],
    "_prepare_inputs": [
        "_generate_and_score_completions", "_buffered_inputs", "steps_per_generation", "num_iterations",
    ],
    "compute_loss": ["_compute_loss"],
    "_compute_loss": [
        "_get_per_token_logps_and_entropies", "tool_mask", "old_per_token_logps", "advantages", "ref_per_token_logps",
        "advantages.dim() == 1", "epsilon_low", "bnpo", "current_gradient_accumulation_steps", "entropy_coef",
    ],
    "_get_train_sampler": ["num_generations", "generation_batch_size", "shuffle_dataset"],
    "_generate_single_turn": ["vllm_generation"],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_a_hook_that_we_override_is_still_there(name: str) -> None:
    theirs = getattr(GRPOTrainer, name, None)
    assert theirs is not None, f"TRL has no {name} any more"
    assert list(inspect.signature(theirs).parameters)[1 : 1 + len(HOOKS[name])] == HOOKS[name]
    assert getattr(PolicyTrainer, name) is not theirs


def test_every_override_is_listed() -> None:
    """A method of ours that shadows one of theirs must be in HOOKS, so that it is watched."""
    own = (PolicyTrainer, AnswerScorer)
    ours = {name for kind in own for name, value in vars(kind).items() if inspect.isfunction(value)} - {"__init__"}
    theirs = {name for base in GRPOTrainer.__mro__ for name in vars(base)}
    assert ours & theirs == set(HOOKS)


@pytest.mark.parametrize("name", sorted(CALLED))
def test_trl_still_reaches_what_we_replace(name: str) -> None:
    source = inspect.getsource(getattr(GRPOTrainer, name))
    assert [words for words in CALLED[name] if words not in source] == []


def test_the_checkpoint_of_transformers_is_made_of_what_we_replace() -> None:
    source = inspect.getsource(Trainer._save_checkpoint)
    assert "self.save_model" in source
    assert "self._save_rng_state" in source
    assert "self._save(" in inspect.getsource(Trainer.save_model)


def test_the_helpers_that_we_import_keep_their_shape() -> None:
    assert list(inspect.signature(grpo_trainer.split_tensor_dict).parameters) == ["tensor_dict", "num_chunks"]
    assert len(inspect.signature(grpo_trainer.shuffle_sequence_dict).parameters) == 1
    assert "gather_deepspeed3_params" in inspect.signature(grpo_trainer.unwrap_model_for_generation).parameters
