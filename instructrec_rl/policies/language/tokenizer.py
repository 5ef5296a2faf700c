"""A tokenizer out of an environment's own texts, for a language model that is trained here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, SEP = "<pad>", "<eos>", "<sep>"
SCORES = tuple(f"<score_{tenths}>" for tenths in range(11))  # what the last answer earned, in tenths
DELIMITERS = r", | \| |; |: |\. |\n"


def train_tokenizer(
    answers: Iterable[str], instructions: Sequence[str] = (), vocab_size: int = 1024
) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Sennrich et al. 2016) whose tokens may span words, but not the delimiters of a list.

    So ", goat cheese" can be one token: an answer is a few tokens long, and what a token says is what an item has.
    Every text can be written (bytes are the alphabet). answers: texts the policy is to write; instructions: texts it is
    to read, where it reads text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # cut texts into bytes, and at delimiters
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(DELIMITERS), behavior="merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # merge what is often together
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, SEP, *SCORES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    written = list(answers)
    repeats = max(1, len(instructions) // max(1, len(written)))  # both sides weigh alike in the merges
    tokenizer.train_from_iterator([*written * repeats, *instructions], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, sep_token=SEP, padding_side="left"
    )
