"""A reward that is loaded: it scores batches, and what its file returns is checked. No torch here."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from instructrec_rl.core import Batch, InputError, Item

UNPAID_ROWS = 256  # looked at at a time
SLACK = 1e-9  # how far outside [0, 1] a score may lie by rounding; it is clipped


class RewardError(InputError):
    """A reward that could not score: its message names the reward, its file and line, or the row at fault."""


@dataclass
class RewardContext:
    """What a `class Reward` is given beside its config.

    items: the environment's catalog, empty where there is no environment; load: loads another reward in the same
    context, `load(name, **options) -> Reward`; env: the environment's name, "" where there is none.
    """

    items: list[Item]
    load: Callable[..., Reward]
    find_encoder: Callable[[], Any] = lambda: None
    env: str = ""

    @functools.cached_property
    def encoder(self) -> Any:
        """The environment's encoder, or None; loaded at first use, as most rewards never ask."""
        return self.find_encoder()


@dataclass
class Reward:
    """A reward ready to score. `options` is resolved: the file's defaults, its YAML's, and the caller's."""

    name: str
    options: dict[str, Any]
    path: Path
    scorer: Any
    locate: Callable[[str], tuple[Path, int] | None] = lambda row_id: None  # a row's id -> its file and line

    @property
    def version(self) -> str:
        """Changes when the same responses may score differently; "" for a reward that never changes."""
        return str(getattr(self.scorer, "version", ""))

    def at(self, step: int) -> None:
        """Tell a reward whose weights change over training how many interactions are done."""
        if hasattr(self.scorer, "at"):
            self.scorer.at(step)

    def attach(self, recorder: Any) -> None:
        """Give a reward that follows something that changes the run's recorder, to keep and log what it saw."""
        if hasattr(self.scorer, "attach"):
            self.scorer.attach(recorder)

    def score(
        self,
        instructions: Sequence[str],
        responses: Sequence[str],
        references: Sequence[Sequence[str]],
        rows: Sequence[dict[str, Any]] | None = None,
    ) -> np.ndarray:
        """Scores (B,) float64 in [0, 1] of B responses; see `score_batch` for what it raises."""
        return self.score_batch(Batch(instructions, responses, references, rows))

    def score_batch(self, batch: Batch) -> np.ndarray:
        """Scores (B,) float64 in [0, 1].

        Raises InputError for a batch that is ragged or holds other than text, and RewardError, which names the
        reward, where the reward fails or returns anything but B real numbers in [0, 1].
        """
        _check_batch(batch)
        if len(batch) == 0:
            return np.zeros(0)
        return self._checked(self._call(self.scorer.score, batch), batch)

    def parts(self, batch: Batch) -> dict[str, np.ndarray]:
        """The scores (B,) of each part of a composed reward, by name; {} for a plain one."""
        if not hasattr(self.scorer, "parts"):
            return {}
        _check_batch(batch)
        found = self._call(self.scorer.parts, batch)
        return {part: self._checked(scores, batch) for part, scores in found.items()}

    def score_with_parts(self, batch: Batch) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """`score_batch` and `parts` for the price of one, where the reward has `combine(parts) -> (B,)`."""
        parts = self.parts(batch)
        if parts and hasattr(self.scorer, "combine"):
            return self._checked(self._call(self.scorer.combine, parts), batch), parts
        return self.score_batch(batch), parts

    @property
    def has_corpus_score(self) -> bool:
        """Whether the metric is also defined over a whole corpus, where it is not the mean of its rows' scores."""
        return hasattr(self.scorer, "score_with_statistics")

    def score_with_statistics(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """`score_batch` and of each row statistics (B, K), of a reward that has a corpus score."""
        _check_batch(batch)
        scores, statistics = self._call(self.scorer.score_with_statistics, batch)
        return self._checked(scores, batch), statistics

    def corpus_score(self, sums: np.ndarray) -> float:
        """The corpus score in [0, 1] of statistics (K,) summed over all rows."""
        return min(max(float(self.scorer.corpus(sums)), 0.0), 1.0)

    def _call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        with_name = f"reward {self.name}: "
        try:
            return function(argument)
        except RewardError:
            raise  # a part's: it names itself
        except InputError as error:
            path, line = self._place(error, argument) or (error.path, error.line)
            raise RewardError(with_name + error.reason, path, line) from error
        except Exception as error:
            raise RewardError(with_name + error_text(error), self.path, line_in(self.path, error)) from error

    def _place(self, error: InputError, argument: Any) -> tuple[Path, int] | None:
        """The file and line of the row that an error is about, where the environment's file has it."""
        if error.row is None or not isinstance(argument, Batch) or argument.rows is None:
            return None
        return self.locate(str(argument.rows[error.row].get("id", "")))

    def _checked(self, scores: Any, batch: Batch) -> np.ndarray:
        try:
            values = np.asarray(scores)
        except Exception as error:  # ragged lists, tensors on a GPU
            raise self._unfit(f"cannot read its scores as an array: {error_text(error)}") from error
        if values.shape != (len(batch),):
            raise self._unfit(f"returned shape {values.shape}, expected ({len(batch)},), one score a row")
        if values.dtype.kind not in "fiub":
            values = np.asarray(scores, dtype=object)  # else numpy makes all of them what one of them is
            wrong = [row for row, value in enumerate(values.tolist()) if not _is_score(value)]
            raise self._unfit("is not a real number", *_row(wrong[0] if wrong else 0, values, batch))
        values = values.astype(np.float64)
        good = (values >= -SLACK) & (values <= 1 + SLACK)  # False for NaN
        if not good.all():
            raise self._unfit("is not in [0, 1]", *_row(int(good.argmin()), values, batch))
        return values.clip(0.0, 1.0)

    def _unfit(self, reason: str, value: str = "", where: str = "") -> RewardError:
        said = f"{where}: the score {value} {reason}" if where else reason
        return RewardError(f"reward {self.name}: {said}", self.path)


def refuse_unpaid(reward: Reward, examples: Any, rows: Sequence[int], file: Path) -> None:
    """Raise InputError where a reward, or a part of a composed one, scores each right answer 0 against itself.

    A scorer says by `if_unpaid` what to choose instead; one row that is paid is enough.
    """
    for part in getattr(getattr(reward.scorer, "_parts", None), "rewards", {}).values():
        refuse_unpaid(part, examples, rows, file)
    advice = getattr(reward.scorer, "if_unpaid", "")
    first: Any = None
    for start in range(0, len(rows) if advice else 0, UNPAID_ROWS):
        chosen = [examples[row] for row in rows[start : start + UNPAID_ROWS]]
        pairs = [(example, text) for example in chosen for text in example.references]
        first = first or next(iter(pairs), None)
        asked, right = [example.instruction for example, _ in pairs], [[text] for _, text in pairs]
        if reward.score(asked, [text for _, text in pairs], right).any():
            return
    if first is not None:
        example, text = first
        shown = text[:60] + ("..." if len(text) > 60 else "")
        reason = (
            f'no right answer has a word that it reads (the first: row "{example.id}", "{shown}"), so that it pays none'
        )
        raise RewardError(f"reward {reward.name}: {reason}; {advice}", file)


def _check_batch(batch: Batch) -> None:
    lengths = {"instructions": len(batch.instructions), "references": len(batch.references)}
    if batch.rows is not None:
        lengths["rows"] = len(batch.rows)
    for field, length in lengths.items():
        if length != len(batch):
            raise InputError(f"{len(batch)} responses but {length} {field}: a batch has one of each a row")
    for field, texts in (("response", batch.responses), ("instruction", batch.instructions)):
        if not _all_text(texts):
            row = next(row for row, text in enumerate(texts) if not isinstance(text, str))
            raise InputError(f"row {row}: the {field} is {texts[row]!r}, expected text")
    if any(issubclass(kind, str) for kind in set(map(type, batch.references))):
        row = next(row for row, held in enumerate(batch.references) if isinstance(held, str))
        raise InputError(f"row {row}: references is a text, expected a list of texts")
    if not _all_text(chain.from_iterable(batch.references)):
        row = next(row for row, held in enumerate(batch.references) if not _all_text(held))
        raise InputError(f"row {row}: references are {list(batch.references[row])!r}, expected texts")


def _all_text(texts: Any) -> bool:
    return all(issubclass(kind, str) for kind in set(map(type, texts)))


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and -1 <= value <= 2  # an integer may be larger than any float


def _row(row: int, values: np.ndarray, batch: Batch) -> tuple[str, str]:
    """The value at fault, and where: the row's number and response, cut to a line."""
    response = batch.responses[row]
    value = values[row]
    shown = "of more than 308 digits" if isinstance(value, int) and abs(value) > sys.float_info.max else str(value)[:80]
    return shown, f'row {row} (response "{response[:80]}{"..." if len(response) > 80 else ""}")'


def error_text(error: Exception) -> str:
    """An error's kind and words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def line_in(path: Path, error: Exception) -> int | None:
    """The last line of the file at `path` that the error passed through."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) == path.resolve():
        return error.lineno
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.resolve())
    ]
    return lines[-1] if lines else None
