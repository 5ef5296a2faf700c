"""V(s): what the rest of an episode will earn, for every token of an answer.

The critic is a submodule of the policy's model and runs inside its forward pass (by a hook, where it is asked to), so
that DistributedDataParallel and its kin see one module with one forward; it is left out of what a policy saves.
"""

from __future__ import annotations

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

    `asked` says whether the policy's forward shall run it; `take` gives what it said.
    """

    def __init__(self, model: PreTrainedModel, trunk: nn.Module, kind: str):
        super().__init__()
        self.kind, self.asked = kind, False
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
        self.hooks: list[Any] = []
        self._hidden: Tensor | None = None
        self._said: Tensor | None = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """V before each token, (B, L) float32; of a shared trunk, from the pass of the policy that just ran."""
        if self.kind == "state":
            return self._of_state(input_ids)[:, None].expand(-1, input_ids.shape[1])
        if self.trunk is not None:
            hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        else:
            assert self._hidden is not None, "a shared critic speaks after the policy's forward pass"
            hidden = self._hidden
        return self.head(hidden.float())[..., 0].roll(1, dims=1)  # the state before token t ends at token t - 1

    def _of_state(self, ids: Tensor) -> Tensor:
        """One value for each row (B,), of the soft tokens in it."""
        states = self.states[0]
        soft = ids >= states.tokens.num_embeddings
        vectors = states.table[ids[soft] - states.tokens.num_embeddings]
        lengths = soft.sum(1)
        which = torch.arange(len(vectors), device=ids.device)
        return self.network(Sets(vectors, which, lengths.cumsum(0) - lengths))[:, 0]

    def take(self) -> Tensor:
        """The values (B, L) of the last forward pass."""
        assert self._said is not None, "the critic was not asked"
        said, self._said, self._hidden = self._said, None, None
        return said


def attach(model: PreTrainedModel, kind: str) -> Critic:
    """Give `model` a critic, in place, as `model.critic`."""
    trunk = model.base_model if not hasattr(model, "peft_config") else model.get_base_model().base_model
    critic = Critic(model, trunk, kind)

    def listen(_: nn.Module, args: Any, output: Any) -> None:
        if critic.asked:
            critic._hidden = output.last_hidden_state

    def speak(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if critic.asked:
            critic._said = critic(kwargs["input_ids"], kwargs["attention_mask"])

    critic.hooks = [model.register_forward_hook(speak, with_kwargs=True)]
    if kind == "shared":
        critic.hooks.append(trunk.register_forward_hook(listen))
    model.critic = critic
    return critic


def detach(model: PreTrainedModel) -> None:
    """Take the critic and its hooks away again."""
    for hook in model.critic.hooks:
        hook.remove()
    del model.critic
