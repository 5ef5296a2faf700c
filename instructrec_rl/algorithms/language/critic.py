"""V(s): what the rest of an episode will earn, for every token of an answer.

The critic is a submodule of the policy's model and runs inside its forward pass (by a hook, while one listens), so
that DistributedDataParallel and its kin see one module with one forward; it is left out of what a policy saves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from instructrec_rl.core import InputError
from instructrec_rl.encoders.set_network import SetNetwork, Sets
from instructrec_rl.policies.language.models import own_copy
from instructrec_rl.policies.language.state_embedding import StateEmbedding, state_embeddings

HIDDEN = 128  # of the network on the state


class Critic(nn.Module):
    """V before each token. kind:

    `separate`, `shared`: w . h + b with h the last hidden state of a copy of the policy's trunk, or of the trunk
    itself (a copy of one with adapters has adapters of its own on the same weights). `state`: a small network on the
    set of state vectors in the prompt, so one value for a whole episode: a baseline that knows the instruction and
    nothing of the answer. All heads start at zero.

    It runs within the policy's forward pass where `listening` is on.
    """

    def __init__(self, model: PreTrainedModel, trunk: nn.Module, kind: str):
        super().__init__()
        self.kind = kind
        self.policy = (model, trunk)  # in a tuple: they are no part of the critic
        device = next(trunk.parameters()).device
        self.trunk = own_copy(trunk) if kind == "separate" else None
        if kind == "state":
            states = state_embeddings(model)
            if not states:
                raise InputError("algo.critic=state reads the state, which policy.input=text leaves out")
            self.states: list[StateEmbedding] = [states[0]]  # in a list: the policy's module, not a part of the critic
            self.network = SetNetwork(states[0].dim, HIDDEN, 1).to(device)
        else:
            self.head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=device)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, hidden: Tensor | None = None) -> Tensor:
        """V before each token, (B, L) float32. hidden: (B, L, d) of a shared trunk, in a pass of the policy."""
        if self.kind == "state":
            return self._of_state(input_ids)[:, None].expand(-1, input_ids.shape[1])
        if self.trunk is not None:
            hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        assert hidden is not None, "a shared critic speaks within the policy's forward pass"
        return self.head(hidden.float())[..., 0].roll(1, dims=1)  # the state before token t ends at token t - 1

    def values(self, policy: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """V before each token, (B, L); of a shared trunk, by a pass of the policy."""
        if self.kind != "shared":
            return self(input_ids, attention_mask)
        with self.listening() as heard:
            policy(input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=1, use_cache=False)
        return heard[-1]

    def _of_state(self, ids: Tensor) -> Tensor:
        """One value for each row (B,), of the soft tokens in it."""
        states = self.states[0]
        soft = ids >= states.tokens.num_embeddings
        vectors = states.table[ids[soft] - states.tokens.num_embeddings]
        lengths = soft.sum(1)
        which = torch.arange(len(vectors), device=ids.device)
        return self.network(Sets(vectors, which, lengths.cumsum(0) - lengths))[:, 0]

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """A list that gets the values (B, L) of each forward pass of the policy inside."""
        model, trunk = self.policy
        values: list[Tensor] = []
        hidden: list[Tensor] = []  # of a shared trunk, in the pass that runs

        def listen(_: nn.Module, args: Any, output: Any) -> None:
            hidden.append(output.last_hidden_state)

        def speak(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            values.append(self(kwargs["input_ids"], kwargs["attention_mask"], hidden.pop() if hidden else None))

        hooks = [model.register_forward_hook(speak, with_kwargs=True)]
        if self.kind == "shared":
            hooks.append(trunk.register_forward_hook(listen))
        try:
            yield values
        finally:
            for hook in hooks:
                hook.remove()


def attach(model: PreTrainedModel, kind: str) -> Critic:
    """Give `model` a critic, in place, as `model.critic`."""
    trunk = model.base_model if not hasattr(model, "peft_config") else model.get_base_model().base_model
    model.critic = Critic(model, trunk, kind)
    return model.critic


def detach(model: PreTrainedModel) -> None:
    """Take the critic away again."""
    del model.critic
