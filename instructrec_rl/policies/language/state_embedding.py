"""How a state enters a causal language model: frozen embeddings as soft tokens of its prompt.

A prompt is a list of token ids. Ids below V are the tokenizer's; id V + k stands for row k of a table of state vectors
(the clauses of the instructions, say), projected to the model's width. The output head keeps its V rows, so a soft
token can be read and never written. As prompts stay plain ids, every pass of TRL (generation, log-probabilities,
reference) takes them unchanged. Prefix tuning (Li and Liang 2021) learns such vectors; here they are given.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PROJECTION = "state_projection.safetensors"


class StateEmbedding(nn.Module):
    """x(id) = E[id] for id < V, else P s[id - V] sqrt(D) + b. s: the table (U, D), each row of length 1.

    The table is no parameter and is not saved: it holds the states of whatever texts are being answered.
    """

    table: Tensor

    def __init__(self, tokens: nn.Embedding, dim: int):
        super().__init__()
        self.tokens, self.dim = tokens, dim
        self.project = nn.Linear(dim, tokens.embedding_dim, dtype=tokens.weight.dtype, device=tokens.weight.device)
        self.register_buffer("table", torch.zeros(1, dim), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The tokens' own embeddings (V, d), where others look for them."""
        return self.tokens.weight

    def resemble_tokens(self) -> None:
        """Start with soft tokens as large as the tokens are, for a model that knows no others."""
        with torch.no_grad():
            self.project.weight.mul_(self.tokens.weight.std() / self.project.weight.std() / self.dim**0.5)
            self.project.bias.zero_()

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (B, L, d) of ids (B, L)."""
        size = self.tokens.num_embeddings
        soft = ids >= size
        vectors = self.tokens(ids.masked_fill(soft, 0))
        if ids.shape[1] == 1:  # a step of generation: only prompts hold soft tokens
            return vectors
        states = self.table[ids[soft] - size].to(self.project.weight.dtype) * self.dim**0.5
        return vectors.index_put((soft,), self.project(states).to(vectors.dtype))


def install(model: PreTrainedModel, dim: int) -> None:
    """Give `model` soft tokens for states of `dim` numbers, in place."""
    model.set_input_embeddings(StateEmbedding(model.get_input_embeddings(), dim))


def state_embeddings(*roots: nn.Module | None) -> list[StateEmbedding]:
    """Every state embedding in some modules (the policy's, its critic's, the reference's)."""
    found = [module for root in roots if root is not None for module in root.modules()]
    return [module for module in found if isinstance(module, StateEmbedding)]


def fill_tables(vectors: np.ndarray, *roots: nn.Module | None) -> None:
    """Let the soft tokens of some modules stand for `vectors` (U, D)."""
    table: Tensor | None = None
    for module in state_embeddings(*roots):
        if table is None or table.device != module.project.weight.device:
            table = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)).to(module.project.weight.device)
        module.table = table
