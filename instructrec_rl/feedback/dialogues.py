"""Dialogues as feedback: TRL's preference formats, whose texts may be lists of messages, and HH-RLHF's transcripts.

Of a dialogue everything before the judged answer is the instruction: one user's message alone as its text, several as
the transcript that HH-RLHF writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.feedback.fields import Fields, text_of

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
SPEAKERS = {"user": "Human", "human": "Human", "assistant": "Assistant"}

Messages = list[dict[str, Any]]


def from_preference(row: Fields) -> Iterator[Fields]:
    """A row of TRL's preference format, with a prompt or an implicit one; and of our own export, with its kind."""
    about, kind = kept(row), row.get("kind")
    if isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str) and not _has_prompt(row):
        yield _implicit(row) | about
        return
    prompt, chosen, rejected = _parts(row)
    if kind == "correction":
        yield {"kind": kind, "instruction": prompt, "response": rejected, "corrected": chosen, **about}
        return
    if kind in ("ranking", "rating") and "id" in about:  # one of several rows of a record
        about["id"] = hashlib.sha256(f"{about['id']}\0{chosen}\0{rejected}".encode()).hexdigest()[:16]
    yield {"kind": "preference", "instruction": prompt, "chosen": chosen, "rejected": rejected, **about}


def from_unpaired(row: Fields) -> Iterator[Fields]:
    """A row of TRL's unpaired preference format; and of our own export, with its rating."""
    prompt, completion, about = _said(row, "prompt"), _said(row, "completion"), kept(row)
    if row.get("kind") == "rating" and "rating" in row:
        more = {"rating": row["rating"], "scale": row.get("scale")}
        yield {"kind": "rating", "instruction": prompt, "response": completion, **more, **about}
    elif "label" not in row:
        raise InputError('has no "label": expected true or false')
    else:
        yield {"kind": "thumbs", "instruction": prompt, "response": completion, "up": row["label"], **about}


def from_hh(row: Fields) -> Iterator[Fields]:
    """The dialogue up to the last turn of the assistant is the instruction; both must share it."""
    chosen, rejected = text_of(row, ("chosen",)), text_of(row, ("rejected",))
    asked, found, good = chosen.rpartition(ASSISTANT)
    other, _, bad = rejected.rpartition(ASSISTANT)
    if not found or asked != other:
        asked, found, _ = chosen[: _shared(chosen, rejected)].rpartition(ASSISTANT)
        if not found:
            raise InputError('chosen and rejected share no dialogue that ends in "\\n\\nAssistant:"')
        good, bad = chosen[len(asked) + len(found) :], rejected[len(asked) + len(found) :]
    if asked.startswith(HUMAN) and asked.count(HUMAN) == 1 and ASSISTANT not in asked:
        asked = asked.removeprefix(HUMAN)
    yield {"kind": "preference", "instruction": asked.strip(), "chosen": good.strip(), "rejected": bad.strip()}


def kept(row: Fields) -> Fields:
    """What our own exports add to a row."""
    held = {key: row[key] for key in ("id", "annotator", "env", "ts") if isinstance(row.get(key), str)}
    return {key: value for key, value in held.items() if value}


def _has_prompt(row: Fields) -> bool:
    return row.get("prompt") not in (None, "", [])


def _implicit(row: Fields) -> Fields:
    """What two texts share at their beginning is the prompt, up to the last white space, as TRL has it."""
    chosen, rejected = row["chosen"], row["rejected"]
    if HUMAN in chosen and HUMAN in rejected:
        return next(from_hh(row))
    same = _shared(chosen, rejected)
    while same and not chosen[same - 1].isspace() and not (same < len(chosen) and chosen[same].isspace()):
        same -= 1
    if not chosen[:same].strip():
        raise InputError('has no "prompt", and chosen and rejected begin differently')
    texts = {"chosen": chosen[same:].strip(), "rejected": rejected[same:].strip()}
    return {"kind": "preference", "instruction": chosen[:same].strip(), **texts}


def _parts(row: Fields) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) as texts. Messages that begin both answers and are the prompt's are left out there."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not (_is_dialogue(chosen) and _is_dialogue(rejected)):
        if not _has_prompt(row):
            raise InputError('has no "prompt"')
        return _said(row, "prompt"), _said(row, "chosen"), _said(row, "rejected")
    assert isinstance(chosen, list)
    assert isinstance(rejected, list)
    prompt, shared = row.get("prompt"), _shared(chosen, rejected)
    if isinstance(prompt, list) and prompt:
        whole = chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt
        asked, start = _spoken(prompt, "prompt"), len(prompt) if whole else 0
    elif shared:  # an implicit prompt; TRL's own sets have it as a text beside that
        asked, start = _spoken(chosen[:shared], "chosen"), shared
    else:
        asked, start = _said(row, "prompt"), 0
    return asked, _spoken(chosen[start:], "chosen"), _spoken(rejected[start:], "rejected")


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _shared(first: Any, second: Any) -> int:
    """How many characters, or messages, two sequences share at their beginning."""
    most = min(len(first), len(second))
    return next((k for k in range(most) if first[k] != second[k]), most)


def _said(row: Fields, name: str) -> str:
    """A text, or a dialogue as one."""
    value = row.get(name)
    if _is_dialogue(value):
        assert isinstance(value, list)
        return _spoken(value, name)
    if not isinstance(value, str):
        raise InputError(f"{name}: expected text, got {value!r:.60}")
    return value


def _spoken(messages: Messages, name: str) -> str:
    """One message as its text, several as a transcript with who said what."""
    if not messages:
        raise InputError(f"{name}: no message is left beside the prompt")
    contents = [_content(message, name) for message in messages]
    if len(contents) == 1:
        return contents[0]
    turns = []
    for message, content in zip(messages, contents):
        role = message.get("role")
        if not isinstance(role, str) or not role.strip():
            raise InputError(f"{name}: a message without a role among several")
        turns.append(f"{SPEAKERS.get(role, role.strip().capitalize())}: {content.strip()}")
    return "\n\n".join(turns)


def _content(message: dict[str, Any], name: str) -> str:
    """A message's text; of content in parts, as of models that see, the texts."""
    content = message.get("content")
    if isinstance(content, list) and content:
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(str(part) for part in parts)
        raise InputError(f"{name}: a message has a part that is no text")
    if not isinstance(content, str):
        raise InputError(f"{name}: expected a message with content, got {message!r:.60}")
    return content
