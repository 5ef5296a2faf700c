"""V(s): what the rest of an episode will earn, for every token of an answer.

The critic is a submodule of the policy's model and runs inside its forward pass (by a hook, where it is asked to), so
that DistributedDataParallel and its kin see one module with one forward; it is left out of what a policy saves.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from instructrec_rl.language.models import own_copy

KINDS = ("separate", "shared")


class Critic(nn.Module):
    """V = w . h + b, h the last hidden state of a trunk: the policy's own (`shared`) or a copy of it (`separate`; of a
    model with adapters, one with adapters of its own on the same weights).

    The head starts at zero. `asked` says whether the policy's forward shall run it; `take` gives what it said.
    """

    def __init__(self, trunk: nn.Module, width: int, kind: str):
        super().__init__()
        self.kind, self.asked = kind, False
        self.trunk = own_copy(trunk) if kind == "separate" else None
        parameter = next(trunk.parameters())
        self.head = nn.Linear(width, 1, device=parameter.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.hooks: list[Any] = []
        self._hidden: Tensor | None = None
        self._said: Tensor | None = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """V before each token, (B, L) float32; of a shared trunk, from the pass of the policy that just ran."""
        if self.trunk is not None:
            hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        else:
            assert self._hidden is not None, "a shared critic speaks after the policy's forward pass"
            hidden = self._hidden
        return self.head(hidden.float())[..., 0].roll(1, dims=1)  # the state before token t ends at token t - 1

    def take(self) -> Tensor:
        """The values (B, L) of the last forward pass."""
        assert self._said is not None, "the critic was not asked"
        said, self._said, self._hidden = self._said, None, None
        return said


def attach(model: PreTrainedModel, kind: str) -> Critic:
    """Give `model` a critic, in place, as `model.critic`."""
    trunk = model.base_model if not hasattr(model, "peft_config") else model.get_base_model().base_model
    critic = Critic(trunk, model.config.get_text_config().hidden_size, kind)

    def listen(_: nn.Module, args: Any, output: Any) -> None:
        if critic.asked and kind == "shared":
            critic._hidden = output.last_hidden_state

    def speak(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if critic.asked:
            critic._said = critic(kwargs["input_ids"], kwargs["attention_mask"])

    critic.hooks = [trunk.register_forward_hook(listen), model.register_forward_hook(speak, with_kwargs=True)]
    model.critic = critic
    return critic


def detach(model: PreTrainedModel) -> None:
    """Take the critic and its hooks away again."""
    for hook in model.critic.hooks:
        hook.remove()
    del model.critic
