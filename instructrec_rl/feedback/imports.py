"""Others' files as feedback: TRL's formats, HH-RLHF, PandaLM, and the exports of Argilla and Label Studio."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.feedback.schema import Record, make_record

ASKED = ("instruction", "prompt", "question", "text")  # the field that holds the instruction, in this order
ANSWERED = ("response", "completion", "answer", "output", "generation")
FIRST, SECOND = ("response1", "response_1", "response_a", "text1"), ("response2", "response_2", "response_b", "text2")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
UP, DOWN = {"up", "yes", "good", "true", "1", "thumbs up"}, {"down", "no", "bad", "false", "0", "thumbs down"}

Fields = dict[str, Any]


@dataclass(frozen=True)
class Imported:
    """records: what was read; broken: (row from 0, reason) of the rows that were not."""

    records: list[Record]
    broken: list[tuple[int, str]]


def read(path: Path, form: str, env: str = "", annotator: str = "") -> Imported:
    """Read a file in a format (a key of READERS).

    A row that is broken is set aside with its index, and never stops the rest. Ids are hashes of the file's name, the
    row's index and the place within it, so that a file imported twice counts once. env, annotator: for rows that name
    none. Raises InputError for a file that is not a JSON list or JSONL at all.
    """
    records: list[Record] = []
    broken: list[tuple[int, str]] = []
    for index, row in _rows(path):
        try:
            if isinstance(row, InputError):
                raise row
            if not isinstance(row, dict):
                raise InputError("expected an object")
            made = []
            for place, fields in enumerate(READERS[form](row)):
                source = f"{path.name}:{form}:{index}:{place}".encode()
                given = {"id": hashlib.sha256(source).hexdigest()[:16], "env": env}
                given |= {"annotator": annotator} if annotator else {}
                made.append(make_record(given | {key: value for key, value in fields.items() if value is not None}))
            records += made
        except InputError as error:
            broken.append((index, error.reason))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            broken.append((index, f"not in the form of {form}: {type(error).__name__}: {error}"))
    return Imported(records, broken)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(index, row) of a JSON list, or of JSONL; a line that is broken comes as its InputError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", path) from error
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path) from error
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise InputError(f"broken JSON: {error}", path) from error
        return
    for index, line in enumerate(line for line in text.split("\n") if line.strip()):
        try:
            yield index, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield index, InputError(f"broken JSON: {error}")


def _text(row: Fields, names: tuple[str, ...]) -> str:
    for name in names:
        if name in row:
            if not isinstance(row[name], str):
                raise InputError(f"{name}: expected text, got {row[name]!r:.60}")
            return row[name]
    raise InputError(f"has none of the fields {', '.join(names)}")


def _kept(row: Fields) -> Fields:
    """What our own exports add to a row."""
    kept = {key: row[key] for key in ("id", "annotator", "env", "ts") if isinstance(row.get(key), str)}
    return {key: value for key, value in kept.items() if value}


def _from_preference(row: Fields) -> Iterator[Fields]:
    prompt, chosen, rejected = (_said(row, name) for name in ("prompt", "chosen", "rejected"))
    about, kind = _kept(row), row.get("kind")
    if kind == "correction":
        yield {"kind": kind, "instruction": prompt, "response": rejected, "corrected": chosen, **about}
        return
    if kind in ("ranking", "rating"):  # one of several rows of a record
        about["id"] = hashlib.sha256(f"{about.get('id')}\0{chosen}\0{rejected}".encode()).hexdigest()[:16]
    yield {"kind": "preference", "instruction": prompt, "chosen": chosen, "rejected": rejected, **about}


def _said(row: Fields, name: str) -> str:
    """A text, or in the conversational form the last message's."""
    value = row.get(name)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise InputError(f"{name}: expected text, got {value!r:.60}")
    return value


def _from_unpaired(row: Fields) -> Iterator[Fields]:
    prompt, completion, about = _said(row, "prompt"), _said(row, "completion"), _kept(row)
    if row.get("kind") == "rating" and "rating" in row:
        more = {"rating": row["rating"], "scale": row.get("scale")}
        yield {"kind": "rating", "instruction": prompt, "response": completion, **more, **about}
    else:
        yield {"kind": "thumbs", "instruction": prompt, "response": completion, "up": row["label"], **about}


def _from_hh(row: Fields) -> Iterator[Fields]:
    """The dialogue up to the last turn of the assistant is the instruction; both must share it."""
    chosen, rejected = _text(row, ("chosen",)), _text(row, ("rejected",))
    asked, found, good = chosen.rpartition(ASSISTANT)
    other, _, bad = rejected.rpartition(ASSISTANT)
    if not found or asked != other:
        same = next((k for k, (a, b) in enumerate(zip(chosen, rejected)) if a != b), 0)
        asked, found, _ = chosen[:same].rpartition(ASSISTANT)
        if not found:
            raise InputError('chosen and rejected share no dialogue that ends in "\\n\\nAssistant:"')
        good, bad = chosen[len(asked) + len(found) :], rejected[len(asked) + len(found) :]
    if asked.count(HUMAN) == 1:
        asked = asked.replace(HUMAN, "")
    yield {"kind": "preference", "instruction": asked.strip(), "chosen": good.strip(), "rejected": bad.strip()}


def _from_pandalm(row: Fields) -> Iterator[Fields]:
    """Votes 1, 2 or 0 (a tie) of annotator1, annotator2, ...; `input` follows the instruction."""
    asked = _text(row, ASKED)
    if isinstance(row.get("input"), str) and row["input"].strip():
        asked = f"{asked}\n{row['input']}"
    first, second = _text(row, FIRST), _text(row, SECOND)
    votes = {name: vote for name, vote in row.items() if name.startswith("annotator")}
    if not votes:
        raise InputError("has no field annotator1")
    for name, vote in votes.items():
        if vote not in (0, 1, 2) or isinstance(vote, bool):
            raise InputError(f"{name}: expected 0, 1 or 2, got {vote!r:.60}")
        chosen, rejected = (second, first) if vote == 2 else (first, second)
        tie = {"tie": True} if vote == 0 else {}
        yield {
            "kind": "preference",
            "annotator": name,
            "instruction": asked,
            "chosen": chosen,
            "rejected": rejected,
        } | tie


def _answers(fields: Fields, value: Any, name: str, scale: list[float] | None = None) -> Fields:
    """What one answer to a question says of a row's texts, by the answer's form."""
    asked = _text(fields, ASKED)
    if isinstance(value, list) and value and isinstance(value[0], dict) and "rank" in value[0]:
        ordered = [_text(fields, (one["value"],)) for one in sorted(value, key=lambda one: one["rank"])]
        return {"kind": "ranking", "instruction": asked, "responses": ordered}
    if isinstance(value, bool):
        return {"kind": "thumbs", "instruction": asked, "response": _text(fields, ANSWERED), "up": value}
    if isinstance(value, int | float):
        about = {"kind": "rating", "instruction": asked, "response": _text(fields, ANSWERED), "rating": value}
        return about | {"scale": scale}
    if isinstance(value, str):
        low, both = value.strip().lower(), any(key in fields for key in FIRST)
        if both and low in (*FIRST, *SECOND, "left", "right", "1", "2", "a", "b", "tie"):
            first, second = _text(fields, FIRST), _text(fields, SECOND)
            if low in (*SECOND, "right", "2", "b"):
                first, second = second, first
            texts = {"kind": "preference", "instruction": asked, "chosen": first, "rejected": second}
            return texts | ({"tie": True} if low == "tie" else {})
        if low in UP | DOWN:
            return {"kind": "thumbs", "instruction": asked, "response": _text(fields, ANSWERED), "up": low in UP}
        return {"kind": "correction", "instruction": asked, "response": _text(fields, ANSWERED), "corrected": value}
    raise InputError(f"{name}: cannot tell what {value!r:.60} says")


def _from_argilla(row: Fields) -> Iterator[Fields]:
    """Records of `to_json` (Argilla 2: responses by question) and of feedback datasets (Argilla 1: by user)."""
    fields = row["fields"]
    responses = row.get("responses") or {}
    if isinstance(responses, list):  # Argilla 1
        for response in responses:
            if response.get("status", "submitted") == "submitted":
                for name, answer in response["values"].items():
                    yield _answers(fields, answer["value"], name) | {"annotator": str(response["user_id"])}
        return
    for name, answers in responses.items():
        for answer in answers:
            if answer.get("status", "submitted") == "submitted":
                yield _answers(fields, answer["value"], name) | {"annotator": str(answer["user_id"])}


def _from_label_studio(row: Fields) -> Iterator[Fields]:
    """Tasks of the JSON export: each result of each annotation that was not cancelled."""
    data = row["data"]
    for annotation in row.get("annotations", []):
        if annotation.get("was_cancelled"):
            continue
        who = annotation.get("completed_by", "")
        who = str(who.get("email") or who.get("id")) if isinstance(who, dict) else str(who)
        about = {"annotator": who or None, "ts": annotation.get("created_at")}
        for result in annotation["result"]:
            kind, value = result["type"], result["value"]
            if kind == "pairwise":
                answer = value["selected"]
            elif kind in ("rating", "number", "choices", "textarea"):
                answer = value["text" if kind == "textarea" else kind]
            else:
                raise InputError(f'result of type "{kind}": expected rating, number, choices, pairwise or textarea')
            yield _answers(data, answer[0] if isinstance(answer, list) else answer, result["from_name"]) | about


READERS: dict[str, Callable[[Fields], Iterator[Fields]]] = {
    "argilla": _from_argilla,
    "hh-rlhf": _from_hh,
    "label-studio": _from_label_studio,
    "pandalm": _from_pandalm,
    "trl-preference": _from_preference,
    "trl-unpaired": _from_unpaired,
}
