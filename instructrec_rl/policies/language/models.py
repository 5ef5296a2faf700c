"""The causal language models that a policy can be: one made here from scratch, or any Hugging Face one, with LoRA."""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from instructrec_rl.config.schema import TINY_CONTEXT
from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.pretrained import load_text_tokenizer, load_whole, quiet
from instructrec_rl.policies.language.data_text import encode_data
from instructrec_rl.policies.language.state_embedding import install, state_embeddings
from instructrec_rl.policies.language.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from instructrec_rl.config.schema import PolicyConfig
    from instructrec_rl.env.environment import Environment

DEFAULT_ANSWER = 64  # tokens, where no catalog says how long an answer gets


@dataclass
class LanguageModel:
    """A causal LM with what it takes to put an instruction to it.

    input: what the prompt holds, `state` (soft tokens), `text`, or `both`; state: the granularity of the soft tokens;
    max_tokens: of an answer, the end of text included; made_here: whether it began with random weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    input: str
    state: str
    max_tokens: int
    made_here: bool = False

    @property
    def vocabulary(self) -> int:
        """V: ids from here on are soft tokens."""
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def eos(self) -> list[int]:
        """Every id that ends an answer."""
        declared = self.model.generation_config.eos_token_id
        listed = declared if isinstance(declared, list) else [] if declared is None else [declared]
        return [self.tokenizer.eos_token_id, *(i for i in listed if i != self.tokenizer.eos_token_id)]

    @property
    def context(self) -> int:
        """The most tokens that prompt and answers may have together."""
        return int(getattr(self.model.config, "max_position_embeddings", TINY_CONTEXT))


def load_language_model(env: Environment, config: PolicyConfig) -> LanguageModel:
    """The model that `policy=NAME` names, ready to read the environment's states.

    Raises InputError for a model that is not there, has no token to pad with, or lacks a module named for adapters.
    """
    config = dataclasses.replace(config, input=config.input or ("state" if _made_here(config) else "both"))
    if _made_here(config):
        return _tiny(env, config)
    if config.name == "smollm2":
        from instructrec_rl.policies.language.smollm2 import smollm2_folder

        return _pretrained(env, config, smollm2_folder())
    return _pretrained(env, config, _folder_of(config.model))


def restore_forward(model: PreTrainedModel) -> None:
    """Undo what a TRL trainer did to `model.forward`.

    Its fused head is a closure over the model it was made for: a deep copy would go on calling the original, and a
    reference made so would always agree with the policy.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    base.__dict__.pop("forward", None)


def own_copy(module: Any) -> Any:
    """A deep copy with weights of its own where they are trained; frozen ones (below adapters) are shared."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters() if not weight.requires_grad})


def _made_here(config: PolicyConfig) -> bool:
    return config.name in ("default", "tiny")


def _tiny(env: Environment, config: PolicyConfig) -> LanguageModel:
    """A Llama of about a million parameters with random weights, and a tokenizer of the environment's own texts.

    Llama (Touvron et al. 2023) as transformers has it, so that its folder is a plain one. Weights come from torch's
    global generator.
    """
    items = [item.text for item in env.items]
    read = [] if config.input == "state" else [str(text) for text in env.instructions[env.spec.rows("train")]]
    tokenizer = train_tokenizer(items, read)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=8 * config.hidden // 3 // 8 * 8,
        num_hidden_layers=config.layers,
        num_attention_heads=max(1, config.hidden // 32),
        max_position_embeddings=TINY_CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(shape)
    if config.input != "text":
        install(model, env.encoder.dim)
    answer = config.max_tokens or _longest(tokenizer, items) + 2
    return LanguageModel(model, tokenizer, config.input, env.spec.state, answer, made_here=True)


def _longest(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> int:
    return max(map(len, encode_data(tokenizer, texts)))


def _folder_of(model: str) -> Path | str:
    """A folder that is there, or the id of a model on the hub."""
    folder = Path(model).expanduser().resolve()  # whole: adapters remember it, and may be loaded from elsewhere
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError("policy.model: this folder holds no model (no config.json)", folder)
        return folder
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model):
        raise InputError("policy.model: no such folder, and not the id of a model on the hub (org/name)", model)
    return model


def _pretrained(env: Environment, config: PolicyConfig, place: Path | str) -> LanguageModel:
    """A causal LM from a folder or the hub, with adapters where they are asked for."""
    tokenizer, model = _loaded(place, torch.bfloat16 if config.dtype == "bf16" else torch.float32)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError("policy.model: its tokenizer has neither a pad token nor an end-of-text token", place)
        tokenizer.pad_token = tokenizer.eos_token
    if config.lora:
        model = _with_adapters(model, config)
    if config.input != "text":
        install(model.get_base_model() if config.lora else model, env.encoder.dim)
        state_embeddings(model)[0].resemble_tokens()
    longest = _longest(tokenizer, [item.text for item in env.items]) + 2 if env.items else DEFAULT_ANSWER
    answer = config.max_tokens or longest
    return LanguageModel(model, tokenizer, config.input, env.spec.state, answer)


def _loaded(place: Path | str, dtype: torch.dtype) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """A tokenizer and a model, from a folder or the hub. Raises InputError where they cannot be loaded."""
    try:
        if isinstance(place, Path):
            tokenizer = load_text_tokenizer(place, padding_side="left")
            return tokenizer, load_whole(AutoModelForCausalLM, place, dtype=dtype)
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, padding_side="left")
            own = {"trust_remote_code": False, "use_safetensors": True}
            return tokenizer, AutoModelForCausalLM.from_pretrained(place, **own, dtype=dtype)
    except (InputError, OSError, ValueError) as error:  # what transformers raises for what it cannot find or read
        reason = str(getattr(error, "reason", error)).strip().partition("\n")[0][:240]
        where = getattr(error, "path", None) or place
        raise InputError(f"policy.model: no causal language model could be loaded: {reason}", where) from error


def _with_adapters(model: PreTrainedModel, config: PolicyConfig) -> PreTrainedModel:
    """Low-rank adapters (Hu et al. 2022) on the modules that `policy.lora_targets` names."""
    from peft import LoraConfig, get_peft_model

    targets: str | list[str] = config.lora_targets
    if targets != "all-linear":
        targets = [target.strip() for target in config.lora_targets.split(",")]
        known = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        for target in targets:
            if target == "lm_head":
                raise InputError("policy.lora_targets: lm_head cannot have adapters; its log-probabilities are fused")
            if target not in known:
                raise InputError(f'policy.lora_targets: the model has no module "{target}".{nearest(target, known)}')
    width = model.get_input_embeddings().weight.shape[1]
    if config.lora_rank > width:
        raise InputError(f"policy.lora_rank={config.lora_rank}: expected at most {width}, the width of the model")
    options = LoraConfig(
        r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=targets, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, options)
