"""`train`: a run from Python, with the command line's options, and its result as an object."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.config.compose import compose
from instructrec_rl.config.overrides import Setting, override
from instructrec_rl.config.schema import GROUPS
from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_bytes
from instructrec_rl.core.inert import printable
from instructrec_rl.core.json_reader import parse_object
from instructrec_rl.run import screen
from instructrec_rl.run.command import command_of

if TYPE_CHECKING:
    from instructrec_rl.policies.saved import TextPolicy

MOST_CHARACTERS = 160  # of a repr
MOST_BYTES = 1 << 28  # of result.json


class TrainResult:
    """A finished run. Made by `train`, or from the folder of any finished run.

    folder: the run's folder; result: what result.json says.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / "result.json"
        self.result: dict[str, Any] = parse_object(read_bytes(path, MOST_BYTES), path)

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The policy's means, split -> metric -> value."""
        return {split: values["metrics"] for split, values in self.result["splits"].items()}

    @property
    def normalized(self) -> dict[str, dict[str, float]]:
        """The same, where 0 is a random answer and 1 the oracle's."""
        return {split: values["normalized"] for split, values in self.result["splits"].items()}

    @property
    def baselines(self) -> dict[str, dict[str, dict[str, float]]]:
        """The means of the simple policies, baseline -> split -> metric -> value."""
        return {
            name: {split: values["metrics"] for split, values in baseline["splits"].items()}
            for name, baseline in self.result["baselines"].items()
        }

    @property
    def policy(self) -> TextPolicy:
        """The trained policy, loaded anew at each use. Raises InputError as `load_policy` does."""
        from instructrec_rl.policies.saved import load_policy

        return load_policy(self.folder)

    def report(self) -> Path:
        """Write report.html anew and return its path."""
        from instructrec_rl.report.command import write_report

        return write_report(self.folder)

    def __repr__(self) -> str:
        metric = screen.main_metric(self.result)
        pairs = ((split, screen.values_of(self.result["splits"], split, metric)[1]) for split in self.result["splits"])
        cells = "  ".join(f"{split} {screen.figure(raw)}" for split, raw in pairs)
        line = printable(f"{self.result['algo']} on {self.result['env']}, {metric}:  {cells}")
        return line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 3] + "..."

    def _repr_html_(self) -> str:
        """The table of the policy and its baselines, for a notebook."""
        from html import escape

        return f"<pre>{escape(chr(10).join(screen.result_lines(self.result)))}</pre>"


def train(*overrides: str, quiet: bool = False, **options: Any) -> TrainResult:
    """Train a policy, evaluate it on every split and write the run's folder, as `instructrec-rl run` does.

    overrides: options as on the command line, "algo.interactions=2000". options: the same by keyword, whose values keep
    their types: `env="pizza_rec"`, `seed=1`, `out="runs/mine"`; those of a group as `algo={"name": "dqn",
    "interactions": 2000}` or `**{"algo.interactions": 2000}`. Keywords win over overrides. quiet: print nothing.

    Raises InputError for wrong input, with the line that the command would print.
    """
    settings = [setting for key, value in options.items() for setting in _settings(key, value)]
    with contextlib.ExitStack() as silence:
        if quiet:
            silence.enter_context(contextlib.redirect_stdout(io.StringIO()))
            silence.enter_context(contextlib.redirect_stderr(io.StringIO()))
        config = compose(overrides, settings)
        from instructrec_rl.run import experiment

        words = [*overrides, *(override(setting.key, setting.value) for setting in settings)]
        return TrainResult(experiment.run(config, command_of(words)))


def _settings(key: str, value: Any) -> list[Setting]:
    """An option by keyword as the settings of the command line; the dict of a group is one setting a key."""
    if key in GROUPS and isinstance(value, Mapping):
        wrong = [name for name in value if not isinstance(name, str)]
        if wrong:
            raise InputError(f"{key}: expected options by name, found {json.dumps(str(wrong[0])[:80])}")
        return [Setting(key if name == "name" else f"{key}.{name}", _plain(inner)) for name, inner in value.items()]
    return [Setting(key, _plain(value))]


def _plain(value: Any) -> Any:
    """A path as its text and a NumPy number as Python's, which is what options are made of."""
    import numpy as np

    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value
