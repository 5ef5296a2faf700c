"""Texts of the data as token ids: a text that spells a control token (`<eos>`, `<|im_end|>`) is the letters it has.

Else an item whose text holds one could never be named, and an instruction could end its own prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from instructrec_rl.core import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[int]


def control_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that end, pad or part texts, by id. The one for unknown letters is none, as data may have such."""
    found = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    found |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens))
    if tokenizer.unk_token_id != tokenizer.eos_token_id:
        found.pop(tokenizer.unk_token_id, None)
    return found


def encode_data(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], around: bool = False) -> list[Ids]:
    """The ids of texts, no control token among them.

    around: with what the tokenizer itself puts before and behind a text. Raises InputError for a text that the
    tokenizer cannot tell from a control token.
    """
    if not len(texts):  # tokenizers refuse an empty batch
        return []
    control = control_ids(tokenizer)
    found = tokenizer(list(texts), add_special_tokens=around, split_special_tokens=True)["input_ids"]
    rows = [list(ids) for ids in found]
    before, behind = _around(tokenizer) if around else ([], [])
    for place, ids in enumerate(rows):
        # a vocabulary may have learned the letters of a control token as one: then they are read apart
        if not control.keys().isdisjoint(ids[len(before) : len(ids) - len(behind)]):
            rows[place] = [*before, *_in_pieces(tokenizer, texts[place], control), *behind]
    return rows


def _in_pieces(tokenizer: PreTrainedTokenizerBase, text: str, control: dict[int, str]) -> Ids:
    """The ids of a text that is cut within every control token, and where that is not enough, of its letters."""
    spelled = "|".join(re.escape(token) for token in sorted(control.values(), key=len, reverse=True) if len(token) > 1)
    cut = re.sub(rf"(?={spelled})(.)", "\\1\0", text, flags=re.DOTALL).split("\0") if "\0" not in text else list(text)
    for pieces in (cut, list(text)):
        encoded = tokenizer(pieces, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [number for piece in encoded for number in piece]
        if control.keys().isdisjoint(ids):
            return ids
    raise InputError(f'the tokenizer of the policy reads a part of "{text[:60]}" as one of its control tokens')


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    """What the tokenizer puts before and behind a text."""
    whole, bare = (list(tokenizer("a", add_special_tokens=added)["input_ids"]) for added in (True, False))
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return whole[:start], whole[start + len(bare) :]
