"""What a language model is given to read: an instruction's state as soft tokens, its text, and earlier turns."""

from __future__ import annotations

from collections.abc import Sequence

from instructrec_rl.core import InputError
from instructrec_rl.env.states import Asked
from instructrec_rl.language.generate import Ids
from instructrec_rl.language.models import LanguageModel
from instructrec_rl.language.state_embedding import fill_tables
from instructrec_rl.language.tokenizer import SCORES


def write_prompts(lm: LanguageModel, asked: Asked) -> list[Ids]:
    """The prompt of each instruction, as token ids. Makes the model's soft tokens stand for these instructions.

    Raises InputError for a prompt that leaves no room for an answer in the model's context.
    """
    soft: list[Ids] = [[] for _ in range(len(asked))]
    if lm.input != "text":
        states = asked.states(lm.state)
        fill_tables(states.vectors, lm.model)
        size = lm.vocabulary
        soft = [[size + int(k) for k in row if k >= 0] for row in states.index]
    written = _write_texts(lm, asked.texts)
    prompts = [[*states, *text] for states, text in zip(soft, written)]
    for text, prompt in zip(asked.texts, prompts):
        if len(prompt) + lm.max_tokens > lm.context:
            raise InputError(
                f'the prompt of "{text[:60]}" has {len(prompt)} tokens; with policy.max_tokens={lm.max_tokens} for the '
                f"answer that is more than the model's context of {lm.context}"
            )
    return prompts


def _write_texts(lm: LanguageModel, texts: Sequence[str]) -> list[Ids]:
    """What stands behind the soft tokens: the instruction, where the model reads it, and what asks for an answer."""
    tokenizer, shown = lm.tokenizer, list(texts) if lm.input != "state" else [""] * len(texts)
    if tokenizer.sep_token_id is not None and not tokenizer.chat_template:
        end = [tokenizer.sep_token_id]
        if lm.input == "state":
            return [end] * len(shown)
        return [[*ids, *end] for ids in tokenizer(shown, add_special_tokens=False)["input_ids"]]
    if tokenizer.chat_template:
        said = [[{"role": "user", "content": text}] for text in shown]
        lines = [tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in said]
    else:
        lines = [f"{text}\n" for text in shown]
    return [list(ids) for ids in tokenizer(lines, add_special_tokens=not tokenizer.chat_template)["input_ids"]]


def write_turn(lm: LanguageModel, scores: Sequence[float]) -> list[Ids]:
    """What stands between an answer and the next one, where an episode has several turns: what the answer earned."""
    known = lm.tokenizer.get_vocab()
    if SCORES[0] in known:
        return [[known[SCORES[round(10 * min(max(score, 0.0), 1.0))]], lm.tokenizer.sep_token_id] for score in scores]
    said = [f"\nThat scored {score:.1f} of 1. Better:\n" for score in scores]
    return [list(ids) for ids in lm.tokenizer(said, add_special_tokens=False)["input_ids"]]


def write_answers(lm: LanguageModel, texts: Sequence[str]) -> list[Ids]:
    """Texts as the model would write them, with the end of text behind."""
    if not len(texts):  # tokenizers refuse an empty batch
        return []
    return [
        [*ids, lm.tokenizer.eos_token_id] for ids in lm.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    ]
