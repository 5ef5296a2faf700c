"""Others' files as feedback: TRL's formats, HH-RLHF, PandaLM, and the exports of Argilla and Label Studio."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.files import read_bytes
from instructrec_rl.core.json_reader import is_number, parse_json
from instructrec_rl.feedback.annotation_tools import ASKED, Answer, Found, Questions, from_argilla, from_label_studio
from instructrec_rl.feedback.dialogues import from_hh, from_preference, from_unpaired
from instructrec_rl.feedback.fields import Fields, text_of
from instructrec_rl.feedback.schema import MAX_LINE_BYTES, Record, dump, make_record
from instructrec_rl.feedback.store import item_key

FIRST, SECOND = ("response1", "response_1", "response_a", "text1"), ("response2", "response_2", "response_b", "text2")
DEFAULT_SCALE = (1.0, 5.0)
# What a list of rows is cut at. A quote that begins no whole text stands alone, and means that the list is broken.
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|["\[\]{},]', re.DOTALL)

Scale = tuple[float, float]


@dataclass(frozen=True)
class Imported:
    """records: what was read; broken: (row from 0, reason) of each row and answer that was not; notes: what else to
    know."""

    records: list[Record]
    broken: list[tuple[int, str]]
    notes: list[str] = field(default_factory=list)


def read(
    path: Path,
    form: str,
    env: str = "",
    annotator: str = "",
    scales: Mapping[str, Scale] | None = None,
    questions: Iterable[str] = (),
    corrections: Iterable[str] = (),
) -> Imported:
    """Read a file in a format (a key of READERS).

    A row or answer that is broken is set aside with the row's index, and never stops the rest. Ids are hashes of what
    is said, so that a file imported twice counts once, and files of one name do not collide. env, annotator: for rows
    that name none. scales: (lowest, highest) rating of a question, under "" of all others (default: 1 to 5). questions:
    of Argilla and Label Studio, the only ones to read; corrections: those whose answers are the right response.
    Raises InputError for a file that is not a JSON list or JSONL at all, for a rating outside its question's scale, and
    for a question that no row has.
    """
    asked = Questions(frozenset(questions), frozenset(corrections))
    broken: list[tuple[int, str]] = []
    made: list[tuple[int, Answer, Record]] = []
    # turn each row's answers into records
    for index, row in _rows(path):
        for answer in _read_row(row, form, asked):
            try:
                if isinstance(answer, InputError):
                    raise answer
                fields = {"env": env, **({"annotator": annotator} if annotator else {})}
                fields |= {key: value for key, value in answer.fields.items() if value is not None}
                _set_scale(fields, answer.question, scales or {}, path, index)
                made.append((index, answer, _record(fields)))
            except _OutsideError:
                raise
            except InputError as error:
                broken.append((index, error.reason))
    # look at all of them together
    if form in BY_QUESTION:
        _check_questions(asked, scales or {}, path)
    return _concluded(made, broken, asked)


class _OutsideError(InputError):
    """A rating outside its question's scale: all others of the question mean something else than was thought."""


def _read_row(row: Any, form: str, questions: Questions) -> Found:
    """The answers of a row, and an InputError for each that is broken."""
    try:
        if isinstance(row, InputError):
            raise row
        if not isinstance(row, dict):
            raise InputError("expected an object")
        if form in BY_QUESTION:
            yield from BY_QUESTION[form](row, questions)
        else:
            for fields in BY_ROW[form](row):
                yield fields if isinstance(fields, InputError) else Answer("", fields)
    except InputError as error:
        yield error
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        yield InputError(f"not in the form of {form}: {type(error).__name__}: {error}")


def _set_scale(fields: Fields, question: str, scales: Mapping[str, Scale], path: Path, index: int) -> None:
    if fields["kind"] != "rating" or "scale" in fields:
        return
    given = scales.get(question, scales.get(""))
    low, high = given or DEFAULT_SCALE
    rating = fields["rating"]
    if is_number(rating) and not low <= rating <= high:
        of = f"{question}: " if question else ""
        named = f"{question}=" if question and "=" not in question else ""
        hint = "" if given else f"; say the question's scale: --scale {named}LOWEST,HIGHEST"
        raise _OutsideError(
            f"row {index}: {of}the rating {rating:g} is outside {low:g} to {high:g}{hint}; nothing was imported", path
        )
    fields["scale"] = [low, high]


def _record(fields: Fields) -> Record:
    record = make_record(fields)
    size = len(json.dumps(dump(record), ensure_ascii=False).encode())
    if size > MAX_LINE_BYTES:
        raise InputError(f"would be a line of {size:,} bytes, at most {MAX_LINE_BYTES:,} are read")
    return record


def _check_questions(said: Questions, scales: Mapping[str, Scale], path: Path) -> None:
    given = {"--question": said.only, "--correction": said.corrections, "--scale": set(scales) - {""}}
    for flag, names in given.items():
        for name in sorted(names - said.seen):
            raise InputError(f'{flag}: there is no question "{name}".{nearest(name, said.seen)}', path)


def _concluded(made: list[tuple[int, Answer, Record]], broken: list[tuple[int, str]], questions: Questions) -> Imported:
    """Each record once; numbers that named one of two responses set aside where others of the question cannot have."""
    doubtful = {name for name, numbers in questions.numbers.items() if numbers - {"1", "2"}}
    records: dict[str, Record] = {}
    by_item: dict[tuple[Any, ...], str] = {}
    several: set[tuple[str, str, str]] = set()
    same = 0
    for index, answer, record in made:
        if answer.by_number and answer.question in doubtful:
            numbers = ", ".join(sorted(questions.numbers[answer.question]))
            said = f"{answer.question}: cannot tell which of two responses a number names among {numbers}"
            broken.append((index, said))
            continue
        same += record.id in records and records[record.id] == record
        records.setdefault(record.id, record)
        before = by_item.setdefault(item_key(record), answer.question)
        if before != answer.question:
            several.add((before, answer.question, record.kind))
    notes = [
        f'the questions "{one}" and "{other}" both gave a {kind} of one response by one annotator, of which the newest '
        "counts; choose one with --question NAME"
        for one, other, kind in sorted(several)
    ]
    if same:
        notes.append(f"{same:,} answers said the same of the same as another by the same annotator, and count once")
    return Imported(list(records.values()), sorted(broken, key=lambda each: each[0]), notes)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(index, row) of a JSON list, or of JSONL; a row that is broken comes as its InputError."""
    data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if data.lstrip().startswith(b"["):
        yield from enumerate(_list_of_rows(data, path))
        return
    lines = enumerate(data.split(b"\n"), 1)
    for index, (number, line) in enumerate(each for each in lines if each[1].strip()):
        yield index, _parsed(line, path, number)


def _list_of_rows(data: bytes, path: Path) -> list[Any]:
    """The rows of a list. Where the whole cannot be read, each by itself, so that a broken one is lost alone."""
    try:
        rows = parse_json(data, path)
        assert isinstance(rows, list)
        return rows
    except InputError:
        pieces = _cut(data)
        if pieces is None:
            raise
        return [_parsed(piece, path, None) for piece in pieces]


def _cut(data: bytes) -> list[bytes] | None:
    """The rows of a list as text, None where its brackets and quotes do not close."""
    pieces: list[bytes] = []
    depth = start = 0
    for token in TOKEN.finditer(data):
        mark = token[0]
        if mark == b'"' or (depth == 0 and (mark != b"[" or pieces)):
            return None
        if mark in (b"[", b"{"):
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in (b"]", b"}"):
            depth -= 1
        if (depth == 1 and mark == b",") or (depth == 0 and mark == b"]"):
            pieces.append(data[start : token.start()])
            start = token.end()
    return pieces if depth == 0 and pieces and not data[start:].strip() else None


def _parsed(data: bytes, path: Path, line: int | None) -> Any:
    try:
        return parse_json(data, path, line)
    except InputError as error:
        return error


def _from_pandalm(row: Fields) -> Iterator[Fields | InputError]:
    """Votes 1, 2 or 0 (a tie) of annotator1, annotator2, ...; `input` follows the instruction."""
    asked = text_of(row, ASKED)
    if isinstance(row.get("input"), str) and row["input"].strip():
        asked = f"{asked}\n{row['input']}"
    first, second = text_of(row, FIRST), text_of(row, SECOND)
    votes = {name: vote for name, vote in row.items() if name.startswith("annotator")}
    if not votes:
        raise InputError("has no field annotator1")
    for name, vote in votes.items():
        if type(vote) is not int or vote not in (0, 1, 2):
            yield InputError(f"{name}: expected 0, 1 or 2, got {vote!r:.60}")
            continue
        chosen, rejected = (second, first) if vote == 2 else (first, second)
        tie = {"tie": True} if vote == 0 else {}
        texts = {"instruction": asked, "chosen": chosen, "rejected": rejected}
        yield {"kind": "preference", "annotator": name, **texts, **tie}


BY_QUESTION: dict[str, Callable[[Fields, Questions], Found]] = {
    "argilla": from_argilla,
    "label-studio": from_label_studio,
}
BY_ROW: dict[str, Callable[[Fields], Iterator[Any]]] = {
    "hh-rlhf": from_hh,
    "pandalm": _from_pandalm,
    "trl-preference": from_preference,
    "trl-unpaired": from_unpaired,
}
READERS = sorted([*BY_QUESTION, *BY_ROW])
