"""A language model as a policy: it answers instructions with texts, and is saved as a plain Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from instructrec_rl.core import InputError, Item
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.encoders.model_files import quiet
from instructrec_rl.encoders.states import Asked
from instructrec_rl.policies.language import smollm2
from instructrec_rl.policies.language.choose import ItemTree
from instructrec_rl.policies.language.generate import complete, left_pad
from instructrec_rl.policies.language.models import LanguageModel
from instructrec_rl.policies.language.prompts import write_answers, write_prompts, write_turn
from instructrec_rl.policies.language.state_embedding import PROJECTION, install, state_embeddings

ABOUT = "language.json"
CHUNK = 512  # instructions answered at once, sorted by the length of their prompts

Past = Sequence[Sequence[tuple[str, float]]]


class LanguagePolicy:
    """Answers with the text it writes greedily (`generate`), or with the item whose text is likeliest (`choose`)."""

    def __init__(self, lm: LanguageModel, decode: str, items: Sequence[Item]):
        self.lm, self.decode, self.items = lm, decode, items
        self._trees: dict[bytes, ItemTree] = {}

    def write(self, asked: Asked, menu: np.ndarray, past: Past = ()) -> list[str]:
        """The answer to each of B instructions. past: for each the answers given so far with what they scored."""
        prompts = write_prompts(self.lm, asked)
        for prompt, turns in zip(prompts, past):
            said = write_answers(self.lm, [text for text, _ in turns])
            for answer, between in zip(said, write_turn(self.lm, [score for _, score in turns])):
                prompt += answer + between
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), CHUNK):
            some = order[start : start + CHUNK]
            padded = left_pad([prompts[i] for i in some], self.lm.tokenizer.pad_token_id, self.lm.model.device)
            found = self._choose(padded, menu) if self.decode == "choose" else self._generate(padded)
            for i, text in zip(some, found):
                answers[i] = text
        return answers

    def _generate(self, prompts: tuple[torch.Tensor, torch.Tensor]) -> list[str]:
        lm = self.lm
        written = complete(lm.model, prompts, lm.max_tokens, lm.eos, lm.tokenizer.pad_token_id)
        rows = [ids[:n] for ids, n in zip(written.ids.tolist(), written.mask.sum(1).tolist())]
        return lm.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def _choose(self, prompts: tuple[torch.Tensor, torch.Tensor], menu: np.ndarray) -> list[str]:
        key = menu.tobytes()
        if key not in self._trees:
            self._trees[key] = ItemTree(write_answers(self.lm, [self.items[i].text for i in menu]))
        return [self.items[menu[i]].text for i in self._trees[key].likeliest(self.lm.model, prompts)]

    def save(self, folder: Path) -> None:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` reads (with adapters alone where there are any),
        the tokenizer, and beside them what reads the state: state_projection.safetensors and language.json.
        """
        lm = self.lm
        embeddings = state_embeddings(lm.model)
        base = lm.model.get_base_model() if hasattr(lm.model, "peft_config") else lm.model
        if embeddings:
            base.set_input_embeddings(embeddings[0].tokens)
        with quiet():
            lm.model.save_pretrained(folder)
        if embeddings:
            base.set_input_embeddings(embeddings[0])
            projection = {k: v.cpu().contiguous() for k, v in embeddings[0].project.state_dict().items()}
            save_file(projection, folder / PROJECTION)
        lm.tokenizer.save_pretrained(folder)
        about = {"input": lm.input, "state": lm.state, "max_tokens": lm.max_tokens, "decode": self.decode}
        about["dtype"] = str(lm.model.dtype).removeprefix("torch.")
        write_json_atomic(folder / ABOUT, about | {"dim": embeddings[0].dim if embeddings else 0})


def _base_of(folder: Path) -> str:
    """The model below a folder's adapters, or an empty text where it holds no adapters but a whole model.

    SmolLM2 is looked for, and made, in this machine's cache. Raises InputError for another folder that is gone.
    """
    if not (folder / "adapter_config.json").is_file():
        return ""
    base = str(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    if Path(base).name.startswith(smollm2.FOLDER):
        return str(smollm2.smollm2_folder())
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise InputError("these adapters were trained on a model that is not there any more", base)
    return base


def load(folder: Path, items: list[Item]) -> LanguagePolicy:
    """Read what `LanguagePolicy.save` wrote. Never fetches, and never runs code of the folder's."""
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    dtype = torch.bfloat16 if about["dtype"] == "bfloat16" else torch.float32
    own = {"local_files_only": True, "trust_remote_code": False}
    base = _base_of(folder)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(base or folder, dtype=dtype, **own)
        if base:
            model.load_adapter(str(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder, **own)
    if about["dim"]:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        install(base, about["dim"])
        state_embeddings(base)[0].project.load_state_dict(load_file(folder / PROJECTION))
    lm = LanguageModel(model.eval(), tokenizer, about["input"], about["state"], about["max_tokens"])
    return LanguagePolicy(lm, about["decode"], items)
