"""Passes over answers: what the policy, the reference and the critic say of each of their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from instructrec_rl.algorithms.language.critic import Critic
from instructrec_rl.algorithms.language.packing import Packed, Shape, in_minibatches, pack
from instructrec_rl.policies.language.generate import entropy, log_distributions

if TYPE_CHECKING:
    from instructrec_rl.config.schema import PPOConfig
    from instructrec_rl.policies.language.models import LanguageModel

LARGE_VOCABULARY = 16_384  # from here on TRL's fused head, which never holds all logits, is worth its second pass


class AnswerScorer(GRPOTrainer):
    """The half of the trainer that scores answers. Batches are (B, L), the answers in the last `keep` (T) columns."""

    lm: LanguageModel
    settings: PPOConfig
    critic: Critic | None
    reference: Any = None  # the frozen model that the KL is taken to
    _shape: Shape | None = None  # of the iteration's batch
    _packed: Packed | None = None  # how the policy's last forward pass had its rows

    def _in_parts(self, model: Any, ids: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Log-probabilities (B, T), a minibatch at a time."""

        def logprobs(rows: Tensor) -> Tensor:
            return self._get_per_token_logps_and_entropies(model, ids[rows], mask[rows], keep)[0]

        return in_minibatches(logprobs, mask, self.settings.minibatch_size)

    def _values(self, ids: Tensor, mask: Tensor, keep: int) -> Tensor:
        """The critic's values (B, T), a minibatch at a time."""
        critic = self.critic
        assert critic is not None

        def values(rows: Tensor) -> Tensor:
            packed = pack(ids[rows], mask[rows], keep)
            with self.accelerator.autocast():
                return packed.answered(critic.values(self.model, packed.ids, packed.mask))

        return in_minibatches(values, mask, self.settings.minibatch_size)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **options: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities (B, T) of the last T tokens, and entropies where asked. A small head is taken whole."""
        self._packed = None
        if self.lm.vocabulary >= LARGE_VOCABULARY and model is not self.reference:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, **options
            )
        self._packed = packed = pack(
            input_ids, attention_mask, logits_to_keep, None if model is self.reference else self._shape
        )
        with self.accelerator.autocast():
            output = model(
                input_ids=packed.ids, attention_mask=packed.mask, logits_to_keep=packed.ahead + 1, use_cache=False
            )
        distributions = log_distributions(output.logits[:, :-1], self.temperature)
        logprobs = packed.logprobs(distributions)
        if not options.get("compute_entropy"):
            return logprobs, None, None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.entropy > 0):  # else it is but logged
            return logprobs, packed.answered(entropy(distributions), packed.shape.shortest), None
