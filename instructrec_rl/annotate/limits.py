"""How long a question may be. One limit, by which questions are chosen; what is chosen can then be sent and saved."""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii

MAX_TEXT_BYTES = 96 * 1024  # an instruction, a response or a correction, as JSON in its longest form (\u00e9)
MAX_RESPONSES = 8  # of a question
MAX_QUESTION_BYTES = 5 * MAX_TEXT_BYTES  # an instruction and four responses, the most that are chosen
MAX_RATIONALE = 2000  # characters
MAX_BODY_BYTES = MAX_QUESTION_BYTES + MAX_TEXT_BYTES + 64 * 1024  # with a correction, and all else


def json_bytes(text: str) -> int:
    """The bytes of a text as JSON where every character beyond ASCII is escaped; no way of writing it is longer."""
    return len(encode_basestring_ascii(text)) - 2


def fits(text: str) -> bool:
    """Whether a text can be part of a question."""
    return len(text) * 12 <= MAX_TEXT_BYTES or json_bytes(text) <= MAX_TEXT_BYTES


def question_fits(instruction: str, responses: Sequence[str]) -> bool:
    """Whether the answer to a question can be sent and saved: not too long, nor too many responses, nor one twice."""
    texts = [instruction, *responses]
    if len(responses) > MAX_RESPONSES or len(set(responses)) != len(responses):
        return False
    rough = 12 * sum(map(len, texts)) <= MAX_QUESTION_BYTES
    return rough or sum(map(json_bytes, texts)) <= MAX_QUESTION_BYTES
