"""What a language model is given to read: an instruction's state as soft tokens, its text, and earlier turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from instructrec_rl.core import InputError
from instructrec_rl.encoders.states import Asked, States
from instructrec_rl.policies.language.data_text import control_ids, encode_data
from instructrec_rl.policies.language.generate import Ids
from instructrec_rl.policies.language.models import LanguageModel
from instructrec_rl.policies.language.state_embedding import fill_tables
from instructrec_rl.policies.language.tokenizer import SCORES

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def bind_states(lm: LanguageModel, states: Callable[[str], States], *others: nn.Module | None) -> None:
    """Let the soft tokens of the model, and of `others`, stand for states: prompts of these texts are read by them.

    states: gives them at the model's granularity; not called where the model reads the text alone.
    """
    if lm.input != "text":
        fill_tables(states(lm.state).vectors, lm.model, *others)


def write_prompts(lm: LanguageModel, asked: Asked) -> list[Ids]:
    """The prompt of each instruction, as token ids; the model reads it once it is bound to these states.

    Raises InputError for a prompt that leaves no room for an answer in the model's context.
    """
    soft: list[Ids] = [[] for _ in range(len(asked))]
    if lm.input != "text":
        states = asked.states(lm.state)
        size = lm.vocabulary
        soft = [[size + int(k) for k in row if k >= 0] for row in states.index]
    prompts = [[*before, *states, *after] for states, (before, after) in zip(soft, _write_texts(lm, asked.texts))]
    for text, prompt in zip(asked.texts, prompts):
        if len(prompt) + lm.max_tokens > lm.context:
            raise InputError(
                f'the prompt of "{text[:60]}" has {len(prompt)} tokens; with policy.max_tokens={lm.max_tokens} for the '
                f"answer that is more than the model's context of {lm.context}"
            )
    return prompts


def _write_texts(lm: LanguageModel, texts: Sequence[str]) -> list[tuple[Ids, Ids]]:
    """What stands before and behind the soft tokens: behind them the instruction, where the model reads it, and what
    asks for an answer; before them nothing, or what opens the user's turn of a chat.
    """
    tokenizer, shown = lm.tokenizer, list(texts) if lm.input != "state" else [""] * len(texts)
    if tokenizer.chat_template:
        return _write_chats(tokenizer, shown)
    if tokenizer.sep_token_id is not None:
        end = [tokenizer.sep_token_id]
        if lm.input == "state":
            return [([], end)] * len(shown)
        return [([], [*ids, *end]) for ids in encode_data(tokenizer, shown)]
    return [([], ids) for ids in encode_data(tokenizer, [f"{text}\n" for text in shown], around=True)]


def _write_chats(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[Ids, Ids]]:
    """The model's chat template around each text, cut where the user's words begin: the state is part of them.

    Not at the very start, where a causal LM that comes trained expects one certain token.
    """
    here = "\N{OBJECT REPLACEMENT CHARACTER}"
    said = [{"role": "user", "content": here}]
    chat = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    opening, found, closing = chat.partition(here)
    if not found:
        raise InputError("policy.model: its chat template leaves out what the user says")
    before = list(tokenizer(opening, add_special_tokens=False)["input_ids"])
    end = list(tokenizer(closing, add_special_tokens=False)["input_ids"])
    behind = tokenizer([f"{text}{closing}" for text in texts], add_special_tokens=False)["input_ids"]
    rows, control = [list(ids) for ids in behind], control_ids(tokenizer)
    several = sum(i in control for i in end)
    for place, ids in enumerate(rows):
        if sum(i in control for i in ids) != several:  # the user's words spell a control token of the template's
            rows[place] = [*encode_data(tokenizer, [texts[place]])[0], *end]
    return [(before, ids) for ids in rows]


def write_turn(lm: LanguageModel, scores: Sequence[float]) -> list[Ids]:
    """What stands between an answer and the next one, where an episode has several turns: what the answer earned."""
    if not len(scores):  # tokenizers refuse an empty batch
        return []
    known = lm.tokenizer.get_vocab()
    if SCORES[0] in known:
        return [[known[SCORES[round(10 * min(max(score, 0.0), 1.0))]], lm.tokenizer.sep_token_id] for score in scores]
    said = [f"\nThat scored {score:.1f} of 1. Better:\n" for score in scores]
    return [list(ids) for ids in lm.tokenizer(said, add_special_tokens=False)["input_ids"]]


def write_answers(lm: LanguageModel, texts: Sequence[str]) -> list[Ids]:
    """Texts as the model would write them, with the end of text behind."""
    return [[*ids, lm.tokenizer.eos_token_id] for ids in encode_data(lm.tokenizer, texts)]
