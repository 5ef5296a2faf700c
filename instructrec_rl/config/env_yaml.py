"""env.yaml, read once and typed: what an environment says of itself, and what it leaves to be decided from its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.files import read_jsonl, read_yaml

FILE = "env.yaml"
FORMATS = ("catalog", "intents")
ACTIONS = ("choose", "generate")
STATES = ("sentence", "clauses", "tokens")
DEFAULT_STATE = {"catalog": "clauses", "intents": "sentence"}  # a request for an item has several wishes, an intent one
REQUIRED = ("name", "version", "format", "action", "metrics")
TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "version": (int, "an integer"),
    "metrics": (list, "a list of reward names"),
    "splits": (dict, "a mapping from the data's split names to ours"),
    "columns": (dict, "a mapping"),
    "catalogs": (list, "a list of names"),
    "turns": (int, "an integer"),
    "turn_cost": ((int, float), "a number"),
}


@dataclass(frozen=True)
class About:
    """What an env.yaml says, checked; `file` is where. Empty texts and None: it does not say."""

    file: Path
    name: str
    version: int
    format: str
    action: str
    metrics: tuple[str, ...]
    algo: str = ""
    reward: str = ""
    path: str = ""
    state: str = ""
    description: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    catalogs: tuple[str, ...] = ("default",)
    turns: int = 1
    turn_cost: float = 0.05

    def data(self, path: str = "") -> Path:
        """Where the data is: `path` (env.path, from the current directory), else env.yaml's, from its folder.

        Raises InputError where there is no such file of intents, or folder of a catalog.
        """
        data = Path(path).expanduser() if path else self.file.parent / self.path
        if self.format == "intents" and not data.is_file():
            raise InputError("no such file of intents; give one with env.path=FILE (.json, .jsonl or .csv)", data)
        if self.format == "catalog" and not data.is_dir():
            raise InputError("no such folder; a catalog has items.jsonl and instructions.jsonl", data)
        return data

    def catalog_files(self, data: Path, catalog: str = "default") -> tuple[Path, Path]:
        """The items and the instructions of a catalog. Raises InputError for a catalog that it does not have."""
        if catalog not in self.catalogs:
            hint = nearest(catalog, self.catalogs)
            raise InputError(f'env.catalog="{catalog}" is not one of its catalogs.{hint}', self.file)
        suffix = "" if catalog == "default" else f".{catalog}"
        return data / f"items{suffix}.jsonl", data / f"instructions{suffix}.jsonl"

    def default_reward(self, path: str = "", catalog: str = "default") -> str:
        """The reward of a run that names none: env.yaml's, else constraints where the data has them, else exact_match.

        path, catalog: the run's env.path and env.catalog. Looks at the first instruction alone.
        """
        if self.reward or self.format == "intents":
            return self.reward or "exact_match"
        _, instructions = self.catalog_files(self.data(path), catalog)
        first = next(iter(read_jsonl(instructions)), (0, {}))[1]
        return "constraints" if "constraints" in first else "exact_match"


def read_env_yaml(path: Path) -> About:
    """Read and check an env.yaml. Raises InputError with the field that is missing, unknown or of another type."""
    content = read_yaml(path)
    known = [name for name in About.__dataclass_fields__ if name != "file"]
    # what must be there, and of what type
    for key in REQUIRED:
        if key not in content:
            raise InputError(f'the field "{key}" is missing (an env.yaml has {", ".join(REQUIRED)})', path)
    for key, value in content.items():
        if key not in known:
            raise InputError(f'unknown field "{key}".{nearest(key, known)}', path)
        kind, words = TYPES.get(key, (str, "text"))
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f'the field "{key}" is {str(value)[:80]!r}; expected {words}', path)
    # what lists and mappings hold
    for key in ("metrics", "catalogs"):
        if key in content:
            _check_names(content[key], key, path)
            content[key] = tuple(content[key])
    for key in ("splits", "columns"):
        for ours, theirs in content.get(key, {}).items():
            if not isinstance(ours, str) or not isinstance(theirs, str):
                raise InputError(f'the field "{key}" maps {ours!r} to {theirs!r}; expected texts', path)
    # what may be chosen, and the name
    _check_choice(content["format"], FORMATS, "format", path)
    _check_choice(content["action"], ACTIONS, "action", path)
    if content.get("state"):
        _check_choice(content["state"], STATES, "state", path)
    if path.parent.name != content["name"]:
        raise InputError(
            f'the field "name" is "{content["name"][:80]}", but its folder is "{path.parent.name}"; '
            "an environment has the name of its folder",
            path,
        )
    return About(file=path, **content)


def _check_names(values: list[Any], key: str, path: Path) -> None:
    if not values:
        raise InputError(f'the field "{key}" is empty; expected at least one name', path)
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise InputError(f'the field "{key}" holds {str(value)[:80]!r}; expected names', path)
    twice = {value for value in values if values.count(value) > 1}
    if twice:
        raise InputError(f'the field "{key}" has "{min(twice)}" twice', path)


def _check_choice(value: str, known: Iterable[str], key: str, path: Path) -> None:
    if value not in known:
        raise InputError(f'{key}="{value[:80]}" is not known.{nearest(value[:80], known)}', path)
