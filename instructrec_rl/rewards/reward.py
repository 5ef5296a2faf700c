"""The rewards machinery: finds a reward's file, types its options, runs it, and checks what it returns. No torch here.

A reward is `rewards/<name>.py`, with `score(batch, config)` or `class Reward(config, context)`, or
`rewards/<name>.yaml`, which names a reward and gives it other defaults. See docs/adding_a_reward.md.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from instructrec_rl.core import Batch, InputError, Item, nearest
from instructrec_rl.core.files import find_rewards, read_yaml
from instructrec_rl.core.options import build_config

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
            raise RewardError(with_name + error.reason, error.path, error.line) from error
        except Exception as error:
            raise RewardError(with_name + _said(error), self.path, _line_in(self.path, error)) from error

    def _checked(self, scores: Any, batch: Batch) -> np.ndarray:
        try:
            values = np.asarray(scores)
        except Exception as error:  # ragged lists, tensors on a GPU
            raise self._unfit(f"cannot read its scores as an array: {_said(error)}") from error
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

        reason = f'no right answer has a word that it reads (the first: row "{example.id}", "{shown}"): it pays none'
    scorer says by `if_unpaid` what to choose instead; one row that is paid is enough.
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


def load_reward(name: str, /, env: Any = None, **options: Any) -> Reward:
    """Load a reward by the name of its file, with options of its Config.

    env: a loaded environment (anything with `items` and `encoder`), an environment's name, or None. Raises
    InputError for an unknown name or option, a value of the wrong type, and a file that cannot be imported.
    """
    if isinstance(env, str):
        from instructrec_rl import load_env

        env = load_env(env)
    return _load(name, env, options, ())


def reward_config_class(name: str) -> type | None:
    """The dataclass `Config` of a reward (for a .yaml: of the reward it names), or None where it takes no options."""
    return _config_class(_load_module(_definition(name)[0]), _definition(name)[0])


def _load(name: str, env: Any, options: Mapping[str, Any], outer: tuple[str, ...]) -> Reward:
    if name in outer:
        raise InputError(f"reward {name} contains itself: {' > '.join((*outer, name))}")
    path, preset, preset_path = _definition(name)
    module = _load_module(path)
    has_function, has_class = (
        callable(getattr(module, "score", None)),
        isinstance(getattr(module, "Reward", None), type),
    )
    if has_function == has_class:
        raise InputError("a reward defines either score(batch, config) or class Reward", path)
    preset = {key: value for key, value in preset.items() if key not in options}
    config = build_config(_config_class(module, path), preset, dict(options), name, preset_path)
    context = RewardContext(
        items=[] if env is None else list(env.items),
        load=lambda part, **given: _load(part, env, given, (*outer, name)),
        find_encoder=lambda: getattr(env, "encoder", None),
        env=getattr(getattr(env, "spec", None), "name", ""),
    )
    resolved = {} if config is None else {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    reward = Reward(name, resolved, path, None)
    reward.scorer = (
        _Function(config, module.score)
        if has_function
        else reward._call(lambda _: module.Reward(config, context), None)
    )
    if not callable(getattr(reward.scorer, "score", None)):
        raise InputError("class Reward has no method score(batch)", path)
    return reward


@dataclass
class _Function:
    """`score(batch, config)` in the shape of a `class Reward`."""

    config: Any
    function: Callable[[Batch, Any], Any]

    def score(self, batch: Batch) -> Any:
        return self.function(batch, self.config)


def _definition(name: str) -> tuple[Path, dict[str, Any], Path | None]:
    """The .py file behind a name, the options that its YAML sets, and that YAML."""
    known = find_rewards()
    if name not in known:
        raise InputError(f'unknown reward "{name}".{nearest(name, known)}')
    path = known[name]
    if path.suffix != ".yaml":
        return path, {}, None
    preset = read_yaml(path)
    base = str(preset.pop("reward", ""))
    files = {key: file for key, file in known.items() if file.suffix == ".py"}
    if base not in files:
        raise InputError(f'"reward: {base}" is not the name of a reward\'s .py file.{nearest(base, files)}', path)
    return files[base], preset, path


def _load_module(path: Path) -> ModuleType:
    try:
        stamp = path.stat()
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", path) from error
    return _load_module_at(path.resolve(), stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=256)
def _load_module_at(path: Path, changed: int, size: int) -> ModuleType:
    """Run a reward's file as a module of a private name. Its folder never joins sys.path, and no .pyc is written."""
    name = f"_instructrec_reward_{path.stem}_{hashlib.sha256(f'{path}:{changed}'.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise InputError("not a Python file", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and get_type_hints look it up there
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise InputError(_said(error), path, _line_in(path, error)) from error
    return module


def _config_class(module: ModuleType, path: Path) -> type | None:
    config = getattr(module, "Config", None)
    if config is not None and not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise InputError("Config is not a dataclass", path)
    return config


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


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _line_in(path: Path, error: Exception) -> int | None:
    """The last line of the file at `path` that the error passed through."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) == path.resolve():
        return error.lineno
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.resolve())
    ]
    return lines[-1] if lines else None
