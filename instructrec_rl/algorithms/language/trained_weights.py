"""The part of a model that is trained, as a file: adapters or all weights, the state's projection, the critic."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from instructrec_rl.core import InputError
from instructrec_rl.core.files import replacing

WEIGHTS = "trainable.safetensors"


def trained_of(model: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Every trained tensor of a model by name, out of `state` where that is given."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in (state or model.state_dict()).items() if name in names}


def save_trained(tensors: dict[str, Tensor], path: Path, **about: str) -> None:
    """Write tensors, whole or not at all; about: texts kept in the file's head. Raises InputError for a full disk."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as part:
        try:
            save_file(whole, part, metadata=about)
        except SafetensorError as error:  # it wraps a full disk in its own exception
            raise InputError(f"cannot write: {error}", path) from error


def load_trained(model: nn.Module, path: Path) -> None:
    """Read what `save_trained` wrote back into the model. Raises ValueError where it is of another model."""
    tensors = load_file(path)
    missing = set(trained_of(model)) ^ set(tensors)
    if missing:
        raise ValueError(f"{path}: not of this model ({sorted(missing)[0]})")
    model.load_state_dict(tensors, strict=False)
