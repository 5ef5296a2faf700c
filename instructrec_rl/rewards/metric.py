"""A reward as a metric of Hugging Face's `evaluate`, offline: `as_metric("rouge")`. evaluate is imported when asked."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructrec_rl.core import Batch, InputError, nearest
from instructrec_rl.rewards import load_reward

USAGE = """
Args:
    predictions: list of texts, the responses.
    references: list of texts, or of lists of texts: the right answers of each.
    instructions (optional, for rewards that read them): list of texts, what was asked.
    rows (optional, for rewards that read them): list of the example records.
Returns:
    the reward's name: its mean, in [0, 1]; for a composed reward also name/part of each part, and for a metric that is
    defined over a whole corpus (bleu, chrf, ter) name/corpus.
"""


def as_metric(name: str, /, env: Any = None, **options: Any) -> Any:
    """An `evaluate.Metric` that computes the mean of a reward, in [0, 1], under the reward's name.

    env and options are those of `load_reward`, which says what is raised for wrong ones. The metric keeps its data in
    memory, reads and writes no cache, and works with `evaluate.combine` and `evaluate.save`.
    """
    reward = load_reward(name, env=env, **options)
    # evaluate makes a folder for every metric, also for one that keeps everything in memory and never writes to it
    metric = _metric_class()(config_name=None, keep_in_memory=True, cache_dir=_empty_folder())
    metric.info.module_name = reward.name
    metric.reward = reward
    return metric


@functools.cache
def _empty_folder() -> str:
    """A folder that lasts as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="instructrec-metric-")
    _FOLDERS.append(folder)
    return str(Path(folder.name))


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # a folder is removed with its object


@functools.cache
def _metric_class() -> type:
    """The class of all our metrics: made here, as importing evaluate takes seconds."""
    import evaluate  # type: ignore[import-untyped]
    from datasets import Features, Value
    from datasets import Sequence as ListOf

    # what it takes
    text = Value("string")
    several = Features({"predictions": text, "references": ListOf(text)})

    class InstructrecMetric(evaluate.Metric):
        """Scores what was added in one batch. What evaluate would refuse in its own words is looked at before."""

        reward: Any
        num_added = 0

        def _info(self) -> Any:
            return evaluate.MetricInfo(
                description="A reward of instructrec-rl as a metric: its mean over the rows.",
                citation="",
                inputs_description=USAGE,
                features=[several],
            )

        # adding rows
        def add(self, *, prediction: Any = None, reference: Any = None, **more: Any) -> None:
            """Add one prediction with its reference or references."""
            self.add_batch(predictions=[prediction], references=[reference], **more)

        def add_batch(self, *, predictions: Any = None, references: Any = None, **more: Any) -> None:
            """Add predictions with the reference or references of each."""
            _refuse_others(more, ("predictions", "references"))
            responses, right = _checked(predictions, references, self.num_added)
            if responses:
                super().add_batch(predictions=responses, references=right)
                self.num_added += len(responses)

        # scoring what was added
        def compute(self, *, predictions: Any = None, references: Any = None, **more: Any) -> Any:
            """The means over these rows and those added before. Raises InputError, with the row, for wrong input."""
            _refuse_others(more, ("instructions", "rows"))
            if predictions is not None or references is not None:
                self.add_batch(predictions=predictions, references=references)
            if self.num_added == 0:
                raise InputError("nothing to score: there are no predictions")
            self.num_added = 0
            try:
                return super().compute(**more)
            except InputError:
                self.data = self.writer = self.buf_writer = None  # the next rows begin anew
                raise

        def _compute(self, *, predictions: list[str], references: list[Any], **more: Any) -> dict[str, float]:
            return _means(self.reward, predictions, references, **more)

    return InstructrecMetric


def _refuse_others(given: Any, known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f'a metric takes no "{name}".{nearest(name, known)}')


def _checked(predictions: Any, references: Any, first: int) -> tuple[list[str], list[list[str]]]:
    """Responses (B,) and the references of each (B, any), as given or of one text each. Rows count from `first`.

    Raises InputError, with the row, for what is missing, is no text, or cannot be written as UTF-8.
    """
    for name, given in (("predictions", predictions), ("references", references)):
        if given is None or isinstance(given, str | dict) or not hasattr(given, "__len__"):
            found = "nothing" if given is None else f"a {type(given).__name__}"
            raise InputError(
                f"{name}: expected a list with an entry a row ([] where a row has no reference), got {found}"
            )
    if len(predictions) != len(references):
        raise InputError(f"{len(predictions)} predictions but {len(references)} references: each row has one of each")
    right: list[list[str]] = []
    for row, (response, held) in enumerate(zip(predictions, references), start=first):
        _refuse_other_than_text(response, f"row {row}: the prediction")
        if held is None:
            raise InputError(f"row {row}: the reference is missing; expected a text or a list of texts")
        if not isinstance(held, str | list | tuple) and not hasattr(held, "tolist"):
            raise InputError(f"row {row}: the reference is {_shown(held)}, expected a text or a list of texts")
        texts = [held] if isinstance(held, str) else list(held)
        for text in texts:
            _refuse_other_than_text(text, f"row {row}: a reference")
        right.append(texts)
    return list(predictions), right


def _refuse_other_than_text(text: Any, what: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{what} is {_shown(text)}, expected text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{what} has half of a surrogate pair (character {error.start})") from error


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "..."


def _means(
    reward: Any,
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    instructions: Sequence[str] | None = None,
    rows: Sequence[dict[str, Any]] | None = None,
) -> dict[str, float]:
    """The means of the reward and of its parts, by name, and its corpus score where it has one."""
    right = [[one] if isinstance(one, str) else list(one) for one in references]
    asked = [""] * len(predictions) if instructions is None else list(instructions)
    batch = Batch(asked, list(predictions), right, rows)
    if reward.has_corpus_score:
        scores, statistics = reward.score_with_statistics(batch)
        return {reward.name: float(scores.mean()), f"{reward.name}/corpus": reward.corpus_score(statistics.sum(axis=0))}
    scores, parts = reward.score_with_parts(batch)
    means = {reward.name: float(scores.mean())}
    return means | {f"{reward.name}/{part}": float(values.mean()) for part, values in parts.items()}
