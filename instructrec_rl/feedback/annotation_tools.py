"""The exports of annotation tools as feedback: Argilla's records and Label Studio's tasks.

A task has texts, questions and people's answers. What an answer says follows from its form and its words alone, as the
exports say little of the questions: an answer that could mean several things is an error of that answer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.core.json_reader import is_number
from instructrec_rl.feedback.fields import Fields, text_of

ASKED = ("instruction", "prompt", "question", "text")  # the field that holds the instruction, in this order
ANSWERED = ("response", "completion", "answer", "output", "generation")
PAIRED = re.compile(r"(response|completion|answer|output|generation|reply|text)([-_ ]?)(1|a)", re.IGNORECASE)
SECOND = {"1": "2", "a": "b", "A": "B"}
SIDES = {"left": 0, "right": 1, "first": 0, "second": 1, "1": 0, "2": 1, "a": 0, "b": 1}
TIES = {"tie", "equal"}
UP, DOWN = {"up", "yes", "good", "true", "thumbs_up", "👍"}, {"down", "no", "bad", "false", "thumbs_down", "👎"}
NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d{1,15})?")
# Names of questions whose answer is the response as it should be, and of those that ask for a remark.
IS_CORRECTION = re.compile(
    rf"fix|edit|{'|'.join(ANSWERED)}"
    r"|(.*[-_ .])?(corrected|correction|rewritten|rewrite|rewording|revised|improved|edited|fixed)([-_ .].*)?",
    re.IGNORECASE,
)
IS_REMARK = re.compile(
    r"(.*[-_ .])?(comments?|reasons?|rationale|why|notes?|explanation|explain|remarks?|justification|feedback)"
    r"([-_ .].*)?",
    re.IGNORECASE,
)
OF_A_PART = {"start", "end", "startOffset", "endOffset", "x", "y", "points", "vertices"}  # in a value: a region's
NUMERIC, KINDS = ("rating", "number"), "rating, number, choices, pairwise or textarea"


@dataclass(frozen=True)
class Answer:
    """What one answer says as a record's fields, and to which question. by_number: "1" or "2" named a response."""

    question: str
    fields: Fields
    by_number: bool = False


@dataclass
class Questions:
    """What was said of the questions: the only ones to read (empty: all), and those that ask for a correction.

    seen: all that were found; numbers: of a question about two responses the answers that are numbers.
    """

    only: frozenset[str] = frozenset()
    corrections: frozenset[str] = frozenset()
    seen: set[str] = field(default_factory=set)
    numbers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def wants(self, name: str) -> bool:
        """Whether a question is to be read."""
        self.seen.add(name)
        return not self.only or name in self.only


Found = Iterator[Answer | InputError]


def tried(read: Callable[..., list[Answer]], *arguments: Any) -> Found:
    """What `read` gives; an answer that is not as expected comes as its InputError, and ends nothing else."""
    try:
        yield from read(*arguments)
    except InputError as error:
        yield error
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        yield InputError(f"not an answer of this format: {type(error).__name__}: {error}")


def from_argilla(row: Fields, questions: Questions) -> Found:
    """Records of `to_json` (Argilla 2: responses by question) and of feedback datasets (Argilla 1: by user).

    Drafts and discarded responses, where they are told apart, and suggestions are no answers.
    """
    if not isinstance(row.get("fields"), dict):
        raise InputError('has no "fields": expected a record of to_json')
    responses = row.get("responses") or {}
    if isinstance(responses, list):  # Argilla 1
        for response in responses:
            if isinstance(response, dict) and _is_submitted(response):
                for name, answer in (response.get("values") or {}).items():
                    yield from tried(_of_user, row["fields"], name, answer, response, questions)
        return
    for name, answers in responses.items():
        for answer in answers:
            yield from tried(_of_user, row["fields"], name, answer, answer, questions)


def _is_submitted(response: Fields) -> bool:
    return response.get("status") in (None, "submitted")


def _of_user(fields: Fields, name: str, answer: Fields, by: Fields, questions: Questions) -> list[Answer]:
    if not isinstance(answer, dict) or "value" not in answer:
        raise InputError(f'{name}: expected an answer with a "value", got {answer!r:.60}')
    if not questions.wants(name) or not _is_submitted(by):
        return []
    who = {"annotator": _who(by.get("user_id"))}
    found = _judged(fields, answer["value"], name, questions, IS_CORRECTION.fullmatch(name) is not None)
    return [Answer(name, each.fields | who, each.by_number) for each in found]


def from_label_studio(row: Fields, questions: Questions) -> Found:
    """Tasks of the JSON export: each result of each annotation that was not cancelled. Predictions and drafts are no
    one's answers."""
    if not isinstance(row.get("data"), dict):
        raise InputError('has no "data": expected a task of the JSON export')
    for annotation in row.get("annotations") or []:
        if not isinstance(annotation, dict):
            yield InputError(f"an annotation that is no object: {annotation!r:.60}")
            continue
        if annotation.get("was_cancelled"):
            continue
        who = annotation.get("completed_by")
        who = (_who(who.get("email")) or _who(who.get("id"))) if isinstance(who, dict) else _who(who)
        about = {"annotator": who, "ts": annotation.get("created_at")}
        for result in annotation.get("result") or []:
            yield from tried(_of_result, row["data"], result, about, questions)


def _of_result(data: Fields, result: Fields, about: Fields, questions: Questions) -> list[Answer]:
    if not isinstance(result, dict):
        raise InputError(f"a result that is no object: {result!r:.60}")
    kind = result.get("type")
    name = str(result.get("from_name") or kind)
    if not questions.wants(name):
        return []
    if kind not in (*NUMERIC, "choices", "pairwise", "textarea"):
        raise InputError(f'result of type "{kind}": expected {KINDS}')
    value, key = result.get("value"), {"pairwise": "selected", "textarea": "text"}.get(kind, kind)
    if not isinstance(value, dict) or key not in value:
        raise InputError(f'{name}: expected a value with "{key}", got {value!r:.60}')
    if OF_A_PART & set(value):
        raise InputError(f"{name}: is about a part of the text, not about the whole")
    answer = value[key]
    if isinstance(answer, list):
        if len(answer) != 1:
            raise InputError(f"{name}: expected one answer, got {len(answer)}: {answer!r:.60}")
        answer = answer[0]
    if kind == "pairwise":
        found = [_preferred(data, {"left": 0, "right": 1}.get(str(answer)), name, answer)]
    elif kind in NUMERIC:
        found = [_rated(data, _number(answer, name), name)]
    else:
        found = _judged(data, answer, name, questions, kind == "textarea")
    return [Answer(name, each.fields | about, each.by_number) for each in found]


def _who(value: Any) -> str | None:
    """An annotator's name; None for null, also as Argilla 2 writes it."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value).strip()
    return text if text and text != "None" else None


def _number(value: Any, name: str) -> float:
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        return float(value)
    if not is_number(value):
        raise _cannot_tell(name, value)
    return value


def _judged(fields: Fields, value: Any, name: str, questions: Questions, is_text: bool) -> list[Answer]:
    """What an answer says of a task's texts. is_text: it is one's own words, so no choice among given ones."""
    # a thumb, a rating or a ranking by its type
    if isinstance(value, bool):
        return [_thumbed(fields, value, name)]
    if isinstance(value, int | float):
        return [_rated(fields, value, name)]
    if isinstance(value, list) and value and all(isinstance(entry, dict) and "rank" in entry for entry in value):
        return _ranked(fields, value, name)
    if not isinstance(value, str):
        raise _cannot_tell(name, value)
    word = value.strip().lower().replace("-", "_").replace(" ", "_")
    is_number = NUMBER.fullmatch(value.strip()) is not None
    # a correction
    if name in questions.corrections:
        return [_corrected(fields, value, name)]
    # a preference between two responses
    side, pair = SIDES.get(word), _pair(fields)
    if pair is not None and not (is_text and _single(fields)):
        if is_number and not _single(fields):
            questions.numbers[name].add(word)
        elif word in pair[1]:
            side = pair[1].index(word)
        if word in TIES or (side is not None and not (_single(fields) and len(word) == 1)):
            return [_preferred(fields, side, name, value, is_number)]
    # words of one's own, or a rating or thumb in words
    if is_text:
        if not word or IS_REMARK.fullmatch(name) or is_number or word in UP | DOWN:
            raise _cannot_tell(name, value, f"; where it is the right response, say --correction {name}")
        return [_corrected(fields, value, name)]
    if is_number:
        return [_rated(fields, _number(value, name), name)]
    if word in UP | DOWN:
        return [_thumbed(fields, word in UP, name)]
    raise _cannot_tell(name, value, f"; where it is the right response, say --correction {name}")


def _cannot_tell(name: str, value: Any, hint: str = "") -> InputError:
    if isinstance(value, list) and len(value) > 1 and all(isinstance(each, str) for each in value):
        hint = " (Argilla 2 exports a ranking without its ranks)"
    return InputError(f"{name}: cannot tell what {value!r:.60} says{hint}")


def _single(fields: Fields) -> bool:
    return any(name in fields for name in ANSWERED)


def _pair(fields: Fields) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """The fields of two responses, as they are named and as an answer may name them; None where there are none."""
    for name in fields:
        found = PAIRED.fullmatch(name)
        if found and (other := f"{found[1]}{found[2]}{SECOND[found[3]]}") in fields:
            called = [each.lower().replace("-", "_").replace(" ", "_") for each in (name, other)]
            return (name, other), (called[0], called[1])
    return None


def _thumbed(fields: Fields, up: bool, name: str) -> Answer:
    texts = {"instruction": text_of(fields, ASKED), "response": text_of(fields, ANSWERED)}
    return Answer(name, {"kind": "thumbs", **texts, "up": up})


def _rated(fields: Fields, rating: float, name: str) -> Answer:
    texts = {"instruction": text_of(fields, ASKED), "response": text_of(fields, ANSWERED)}
    return Answer(name, {"kind": "rating", **texts, "rating": rating})


def _corrected(fields: Fields, text: str, name: str) -> Answer:
    texts = {"instruction": text_of(fields, ASKED), "response": text_of(fields, ANSWERED)}
    return Answer(name, {"kind": "correction", **texts, "corrected": text})


def _preferred(fields: Fields, side: int | None, name: str, said: Any, by_number: bool = False) -> Answer:
    """The response of a side is the better one; None: a tie, where that was said."""
    pair = _pair(fields)
    if pair is None:
        raise InputError("has no two responses, such as response1 and response2")
    if side is None and said not in (None, "none") and str(said).strip().lower() in TIES:
        tie: Fields = {"tie": True}
    elif side is None:
        raise _cannot_tell(name, said)
    else:
        tie = {}
    first, second = text_of(fields, (pair[0][0],)), text_of(fields, (pair[0][1],))
    texts = {"chosen": second, "rejected": first} if side == 1 else {"chosen": first, "rejected": second}
    return Answer(name, {"kind": "preference", "instruction": text_of(fields, ASKED), **texts, **tie}, by_number)


def _ranked(fields: Fields, value: list[Fields], name: str) -> list[Answer]:
    """A ranking; where some share a rank, preferences between those that do not."""
    if any(not is_number(one["rank"]) for one in value):
        raise _cannot_tell(name, value)
    ordered = sorted(value, key=lambda one: one["rank"])
    texts, ranks = [text_of(fields, (one["value"],)) for one in ordered], [one["rank"] for one in ordered]
    asked = text_of(fields, ASKED)
    if len(set(ranks)) == len(ranks):
        return [Answer(name, {"kind": "ranking", "instruction": asked, "responses": texts})]
    if len(set(ranks)) == 1:
        raise InputError(f"{name}: all {len(ranks)} responses have one rank: that is no order")
    return [
        Answer(name, {"kind": "preference", "instruction": asked, "chosen": better, "rejected": worse})
        for k, better in enumerate(texts)
        for other, worse in enumerate(texts)
        if ranks[k] < ranks[other]
    ]
