"""What was logged, as rounds of a bandit: a run's rollouts.jsonl, anybody's JSONL, or feedback with ratings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instructrec_rl.algorithms.loop.rollouts import FILE
from instructrec_rl.config.schema import EnvConfig
from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.files import read_jsonl, read_yaml
from instructrec_rl.core.json_reader import is_number
from instructrec_rl.feedback.folders import jsonl_under
from instructrec_rl.feedback.schema import Rating, Thumbs
from instructrec_rl.feedback.store import Store

KEYS = ("instruction", "id", "response", "item", "text", "reward", "propensity", "log_propensity")
JUDGES = ("rating", "up", "chosen", "responses", "corrected", "target", "kind")  # keys that tell a line of feedback


@dataclass(frozen=True)
class Logs:
    """N rounds. asked: instructions, or ids of an environment's rows where `by_id`; answers: item ids (kind `item`),
    names, ids or texts of items (`response`), or texts whose propensity is that of the very text (`text`); rewards:
    (N,), or None where no line has one; propensities: (N,), None where nobody logged any; lines: (N,) line numbers
    for errors, 0 where there is none; left_out: what was not taken in, in words."""

    path: Path
    by_id: bool
    kind: str
    asked: list[str]
    answers: list[str]
    rewards: np.ndarray | None
    propensities: np.ndarray | None
    lines: np.ndarray
    left_out: tuple[str, ...]

    def error(self, reason: str, place: int) -> InputError:
        """An InputError that names the line of a round."""
        return InputError(reason, self.path, int(self.lines[place]) or None)


def find_logs(path: Path) -> Path:
    """The file of logs that a path means: itself, or its rollouts.jsonl where it is a run's folder.

    A folder of feedback means itself. Raises InputError where there is none.
    """
    packed = f"{FILE}.gz"
    if path.name == FILE and not path.exists() and path.with_name(packed).is_file():
        return path.with_name(packed)
    if not path.exists():
        raise InputError("logs: there is no such file or folder", path)
    for name in (FILE, packed):
        if path.is_dir() and (path / name).is_file():
            return path / name
    if path.is_dir() and (path / "config.yaml").is_file():
        raise InputError(f"this run has no {FILE}: it learned without trying answers, or with rollouts=none", path)
    if path.is_dir() and next(jsonl_under(str(path), []), None) is None:
        raise InputError(f"logs: expected a run's folder, or one with *.jsonl; found neither {FILE} nor another", path)
    return path


def env_of(path: Path) -> EnvConfig | None:
    """The environment of the run that a rollouts.jsonl belongs to, with the options it had; None without a run."""
    config = path.parent / "config.yaml"
    if path.name not in (FILE, f"{FILE}.gz") or not config.is_file():
        return None
    try:
        return EnvConfig(**read_yaml(config)["env"])
    except (KeyError, TypeError) as error:
        raise InputError("not the config of a run: its env cannot be read", config) from error


def read_logs(path: Path, need_rewards: bool = True) -> Logs:
    """Read the file or the folder that `find_logs` gave. need_rewards: false where another reward scores the answers.

    Raises InputError with path and line for what is missing, of the wrong type or out of range.
    """
    if path.is_dir():
        return _feedback(path)
    asked: list[str] = []
    answers: list[str] = []
    figures: list[tuple[float, float, int]] = []
    shape: tuple[str, str] | None = None
    later = 0
    for line, record in read_jsonl(path):
        if shape is None:
            if any(key in record for key in JUDGES):
                return _feedback(path)
            shape = _shape(record, path, line)
        if record.get("turn"):
            later += 1
            continue
        asked.append(_text(record, shape[0], path, line))
        answers.append(_text(record, shape[1], path, line))
        figures.append((_reward(record, need_rewards, path, line), _propensity(record, path, line), line))
    if shape is None or not figures:
        raise InputError("there is nothing in it", path)
    rewards, propensities, lines = (np.array(column) for column in zip(*figures))
    said = f"{later:,} later answers of episodes with several turns: only the first ones are rounds of a bandit"
    kept = None if np.isnan(rewards).any() else rewards
    return Logs(path, shape[0] == "id", shape[1], asked, answers, kept, _known(propensities, lines, path), lines,
                (said,) if later else ())  # fmt: skip


def _shape(record: dict[str, Any], path: Path, line: int) -> tuple[str, str]:
    """Under which keys a file has the instruction and the answer, by its first line."""
    asked = next((key for key in ("instruction", "id") if key in record), "")
    answer = next((key for key in ("item", "text", "response") if key in record), "")
    if not asked or not answer:
        wanted = '"response" (or "item" or "text")' if asked else '"instruction" (or "id", of a run\'s row)'
        hints = (nearest(key, KEYS).partition(" Known")[0] for key in record if key not in KEYS)
        raise InputError(f"the line has no {wanted}.{next(filter(None, hints), '')}", path, line)
    return asked, answer


def _text(record: dict[str, Any], key: str, path: Path, line: int) -> str:
    if not isinstance(record.get(key), str):
        raise InputError(f'"{key}": expected a text, got {record.get(key)!r:.60}', path, line)
    return str(record[key])


def _number(record: dict[str, Any], key: str, path: Path, line: int) -> float:
    value = record[key]
    if not is_number(value) or not math.isfinite(value):
        raise InputError(f'"{key}": expected a number, got {value!r:.60}', path, line)
    return float(value)


def _reward(record: dict[str, Any], needed: bool, path: Path, line: int) -> float:
    if "reward" not in record:
        if needed:
            raise InputError('the line has no "reward"; reward=NAME scores the answers anew', path, line)
        return math.nan
    return _number(record, "reward", path, line)


def _propensity(record: dict[str, Any], path: Path, line: int) -> float:
    """NaN where there is none."""
    if "log_propensity" in record:
        value = _number(record, "log_propensity", path, line)
        if value > 1e-3:
            raise InputError(f'"log_propensity": expected at most 0, got {value:g}', path, line)
        return max(math.exp(min(value, 0.0)), 1e-300)  # so that one too small for a float stays above 0
    if record.get("propensity") is None:
        return math.nan
    value = _number(record, "propensity", path, line)
    if not 0 < value <= 1:
        raise InputError(f'"propensity": expected a probability above 0 and at most 1, got {value:g}', path, line)
    return value


def _known(propensities: np.ndarray, lines: np.ndarray, path: Path) -> np.ndarray | None:
    """The propensities (N,), None where none is known. Raises InputError where only some are."""
    missing = np.isnan(propensities)
    if missing.all():
        return None
    if missing.any():
        line = int(lines[missing.argmax()]) or None
        raise InputError("a round without a propensity among others with one: give all or none", path, line)
    return propensities


def _feedback(path: Path) -> Logs:
    """Ratings and thumbs that count, each a round: the share of the scale, or 1 for up."""
    store = Store([path])
    for problem in store.problems:
        raise InputError(problem.reason, problem.path, problem.line or None)
    judged = [record for record in store.records if isinstance(record, Rating | Thumbs)]
    if not judged:
        raise InputError("there is no rating and no thumb in it: of feedback, only these are rewards", path)
    judged.sort(key=lambda record: record.id)
    rewards = np.array([record.share if isinstance(record, Rating) else float(record.up) for record in judged])
    propensities = np.array([math.nan if record.propensity is None else record.propensity for record in judged])
    lines = np.zeros(len(judged), dtype=np.int64)
    others = len(store.records) - len(judged)
    said = f"{others:,} records of feedback that are neither ratings nor thumbs"
    return Logs(path, False, "response", [r.instruction for r in judged], [r.response for r in judged], rewards,
                _known(propensities, lines, path), lines, (said,) if others else ())  # fmt: skip
