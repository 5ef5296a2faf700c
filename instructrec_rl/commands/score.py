"""`instructrec-rl score`: score a file of responses against a file of references, streaming in bounded memory."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from instructrec_rl.commands.response_files import Row, read_rows
from instructrec_rl.config.overrides import parse
from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.command_line import DONE, Parser
from instructrec_rl.core.files import writing

if TYPE_CHECKING:
    from instructrec_rl.rewards import Reward

CHUNK_ROWS, CHUNK_CHARS = 8192, 4 << 20  # a chunk is scored when it has as many rows, or texts as long

EPILOG = """\
A line is a JSON text, or an object with the text under "response", "prediction", "text" or "output" (references:
"references", "reference", "text" or "output", a text or a list of texts), and optionally "id" and "instruction".
Line k of one file belongs to line k of the other. An example:
  instructrec-rl score --reward rouge --predictions p.jsonl --references r.jsonl --option variant=rouge1"""


@dataclass
class Totals:
    """Sums over what was scored so far: of the score, of each part and of a corpus score's statistics."""

    rows: int = 0
    score: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    statistics: np.ndarray | None = None

    def score_chunk(self, reward: Reward, batch: Batch) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Scores (B,) and the parts' (B,) of a chunk, added to the sums."""
        if reward.has_corpus_score:
            scores, statistics = reward.score_with_statistics(batch)
            sums = statistics.sum(axis=0)
            self.statistics = sums if self.statistics is None else self.statistics + sums
            parts: dict[str, np.ndarray] = {}
        else:
            scores, parts = reward.score_with_parts(batch)
        self.rows += len(scores)
        self.score += float(scores.sum())
        for name, values in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + float(values.sum())
        return scores, parts

    def lines(self, reward: Reward) -> list[str]:
        """The mean, and a line each for the parts' means and the corpus score."""
        from instructrec_rl.rewards.parts import MASKED

        found = [f"{reward.name} {self.score / self.rows:.6f} ({self.rows:,} {'row' if self.rows == 1 else 'rows'})"]
        for name, total in self.parts.items():
            masked = name.endswith(MASKED)
            found.append(f"  {name} {round(total):,} rows" if masked else f"  {name} {total / self.rows:.6f}")
        if self.statistics is not None:
            found.append(f"  corpus {reward.corpus_score(self.statistics):.6f}")
        return found


def main(argv: list[str]) -> int:
    """Score the files, print the mean and the parts' means, and write every score where asked.

    Raises InputError with path and line for what cannot be read or scored.
    """
    arguments = _parser().parse_args(argv)
    from instructrec_rl.rewards import RewardError, load_reward

    reward = load_reward(arguments.reward, env=arguments.env or None, **_options(arguments.option))
    rows = read_rows(arguments.predictions, arguments.references, arguments.field, arguments.reference_field)
    totals, total = Totals(), _count_lines(arguments.predictions)
    from instructrec_rl.run.screen import progress

    with _sink(arguments.out) as out, progress(f"score by {reward.name}", total) as update:
        for chunk in _chunks(rows):
            try:
                scores, parts = totals.score_chunk(reward, _batch(chunk))
            except RewardError as error:
                raise _located(error, arguments.predictions, totals.rows) from error
            if out is not None:
                with writing(arguments.out):
                    _write(out, chunk, scores, parts)
            update(totals.rows, max(total, totals.rows), "")
        if not totals.rows:
            raise InputError("is empty: there is nothing to score", arguments.predictions)
    print("\n".join(totals.lines(reward)))
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="instructrec-rl score", description="Score responses in a file, line by line.", epilog=EPILOG)
    parser.add_argument("--reward", required=True, help="name of the reward")
    parser.add_argument("--predictions", required=True, type=Path, help="JSONL of responses")
    parser.add_argument("--references", type=Path, help="JSONL of right answers (a reward like format needs none)")
    parser.add_argument("--option", action="append", default=[], metavar="K=V", help="an option of the reward")
    parser.add_argument("--field", default="", help="the response's field, where it has another name")
    parser.add_argument("--reference-field", default="", help="the references' field, where it has another name")
    parser.add_argument("--out", type=Path, help="write a line for each score: {id, score, parts}")
    parser.add_argument("--env", default="", help="the environment of a reward that needs one")
    return parser


def _options(given: list[str]) -> dict[str, Any]:
    """`parts.rouge=2` becomes {"parts": {"rouge": 2}}, in the grammar of a run's overrides."""
    options: dict[str, Any] = {}
    for setting in parse(given) if given else ():
        *outer, last = setting.key.removeprefix("reward.").split(".")
        place = options
        for key in outer:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise setting.error(f"{key} was given as one value before")
        place[last] = setting.value
    return options


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows in chunks of bounded size."""
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += row.size
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _batch(chunk: list[Row]) -> Batch:
    records = [row.record for row in chunk]
    return Batch(
        [row.instruction for row in chunk],
        [row.response for row in chunk],
        [row.references for row in chunk],
        records if any(records) else None,
    )


def _located(error: InputError, path: Path, before: int) -> InputError:
    """The error with the line of the file in place of the row of a chunk, where it names one."""
    row = re.search(r"\brow (\d+)\b:?\s?", error.reason)
    if row is None:
        return error
    return InputError(error.reason[: row.start()] + error.reason[row.end() :], path, before + int(row[1]) + 1)


def _count_lines(path: Path) -> int:
    """The lines of a file, 0 where it can be read only once (a pipe)."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return 0
        with path.open("rb") as stream:
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", path) from error


@contextlib.contextmanager
def _sink(path: Path | None) -> Iterator[IO[str] | None]:
    """A file to write to that takes its name when everything was written, or None."""
    if path is None:
        yield None
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        stream = temporary.open("w", encoding="utf-8")
    try:
        yield stream
        with writing(path):
            stream.close()
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to show
            stream.close()
        temporary.unlink(missing_ok=True)


def _write(out: IO[str], chunk: list[Row], scores: np.ndarray, parts: dict[str, np.ndarray]) -> None:
    """Add a line a row: its id where it has one, its score, and its parts where there are some."""
    lines = []
    for place, (row, score) in enumerate(zip(chunk, scores.tolist())):
        record: dict[str, Any] = {} if row.id == "" else {"id": row.id}
        record["score"] = score
        if parts:
            record["parts"] = {name: float(values[place]) for name, values in parts.items()}
        lines.append(json.dumps(record, ensure_ascii=False))
    out.write("\n".join(lines) + "\n")
