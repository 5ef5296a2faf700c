"""Low-rank adapters of a saved policy, over a model that must be on this machine already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from transformers import AutoModelForCausalLM, PreTrainedModel

from instructrec_rl.core import InputError
from instructrec_rl.core.forms import Form, Size, read_form
from instructrec_rl.core.pretrained import load_whole, quiet
from instructrec_rl.core.tensor_files import read_header, read_tensors
from instructrec_rl.encoders.model_files import from_hub
from instructrec_rl.policies.language import smollm2

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterForm(Form):
    """What is used of PEFT's adapter_config.json: everything else is as we make adapters, whatever it says."""

    model_config = ConfigDict(extra="ignore")

    peft_type: Literal["LORA"]
    base_model_name_or_path: Annotated[str, Field(min_length=1)]
    r: Size
    lora_alpha: Size
    target_modules: Annotated[list[str], Field(min_length=1)] | str


def load_adapters(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A folder's adapters on the model below them, which is never fetched.

    Raises InputError where that model is not here, and where the adapters are not of it.
    """
    from peft import LoraConfig

    about = read_form(folder / ADAPTER, AdapterForm)
    path = folder / ADAPTER_WEIGHTS
    header = read_header(path)
    ranks = {tensor.shape[0] for name, tensor in header.items() if name.endswith("lora_A.weight") and tensor.shape}
    if ranks != {about.r} or {tensor.dtype for tensor in header.values()} - {"F32", "BF16", "F16"}:
        raise InputError(f'"r" is {about.r}, the tensors are not adapters of that rank', folder / ADAPTER)
    model = load_whole(AutoModelForCausalLM, _base_folder(about.base_model_name_or_path), dtype=dtype)
    tensors = read_tensors(path, {name: (tensor.dtype, *tensor.shape) for name, tensor in header.items()}, "pt")
    options = LoraConfig(
        r=about.r, lora_alpha=about.lora_alpha, target_modules=about.target_modules, task_type="CAUSAL_LM"
    )
    try:
        with quiet():
            found = model.load_adapter(peft_config=options, adapter_state_dict=tensors)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:  # what PEFT raises for another model's adapters
        raise InputError(f"the adapters do not fit the model below them ({str(error)[:160]})", path) from error
    wrong = sorted(map(str, (*found.missing_keys, *found.unexpected_keys, *found.mismatched_keys)))
    if wrong:
        raise InputError(f'the adapters do not fit the model below them: "{wrong[0][:120]}"', path)
    return model


def _base_folder(name: str) -> Path:
    """The model below adapters: SmolLM2 out of its package, a folder, or a model of the hub that was fetched before."""
    if Path(name).name.startswith(smollm2.FOLDER):
        return smollm2.smollm2_folder()
    if Path(name).is_absolute():
        if not Path(name).is_dir():
            raise InputError("these adapters were trained on a model that is not there any more", name)
        return Path(name)
    return from_hub(name, "the model below the policy's adapters", fetch=False)
