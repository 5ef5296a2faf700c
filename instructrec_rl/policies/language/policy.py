"""A language model as a policy: it answers instructions with texts, and is saved as a plain Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save
from transformers import AutoModelForCausalLM

from instructrec_rl.core import InputError, Item
from instructrec_rl.core.files import write_bytes_atomic, write_json_atomic
from instructrec_rl.core.forms import Form, Size, read_form
from instructrec_rl.core.pretrained import load_text_tokenizer, load_whole, quiet
from instructrec_rl.core.tensor_files import read_tensors
from instructrec_rl.encoders.states import Asked
from instructrec_rl.policies.language.adapters import ADAPTER, load_adapters
from instructrec_rl.policies.language.choose import ItemTree
from instructrec_rl.policies.language.generate import complete, left_pad
from instructrec_rl.policies.language.models import LanguageModel
from instructrec_rl.policies.language.prompts import bind_states, write_answers, write_prompts, write_turn
from instructrec_rl.policies.language.state_embedding import PROJECTION, install, state_embeddings

ABOUT = "language.json"
STORED = {"float32": "F32", "bfloat16": "BF16"}  # torch's names of a type, and safetensors'
CHUNK = 512  # instructions answered at once, sorted by the length of their prompts

Past = Sequence[Sequence[tuple[str, float]]]


class About(Form):
    """language.json. dim: of the states' vectors, 0 where the model reads none."""

    input: Literal["state", "text", "both"]
    state: Literal["sentence", "clauses", "tokens"]
    max_tokens: Size
    decode: Literal["generate", "choose"]
    dtype: Literal["float32", "bfloat16"]
    dim: Annotated[int, Field(ge=0, le=1 << 24)]


class LanguagePolicy:
    """Answers with the text it writes greedily (`generate`), or with the item whose text is likeliest (`choose`)."""

    def __init__(self, lm: LanguageModel, decode: str, items: Sequence[Item]):
        self.lm, self.decode, self.items = lm, decode, items
        self._trees: dict[bytes, ItemTree] = {}

    def write(self, asked: Asked, menu: np.ndarray, past: Past = ()) -> list[str]:
        """The answer to each of B instructions. past: for each the answers given so far with what they scored."""
        bind_states(self.lm, asked.states)
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
            write_bytes_atomic(folder / PROJECTION, save(projection))
        lm.tokenizer.save_pretrained(folder)
        about = {"input": lm.input, "state": lm.state, "max_tokens": lm.max_tokens, "decode": self.decode}
        about["dtype"] = str(lm.model.dtype).removeprefix("torch.")
        write_json_atomic(folder / ABOUT, about | {"dim": embeddings[0].dim if embeddings else 0})


def load(folder: Path, items: list[Item], dim: int | None = None) -> LanguagePolicy:
    """Read what `LanguagePolicy.save` wrote. Never fetches, never runs code of the folder's, reads no pickle."""
    about = read_form(folder / ABOUT, About)
    if bool(about.dim) != (about.input != "text") or (about.dim and dim not in (None, about.dim)):
        raise InputError(f'"dim" is {about.dim}; the encoder\'s vectors have {dim} numbers', folder / ABOUT)
    if (folder / ADAPTER).exists():
        model = load_adapters(folder, getattr(torch, about.dtype))
    else:
        model = load_whole(AutoModelForCausalLM, folder, dtype=getattr(torch, about.dtype))
    if about.dim:
        install(model, about.dim)
        project = state_embeddings(model)[0].project
        stored = STORED[about.dtype]
        expected = {name: (stored, *weights.shape) for name, weights in project.state_dict().items()}
        project.load_state_dict(read_tensors(folder / PROJECTION, expected, framework="pt"))
    tokenizer = load_text_tokenizer(folder)
    lm = LanguageModel(model.eval(), tokenizer, about.input, about.state, about.max_tokens)
    for name, ids in (("pad", [tokenizer.pad_token_id]), ("end-of-text", lm.eos)):
        if not all(type(number) is int and 0 <= number < lm.vocabulary for number in ids):
            raise InputError(f"the {name} token of the tokenizer is none of the model's", folder)
    if about.max_tokens > lm.context:
        raise InputError(f'"max_tokens" is {about.max_tokens}; the model reads at most {lm.context}', folder / ABOUT)
    return LanguagePolicy(lm, about.decode, items)
