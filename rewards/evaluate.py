"""Any metric of Hugging Face's `evaluate` from a script on this machine: each row is scored by itself."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from instructrec_rl.core import Batch, InputError, nearest
from instructrec_rl.core.options import option
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.pairs import Pairs, distinct_pairs


@dataclass
class Config:
    """path: a metric's script, or a folder NAME that holds NAME.py; names on the hub are not downloaded."""

    path: str = option("", "the metric's script on this machine")
    config_name: str = option("", "the metric's configuration, where it has several")
    key: str = option("", "which of the metric's results is the score, where it has several")
    scale: float = option(1.0, "what the result is divided by: 100 for a metric in per cent", low=1e-9)
    arguments: dict[str, Any] = field(default_factory=dict, metadata={"help": "arguments of the metric's compute()"})
    multi: str = option("max", "over several references: the best, or the mean", choices=("max", "mean"))


class Reward:
    """metric(response, references)[key] / scale. A metric that takes several references at once is given them all."""

    def __init__(self, config: Config, context: RewardContext):
        self.config = config
        self.metric = _load_metric(config)
        self.nested = _takes_lists(self.metric)
        self._key = config.key

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,); equal rows are scored once. Raises InputError, with the row, for a result that is no number."""
        if self.nested:
            keys = [(response, tuple(refs)) for response, refs in zip(batch.responses, batch.references)]
            known = {key: self._value(key[0], list(key[1]), row) for row, key in _first_rows(keys)}
            return np.array([known[key] for key in keys])
        pairs = distinct_pairs(batch)
        row_of = _rows_of(pairs)
        values = [
            self._value(pairs.texts[left], pairs.texts[right], row)
            for left, right, row in zip(pairs.response.tolist(), pairs.reference.tolist(), row_of.tolist())
        ]
        return pairs.over_references(np.array(values), self.config.multi)

    def _value(self, response: str, reference: str | list[str], row: int) -> float:
        if reference == []:
            raise InputError(f"row {row} has no references to compare with")
        with contextlib.redirect_stdout(io.StringIO()):  # metrics print; a command's output is its own
            result = self.metric.compute(predictions=[response], references=[reference], **self.config.arguments)
        if not self._key:
            if len(result) != 1:
                raise InputError(f"the metric has several results; set reward.key.{nearest('score', result)}")
            self._key = next(iter(result))
        if self._key not in result:
            raise InputError(f'the metric has no result "{self._key}".{nearest(self._key, result)}')
        value = result[self._key]
        if isinstance(value, list | tuple | np.ndarray) and len(value) == 1:  # a score a row, as BERTScore gives
            value = value[0]
        try:
            number = float(value) / self.config.scale
        except (TypeError, ValueError) as error:
            raise InputError(f'row {row}: the metric\'s "{self._key}" is {value!r}, expected a number') from error
        if not math.isfinite(number):
            raise InputError(f'row {row}: the metric\'s "{self._key}" is {number}')
        return number


def _first_rows(keys: list[Any]) -> list[tuple[int, Any]]:
    """Each distinct key with the first row that has it."""
    first: dict[Any, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    return [(row, key) for key, row in first.items()]


def _rows_of(pairs: Pairs) -> np.ndarray:
    """A row (P,) that each distinct pair is in: the first."""
    _, first = np.unique(pairs.pair, return_index=True)
    return np.searchsorted(pairs.starts, first, side="right") - 1


def _load_metric(config: Config) -> Any:
    """The metric of a script. Raises InputError where there is no such script, or it cannot be loaded."""
    if not config.path:
        raise InputError("needs the script of a metric: reward.path=/where/it/is/my_metric.py")
    path = Path(config.path).expanduser()
    script = path / f"{path.name}.py" if path.is_dir() else path
    if not script.is_file() or script.suffix != ".py":
        raise InputError(
            f"reward.path={config.path}: there is no such script; expected the path of a metric's .py file on this "
            "machine, as names on the hub are not downloaded"
        )
    import evaluate  # type: ignore[import-untyped]

    try:
        metric = evaluate.load(str(script.resolve()), config.config_name or None, keep_in_memory=True)
    except Exception as error:  # whatever the script does when it is imported
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"cannot load the metric: {said}", script) from error
    features = metric.features[0] if isinstance(metric.features, list) else metric.features
    if not {"predictions", "references"} <= set(features):
        raise InputError(f"the metric takes {', '.join(features)}; expected predictions and references", script)
    return metric


def _takes_lists(metric: Any) -> bool:
    """Whether the metric takes a list of references a row."""
    from datasets import Value

    choices = metric.features if isinstance(metric.features, list) else [metric.features]
    return any(not isinstance(one["references"], Value) for one in choices)
