"""The format of feedback, version 1: one JSON object a line, of one of six kinds.

A line may be minimal, `{"instruction": ..., "response": ..., "rating": 4}`: the kind follows from its keys, and what is
missing is completed. The published JSON Schema is docs/feedback.schema.json.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.json_reader import parse_object

VERSION = 1
MAX_LINE_BYTES = 1 << 20
ANONYMOUS = "anonymous"
END_OF_KEY = re.compile(rb'"[ \t\r\n]*:')  # also found within texts: then the line is looked at more closely
MOST_HINTS = 20  # keys of a line that are compared with the known ones

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Asked = Annotated[str, StringConstraints(pattern=r"\S")]
SHOWN = "probability with which this response was the one shown, for off-policy evaluation"
Propensity = Annotated[float | None, Field(gt=0, le=1, description=SHOWN)]


class _Common(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    v: Literal[1] = Field(1, description="version of this format")
    id: Name = Field("", validate_default=False, description="unique; missing: a hash of the line")
    ts: str = Field("", description="when, ISO 8601, without an offset UTC; missing: that of the line before it")
    annotator: Name = Field(ANONYMOUS, description="who")
    env: str = Field("", max_length=200, description="the environment's name; missing or empty: any")
    rationale: str = Field("", description="why, in the annotator's words")
    confidence: float | None = Field(None, ge=0, le=1, description="how sure the annotator is, 0 to 1")
    supersedes: str = Field("", max_length=200, description="id of the record that this one replaces")

    @model_validator(mode="after")
    def _check(self) -> _Common:
        if self.ts:
            when(self.ts)
        if self.supersedes and self.supersedes == self.id:
            raise ValueError("supersedes: a record cannot replace itself")
        return self


class Rating(_Common):
    """A number on a scale."""

    kind: Literal["rating"] = "rating"
    instruction: Asked
    response: str
    rating: float = Field(allow_inf_nan=False)
    scale: list[float] = Field([1.0, 5.0], min_length=2, max_length=2, description="lowest and highest rating")
    propensity: Propensity = None

    @model_validator(mode="after")
    def _check_scale(self) -> Rating:
        low, high = self.scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"scale: expected [lowest, highest], got {self.scale}")
        if not low <= self.rating <= high:
            raise ValueError(f"rating: {self.rating:g} is outside the scale {low:g} to {high:g}")
        return self

    @property
    def share(self) -> float:
        """The rating as a share of its scale, in [0, 1]."""
        low, high = self.scale
        if math.isinf(high - low):  # as of -1e308 to 1e308: in halves it fits
            return (self.rating / 2 - low / 2) / (high / 2 - low / 2)
        return (self.rating - low) / (high - low)


class Thumbs(_Common):
    """Up or down."""

    kind: Literal["thumbs"] = "thumbs"
    instruction: Asked
    response: str
    up: bool
    propensity: Propensity = None


class Preference(_Common):
    """One response is better than another, or (tie) as good."""

    kind: Literal["preference"] = "preference"
    instruction: Asked
    chosen: str
    rejected: str
    tie: bool = Field(False, description="true: neither is better")

    @model_validator(mode="after")
    def _check_pair(self) -> Preference:
        if self.chosen == self.rejected:
            raise ValueError("rejected: is the same text as chosen")
        return self


class Ranking(_Common):
    """Responses in order, the best first."""

    kind: Literal["ranking"] = "ranking"
    instruction: Asked
    responses: list[str] = Field(min_length=2, max_length=100)

    @model_validator(mode="after")
    def _check_distinct(self) -> Ranking:
        if len(set(self.responses)) != len(self.responses):
            raise ValueError("responses: the same text is there twice")
        return self


class Correction(_Common):
    """A response, and what it should have been."""

    kind: Literal["correction"] = "correction"
    instruction: Asked
    response: str
    corrected: str

    @model_validator(mode="after")
    def _check_changed(self) -> Correction:
        if self.corrected == self.response:
            raise ValueError("corrected: is the same text as response")
        return self


class Retract(_Common):
    """Takes back the record whose id is `target`."""

    kind: Literal["retract"] = "retract"
    target: Name
    instruction: str = ""


Record = Rating | Thumbs | Preference | Ranking | Correction | Retract
KINDS: dict[str, type[Record]] = {
    "rating": Rating,
    "thumbs": Thumbs,
    "preference": Preference,
    "ranking": Ranking,
    "correction": Correction,
    "retract": Retract,
}
# The key that tells a line's kind where it does not say; "corrected" before "response", which ratings share.
TELLING = {
    "rating": "rating",
    "up": "thumbs",
    "chosen": "preference",
    "rejected": "preference",
    "responses": "ranking",
    "corrected": "correction",
    "target": "retract",
}


def when(ts: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; one without an offset is UTC. Raises ValueError."""
    try:
        moment = datetime.datetime.fromisoformat(ts)
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"ts: {ts[:40]!r} is not an ISO 8601 time such as 2025-06-01T12:00:00Z") from None


def parse_line(text: str | bytes) -> Record:
    """Read one line of feedback and complete it. Raises InputError that says what is wrong with it."""
    try:
        line = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise InputError("a text holds half of a surrogate pair (\\ud800 to \\udfff)") from error
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"the line has {len(line):,} bytes, at most {MAX_LINE_BYTES:,} are read")
    return make_record(_fields(line))


def _fields(line: bytes) -> dict[str, Any]:
    """The object on a line, by the fast parser where it can have lost nothing, else by the strict one, which says why.

    The fast one lets the last of two equal keys win. Where there are as many `":` as keys, no key is there twice.
    """
    try:
        fields = pydantic_core.from_json(line, allow_inf_nan=False)
        if isinstance(fields, dict) and len(END_OF_KEY.findall(line)) == len(fields):
            return fields
    except ValueError:
        pass  # the strict parser says it better
    return parse_object(line)


def make_record(fields: Mapping[str, Any]) -> Record:
    """A record from a dict, completed: its kind from its keys, its id from its content. Raises InputError."""
    kind = fields.get("kind")
    if kind is None:
        kind = next((TELLING[key] for key in TELLING if key in fields), None)
        if kind is None:
            named = (str(key)[:80] for key in islice(fields, MOST_HINTS))
            hints = (nearest(key, TELLING).partition(" Known")[0] for key in named)
            raise InputError(
                f'cannot tell the kind: expected "kind", or one of {", ".join(TELLING)}.{next(filter(None, hints), "")}'
            )
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"kind: {_short(kind)} is not a kind.{nearest(str(kind)[:40], KINDS)}")
    if fields.get("v", VERSION) != VERSION or fields.get("v") is True:  # in Python, True == 1
        raise InputError(f"v: this line has version {_short(fields['v'])} of the format; this reads {VERSION}")
    if "id" not in fields:
        fields = {**fields, "id": _hash(fields)}
    try:
        return KINDS[kind].model_validate(fields)
    except ValidationError as error:
        raise InputError(_in_words(error, kind)) from error


def _hash(fields: Mapping[str, Any]) -> str:
    try:
        content = json.dumps(fields, sort_keys=True, ensure_ascii=True)
    except (ValueError, TypeError, RecursionError) as error:  # an integer of more than 4,300 digits; from Python, a set
        raise InputError(f"not JSON: {error}") from error
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _in_words(error: ValidationError, kind: str) -> str:
    """The first of pydantic's complaints, as one would say it."""
    found = error.errors(include_url=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f'"{key[:80]}" is not a key of a {kind}.{nearest(key[:80], KINDS[kind].model_fields)}'
    if first["type"] == "missing":
        return f'a {kind} needs "{key}"'
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    said = re.sub(r"^(Input|String|List) should (be |have )?", "", first["msg"])
    if first["type"] == "string_pattern_mismatch":
        said = "text that is not blank"
    return f"{key}: expected {said}, got {_short(first['input'])}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 60 else text[:57] + "..."


def dump(record: Record) -> dict[str, Any]:
    """A record as the shortest dict that `make_record` reads back the same: defaults are left out, the kind is not."""
    return {"kind": record.kind, **record.model_dump(exclude_defaults=True)}


def json_schema() -> dict[str, Any]:
    """The published JSON Schema (draft 2020-12) of a line."""
    from pydantic import TypeAdapter

    about = TypeAdapter(Record).json_schema()
    one_of = about.pop("anyOf")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"instructrec-rl feedback, version {VERSION}",
        "description": "One line of a feedback file. Where kind is missing it follows from the other keys.",
        "anyOf": one_of,
        **about,
    }
