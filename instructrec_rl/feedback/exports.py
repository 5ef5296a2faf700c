"""Feedback as rows in TRL's formats: preference and unpaired preference. imports.py reads them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from instructrec_rl.feedback.schema import Correction, Preference, Ranking, Rating, Record, Thumbs

FORMATS = ("trl-preference", "trl-unpaired")
MIDDLE = 0.5  # of a rating's scale: above is a good completion, below a bad one


def export_rows(records: Sequence[Record], form: str) -> Iterator[dict[str, Any]]:
    """Rows of a format, in the order of the records' ids.

    trl-preference: prompt, chosen, rejected; of preferences, rankings (all their pairs) and corrections, and of ratings
    of one instruction by one annotator on one scale that differ. trl-unpaired: prompt, completion, label; of thumbs,
    and of ratings that are not in the middle of their scale. Ties have no place in either. Beside these columns a row
    has the record's id, annotator and kind, which TRL leaves alone and `import` reads.
    """
    records = sorted(records, key=lambda record: record.id)
    for record in records:
        about = {"id": record.id, "annotator": record.annotator, "kind": record.kind}
        about |= {key: value for key in ("env", "ts") if (value := getattr(record, key))}
        if form == "trl-unpaired":
            yield from _unpaired(record, about)
        else:
            for chosen, rejected in _pairs(record):
                yield {"prompt": record.instruction, "chosen": chosen, "rejected": rejected, **about}
    if form == "trl-preference":
        yield from _of_ratings(records)


def _pairs(record: Record) -> Iterator[tuple[str, str]]:
    if isinstance(record, Preference) and not record.tie:
        yield record.chosen, record.rejected
    elif isinstance(record, Correction):
        yield record.corrected, record.response
    elif isinstance(record, Ranking):
        for place, better in enumerate(record.responses):
            yield from ((better, worse) for worse in record.responses[place + 1 :])


def _unpaired(record: Record, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if isinstance(record, Thumbs):
        yield {"prompt": record.instruction, "completion": record.response, "label": record.up, **about}
    elif isinstance(record, Rating) and record.share != MIDDLE:
        more = {"rating": record.rating, "scale": record.scale}
        label = record.share > MIDDLE
        yield {"prompt": record.instruction, "completion": record.response, "label": label, **about, **more}


def _of_ratings(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Each annotator's ratings of an instruction: neighbours in order of rating, so that k ratings make k - 1 rows."""
    groups: dict[tuple[Any, ...], list[Rating]] = {}
    for record in records:
        if isinstance(record, Rating):
            key = (record.instruction, record.annotator, record.env, *record.scale)
            groups.setdefault(key, []).append(record)
    for ratings in groups.values():
        ordered = sorted(ratings, key=lambda record: -record.rating)
        for better, worse in pairwise(ordered):
            if better.rating > worse.rating and better.response != worse.response:
                about = {"id": f"{better.id}>{worse.id}"[:200], "annotator": better.annotator, "kind": "rating"}
                texts = {"chosen": better.response, "rejected": worse.response}
                yield {"prompt": better.instruction, **texts, **about, **({"env": better.env} if better.env else {})}
