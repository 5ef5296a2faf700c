"""A reward as a metric of Hugging Face's `evaluate`, offline: `as_metric("rouge")`. evaluate is imported when asked."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructrec_rl.core import Batch
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

    text = Value("string")
    several = Features({"predictions": text, "references": ListOf(text)})
    one = Features({"predictions": text, "references": text})

    class InstructrecMetric(evaluate.Metric):
        """Scores what was added in one batch."""

        reward: Any

        def _info(self) -> Any:
            return evaluate.MetricInfo(
                description="A reward of instructrec-rl as a metric: its mean over the rows.",
                citation="",
                inputs_description=USAGE,
                features=[several, one],
            )

        def _compute(self, *, predictions: list[str], references: list[Any], **more: Any) -> dict[str, float]:
            return _means(self.reward, predictions, references, **more)

    return InstructrecMetric


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
