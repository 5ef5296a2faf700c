"""What the files of a finished run must hold to be shown and compared; a damaged one is an error that names the place.

Written by us, but they lie on people's disks: cut short by a full one, mended by hand, or made by another program.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Required

from annotated_types import Ge, Le, MinLen
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_json, read_jsonl
from instructrec_rl.core.inert import shortened
from instructrec_rl.core.json_reader import kind_of

MOST = 1e15  # of any figure in a run: what is larger is damage, and no axis could show it
Number = Annotated[float, Ge(-MOST), Le(MOST)]
Count = Annotated[int, Ge(0), Le(int(MOST))]
Numbers = dict[str, Number | None]
Logged = dict[str, Number | str | None]  # a line of metrics.jsonl; its "step" is a Count


class Group(TypedDict, total=False):
    """Scores of some answers."""

    n: Count
    metrics: Required[Annotated[Numbers, MinLen(1)]]
    normalized: Numbers
    reward: Number | None


class OfKind(TypedDict):
    """How many constraints of a kind there were, and the share that is satisfied."""

    n: Annotated[int, Ge(1), Le(int(MOST))]
    satisfied: Number


class By(TypedDict, total=False):
    """A split in parts."""

    wording: dict[str, Group]
    kind: dict[str, OfKind]


class Split(Group, total=False):
    """Scores on a split."""

    reward_parts: Numbers
    by: By


Splits = Annotated[dict[str, Split], MinLen(1)]


class Answerer(TypedDict):
    """Who answered, as far as scores go."""

    splits: Splits


class Reused(TypedDict):
    """Seconds that another run spent."""

    cpu_s: Number
    wall_s: Number


class Stage(TypedDict, total=False):
    """A stage before learning."""

    splits: Splits
    cpu_s: Required[Number]
    wall_s: Required[Number]
    reused: Reused | None


class Monitored(TypedDict, total=False):
    """Where reward and task metric parted."""

    metric: Required[str]
    parted_step: Required[Count]
    noticed_step: Required[Count]
    reward_before: Number | None
    reward_after: Number | None
    metric_before: Number | None
    metric_after: Number | None


class Result(TypedDict, total=False):
    """result.json."""

    env: Required[str]
    reward: Required[str]
    algo: Required[str]
    policy: str | None
    seed: Required[Count]
    interactions: Count
    best_step: Count | None
    wall_s: Number
    cpu_s: Number
    train: Split
    splits: Required[Splits]
    baselines: dict[str, Answerer]
    stages: dict[str, Stage] | None
    warm_start: Answerer | None
    monitor: Monitored | None


class Manifest(TypedDict, total=False):
    """manifest.json, as far as it is read here."""

    command: str
    versions: dict[str, Any] | None
    sha256: dict[str, Any] | None
    left_out: dict[str, Any] | None


class Answer(TypedDict, total=False):
    """A line of answers.jsonl."""

    split: Required[str]
    id: Required[str | int]
    instruction: Required[str]
    response: Required[str]
    metrics: Required[dict[str, Number]]
    kinds: dict[str, tuple[Count, Annotated[int, Ge(1), Le(int(MOST))]]]


class Asked(TypedDict, total=False):
    """A constraint of a sample."""

    attribute: Any
    op: Any
    value: Any
    satisfied: Any


class Sample(TypedDict, total=False):
    """A line of samples.jsonl."""

    instruction: Required[str]
    response: str | None
    best_response: str | None
    references: list[str] | None
    reward: Number | None
    reward_parts: Numbers | None
    metrics: Numbers | None
    constraints: list[Asked] | None


class BenchRun(TypedDict, total=False):
    """A run in bench.json."""

    variant: Required[str]
    seed: Required[Count]
    folder: str
    status: Required[str]
    log: str
    last_words: list[str]


class BenchFile(TypedDict, total=False):
    """bench.json."""

    runs: list[BenchRun]
    variants: dict[str, dict[str, Any]] | None
    wall_s: Number


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def check(kind: Any, record: dict[str, Any], path: Path, line: int | None = None, it: str = "it") -> dict[str, Any]:
    """The record, where it is of a kind above. Raises InputError that names the first key that is not. it: what the
    error calls the record."""
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_python(record, strict=kind is not Answer)
    except ValidationError as error:
        raise InputError(first_fault(error, record, it), path, line) from None
    return record


def first_fault(error: Any, record: Any, it: str) -> str:
    """The first of pydantic's complaints about a record in one line: where, what was expected, what is there."""
    first = error.errors(include_url=False)[0]
    where = _place(first["loc"], record)
    if first["type"] == "missing":
        return f'{it} has no "{where}"'
    expected = first["msg"].removeprefix("Input should be ")
    given = first["input"]
    shown = shortened(repr(given), 60) if isinstance(given, (str, int, float)) else kind_of(given)
    return f'"{where}": expected {expected[:1].lower()}{expected[1:]}, found {shown}'


def _place(keys: tuple[str | int, ...], record: Any) -> str:
    """The keys of a place in a record as a path, without what pydantic adds to tell the parts of a union."""
    known: list[str] = []
    for number, key in enumerate(keys, start=1):
        inside = key in record if isinstance(record, dict) else isinstance(record, list) and isinstance(key, int)
        if not inside and (number < len(keys) or not isinstance(record, dict)):
            break
        known.append(str(key))
        record = record[key] if inside else None
    return shortened(".".join(known), 120) or "the whole"


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a run folder. Raises InputError where it is damaged, as all readers here do."""
    path = folder / "result.json"
    result = read_json(path)
    if result.get("splits") == {}:
        raise InputError('"splits": expected at least one split', path)
    check(Result, result, path, it="not the result of a run: it")
    metric = next(iter(next(iter(result["splits"].values()))["metrics"]))
    for split, found in result["splits"].items():
        if metric not in found["metrics"]:
            raise InputError(f'"splits.{split}.metrics" has no "{metric}", which the first split has', path)
    return result


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a run folder."""
    return check(Manifest, read_json(folder / "manifest.json"), folder / "manifest.json")


def read_bench(path: Path) -> dict[str, Any]:
    """bench.json of a bench's folder."""
    about = check(BenchFile, read_json(path), path)
    for run in about.get("runs", []):
        name = run.get("folder", "")
        if run["status"] == "done" and (not name or name in (".", "..") or "/" in name or "\\" in name):
            raise InputError(f'"runs": a run that is done needs a folder beside this file, not "{name}"', path)
    return about


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; none where there is no such file."""
    lines = []
    for number, line in _lines(Logged, path):
        if "step" not in line:
            raise InputError('the line has no "step"', path, number)
        if type(step := line["step"]) is not int or step < 0:
            raise InputError(f'"step": expected a whole number from 0 on, found {step!r}', path, number)
        lines.append(line)
    return lines


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of samples.jsonl; none where there is no such file."""
    return [sample for _, sample in _lines(Sample, path)]


def read_answers(path: Path, passed_over: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of answers.jsonl with their numbers, without those of some splits."""
    for number, record in read_jsonl(path):
        if record.get("split") not in passed_over:
            yield number, check(Answer, record, path, number, "the line")


def _lines(kind: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.is_file():
        for number, record in read_jsonl(path):
            yield number, check(kind, record, path, number, "the line")
