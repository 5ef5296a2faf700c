"""What the page and the terminal share: the next question, an answer saved to disk, an answer taken back, progress."""

from __future__ import annotations

import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructrec_rl.annotate.learner import Learner
from instructrec_rl.annotate.limits import fits, question_fits
from instructrec_rl.annotate.selection import MODES, Question, Selector, Tally, question_of
from instructrec_rl.annotate.shown import Shown
from instructrec_rl.core import InputError, Item, nearest
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.env.spec import Spec
from instructrec_rl.feedback.schema import Record, Retract, make_record
from instructrec_rl.feedback.store import Store, append

UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # categories of characters that a name is not written with
HELD_S = 900.0  # a question that is shown to one annotator is kept from the others for so long
MAX_FOUND = 24  # items that a search returns
WAIT_S = 3.0  # for others who write to the feedback file
MAX_WRITERS = 16  # answers that wait for the file at once; the server has threads left for everything else


class WriteError(InputError):
    """The disk refused a valid answer: it may take it later."""


@dataclass(frozen=True)
class Progress:
    """Answers that count: by one annotator, by all, and how many are wanted."""

    you: int
    all: int
    target: int


@dataclass
class _Seen:
    """What the store held when it was last read: the records of this environment that count, and their tally."""

    version: str = ""
    records: dict[str, Record] = field(default_factory=dict)
    places: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    by: Counter[str] = field(default_factory=Counter)

    def update(self, records: dict[str, Record], places: dict[str, tuple[Any, ...]]) -> None:
        """Take in what was added and what no longer counts. places: where a record lies, the newest the greatest."""
        for gone in self.records.keys() - records.keys():
            self.tally.discard(self.records[gone])
            self.by[self.records[gone].annotator] -= 1
        for record in [record for id, record in records.items() if id not in self.records]:
            self.tally.add(record)
            self.by[record.annotator] += 1
        self.records, self.places = records, places

    def last(self, annotator: str, env: str) -> str | None:
        """The id of the answer that an annotator saved last: by the lines of the file, as a clock may go back."""
        own = [r.id for r in self.records.values() if r.annotator == annotator and r.env == env]
        return max(own, key=self.places.__getitem__) if own else None


class Session:
    """One environment being annotated. Safe for use by several threads.

    out: the file that answers are appended to; it lies in a folder that the store reads; split: where instructions come
    from.
    """

    def __init__(
        self, spec: Spec, selector: Selector, learner: Learner, store: Store, out: Path, target: int, split: str
    ):
        self.spec, self.selector, self.learner, self.store = spec, selector, learner, store
        self.out, self.target, self.shown = out, target, Shown(out)
        self.chooses = spec.action == "choose"
        self._instructions = {spec.examples[row].instruction for row in spec.rows(split)}
        self._finder = ItemFinder(spec.items)
        self._offered = [item for item in spec.items if fits(item.text)]  # as corrections
        self._haystacks = [f"{item.name} {item.text}".casefold() for item in self._offered]
        self._skipped: dict[str, set[str]] = {}
        self._held: dict[tuple[str, str], tuple[Question, float]] = {}
        self._seen = _Seen(tally=Tally(self._text_of))
        self._store_lock = threading.Lock()  # around the store and the file; choosing a question does not hold it
        self._choice_lock = threading.Lock()
        self._writer = threading.Lock()  # around an answer's way to the file; nothing that only reads waits for it
        self._writers = threading.BoundedSemaphore(MAX_WRITERS)

    @property
    def modes(self) -> list[str]:
        """The kinds of question there can be: with a single candidate nothing can be compared."""
        return [mode for mode, (width, _) in MODES.items() if width == 1 or self.selector.pool.candidates.shape[1] > 1]

    @property
    def annotators(self) -> list[str]:
        """Who answered before, the busiest first."""
        with self._store_lock:
            return [name for name, count in self._read().by.most_common() if count > 0]

    def _read(self) -> _Seen:
        """What the store holds now. Needs the lock."""
        self.store.refresh()
        if self._seen.version != self.store.version:
            envs = ("", self.spec.name)
            records = {record.id: record for record in self.store.records if record.env in envs}
            out = str(self.out.parent.resolve() / self.out.name)
            entries = (entry for entry in self.store.entries if entry.record.id in records)
            places = {e.record.id: (e.order[2] == out, e.order[3] if e.order[2] == out else e.order) for e in entries}
            self._seen.update(records, places)
            self._seen.version = self.store.version
        return self._seen

    def progress(self, annotator: str) -> tuple[Progress, str | None]:
        """How far it is, and the id of the annotator's last answer."""
        with self._store_lock:
            seen = self._read()
            return Progress(seen.by[annotator], seen.by.total(), self.target), seen.last(annotator, self.spec.name)

    def next(self, annotator: str, mode: str, skip: str | None = None) -> Question | None:
        """The next question for an annotator: the one that is open, else a new one; None where nothing is left.

        skip: the key of a question that this annotator does not want to be asked again.
        """
        self._check_asker(annotator, mode)
        with self._store_lock:
            seen = self._read()
            tally, records = seen.tally.copy(), list(seen.records.values())
        self.learner.see(records)
        with self._choice_lock:
            if skip is not None:
                self._skipped.setdefault(annotator, set()).add(skip)
            excluded = self._skipped.get(annotator, set()) | self._held_by_others(annotator)
            open_now = self._held.get((annotator, mode))
            if open_now is not None:
                key = open_now[0].key
                if key not in excluded and annotator not in tally.annotators.get(key, {}):
                    return open_now[0]
            question = self.selector.choose(mode, annotator, tally, excluded, self.learner.belief)
            self._held.pop((annotator, mode), None)
            if question is not None:
                self._show(annotator, question)
            return question

    def _show(self, annotator: str, question: Question) -> None:
        """Note that a question is on an annotator's screen. Needs the lock of choices. Raises WriteError."""
        try:
            self.shown.add(annotator, question.key)
        except InputError as error:
            raise WriteError(error.reason, error.path) from error
        self._held[annotator, question.mode] = (question, time.monotonic())

    def _held_by_others(self, annotator: str) -> set[str]:
        now = time.monotonic()
        self._held = {key: held for key, held in self._held.items() if now - held[1] < HELD_S}
        return {question.key for (name, _), (question, _) in self._held.items() if name != annotator}

    def _check_asker(self, annotator: str, mode: str) -> None:
        if not annotator.strip():
            raise InputError("annotator: expected a name")
        if strange := next((each for each in annotator if unicodedata.category(each) in UNSEEN), None):
            raise InputError(f"annotator: a name of characters that can be seen was expected; {strange!a} is none")
        if mode not in self.modes:
            raise InputError(f'mode: "{mode}" is not a kind of question.{nearest(mode, self.modes)}')

    def save(self, id: str, annotator: str, question: Question, value: Any, shown: bool = False, **more: Any) -> str:
        """Append an answer; when this returns, the disk has it. An id that is there already is not written again.

        value: what `record_of` takes. shown: whether the question must be one that this annotator was shown, here or by
        an earlier server for the same file. more: rationale and confidence, if given. Raises InputError for an answer
        that does not fit, WriteError where the disk refuses.
        """
        self._check_asker(annotator, question.mode)
        if question.instruction not in self._instructions:
            raise InputError(f"instruction: it is not one of {self.spec.name}")
        fields = record_of(question, value)
        if question.mode == "correct":
            self._check_correction(fields["corrected"])
        fields |= {"id": id, "annotator": annotator, "env": self.spec.name}
        fields |= {key: given for key, given in more.items() if given not in (None, "")}
        saved = self._append(fields, None if not shown or self.shown.has(annotator, question.key) else "responses")
        with self._choice_lock:
            held = self._held.get((annotator, question.mode))
            if held is not None and held[0].key == question.key:
                del self._held[annotator, question.mode]
        return saved

    def _check_correction(self, corrected: str) -> None:
        if not fits(corrected):
            raise InputError("corrected: it is too long to be saved")
        if self.chooses and self._finder([corrected])[0] < 0:
            raise InputError("corrected: it names no item of the catalog")

    def undo(self, id: str, annotator: str, target: str) -> Question | None:
        """Append a line that takes the annotator's answer `target` back, and return its question to be asked again;
        None where it is none that is asked here.

        Raises InputError where there is no such answer of this annotator, WriteError where the disk refuses.
        """
        with self._store_lock:
            self._read()
            record = self.store.find(target)
        own = record is not None and (record.annotator, record.env) == (annotator, self.spec.name)
        if record is None or isinstance(record, Retract) or not own:
            raise InputError(f'target: {annotator} has no answer with the id "{target}"')
        question = question_of(record)
        self._append({"id": id, "kind": "retract", "target": target, "annotator": annotator, "env": self.spec.name})
        with self._choice_lock:
            self._skipped.get(annotator, set()).discard(question.key)
            if not self._is_asked(question):
                return None
            self._show(annotator, question)
        return question

    def _is_asked(self, question: Question) -> bool:
        """Whether an answer to it can be taken: what was imported may be about other instructions, or too long."""
        return question.instruction in self._instructions and question_fits(question.instruction, question.responses)

    def _append(self, fields: Mapping[str, Any], never_shown: str | None = None) -> str:
        """Append a record whose id is not there yet. never_shown: a field that makes a new one wrong."""
        record = make_record(fields)
        with self._writing() as end:
            with self._store_lock:
                self.store.refresh()
                before = self.store.find(record.id)
                if before is not None and before.env != record.env:  # ids are unique among all that the store reads
                    fields = {**fields, "id": f"{record.id}.{record.env}"[:200]}
                    record = make_record(fields)
                    before = self.store.find(record.id)
            if before is not None:
                if before.model_copy(update={"ts": ""}) != record.model_copy(update={"ts": ""}):
                    raise InputError(f'id: "{record.id}" is taken by another answer')
                return record.id
            if never_shown is not None:
                raise InputError(
                    f"{never_shown}: {record.annotator} was never asked this; only what was shown is saved"
                )
            try:
                append(self.out, fields, fsync=True, wait_s=max(0.0, end - time.monotonic()))
            except InputError as error:
                raise WriteError(error.reason, error.path) from error
            return record.id

    @contextmanager
    def _writing(self) -> Iterator[float]:
        """The turn to write, and until when others may be waited for. Raises WriteError where it does not come."""
        end = time.monotonic() + WAIT_S
        busy = WriteError("the feedback file is in use by others; try again", self.out)
        if not self._writers.acquire(blocking=False):
            raise busy
        try:
            if not self._writer.acquire(timeout=WAIT_S):
                raise busy
            try:
                yield end
            finally:
                self._writer.release()
        finally:
            self._writers.release()

    def _text_of(self, response: str) -> str:
        item = self.item(response)
        return response if item is None else item.text

    def item(self, response: str) -> Item | None:
        """The item that a response names, or None."""
        place = int(self._finder([response])[0])
        return None if place < 0 else self.spec.items[place]

    def find_items(self, words: str, besides: str = "") -> tuple[list[Item], int]:
        """Items that hold every word but the one with the text `besides`: the first few, and how many there are."""
        wanted = words.casefold().split()
        places = [i for i, text in enumerate(self._haystacks) if all(word in text for word in wanted)]
        found = [self._offered[i] for i in places if self._offered[i].text != besides]
        return found[:MAX_FOUND], len(found)


def record_of(question: Question, value: Any) -> dict[str, Any]:
    """The fields of the record for an answer to a question.

    value: rate, an integer from 1 to 5; thumbs, true or false; compare, the better one's position (0 or 1), or -1 where
    neither is better; rank, the positions, the best first; correct, the text that would have been right. Raises
    InputError for anything else.
    """
    responses, mode = question.responses, question.mode
    width = len(responses)
    fields: dict[str, Any] = {"kind": MODES[mode][1], "instruction": question.instruction}
    if (MODES[mode][0] == 1) != (width == 1) or (mode == "compare" and width != 2):
        raise InputError(f"responses: {width} of them do not make a question of the kind {mode}")
    if mode == "rate" and type(value) is int and 1 <= value <= 5:
        return fields | {"response": responses[0], "rating": float(value)}
    if mode == "thumbs" and type(value) is bool:
        return fields | {"response": responses[0], "up": value}
    if mode == "correct" and isinstance(value, str) and value.strip():
        return fields | {"response": responses[0], "corrected": value}
    if mode == "compare" and type(value) is int and value in (-1, 0, 1):
        chosen, rejected = responses if value < 1 else reversed(responses)
        return fields | {"chosen": chosen, "rejected": rejected} | ({"tie": True} if value == -1 else {})
    if mode == "rank" and isinstance(value, list) and sorted(map(repr, value)) == sorted(map(repr, range(width))):
        return fields | {"responses": [responses[i] for i in value]}
    raise InputError(f"value: {str(value)[:60]!r} is no answer to a question of the kind {mode}")
