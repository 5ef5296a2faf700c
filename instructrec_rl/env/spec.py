"""Reads an environment's folder (or one file of intents) into a validated, immutable `Spec`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instructrec_rl.core import Example, InputError, Item, nearest
from instructrec_rl.core.files import find_envs, read_jsonl, read_yaml
from instructrec_rl.core.options import out_of_range
from instructrec_rl.env.examples import ExampleList, Examples, open_table
from instructrec_rl.env.formats import intents

if TYPE_CHECKING:
    from instructrec_rl.config.schema import EnvConfig

FORMATS = ("catalog", "intents")
ACTIONS = ("choose", "generate")
STATES = ("sentence", "clauses", "tokens")
SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}
LARGE_FILE = 1 << 24  # bytes of instructions from which they are not held in memory: some 30,000 of them
REQUIRED = ("name", "version", "format", "action", "metrics")
OPTIONAL = ("algo", "reward", "path", "splits", "state", "catalogs", "columns", "description", "turns", "turn_cost")


@dataclass(frozen=True)
class Spec:
    """An environment as data: what may be answered, what is asked, and how the answers are judged.

    `items` is the catalog (A entries; for intents, the labels). `examples` are all instructions; `splits` maps a
    split's name to positions in `examples`. `menus` maps a split to the positions of the items on offer there, for the
    splits that offer more than the regular items. `left_out` counts the rows that were dropped, by reason.
    """

    name: str
    version: int
    format: str
    action: str
    metrics: tuple[str, ...]
    folder: Path
    files: tuple[Path, ...]
    items: list[Item]
    examples: Examples
    splits: dict[str, np.ndarray]
    regular: np.ndarray
    menus: dict[str, np.ndarray]
    algo: str = ""
    reward: str = ""
    state: str = "sentence"
    turns: int = 1
    turn_cost: float = 0.05
    left_out: dict[str, int] = field(default_factory=dict)

    def menu(self, split: str) -> np.ndarray:
        """Positions (in `items`) of what is on offer in a split; the action space of that split is `len` of it."""
        return self.menus.get(split, self.regular)

    def rows(self, split: str) -> np.ndarray:
        """Positions (in `examples`) of a split's instructions. Raises InputError with the nearest name."""
        if split not in self.splits:
            raise InputError(f'environment "{self.name}" has no split "{split}".{nearest(split, self.splits)}')
        return self.splits[split]

    @property
    def test_splits(self) -> list[str]:
        """The splits to report: all but train and validation."""
        return [name for name in self.splits if name not in ("train", "validation")]


def load_spec(config: EnvConfig) -> Spec:
    """Read and validate the environment that `config.name` names.

    Raises InputError (with the file and line) for a missing field, a broken line, a best item that is not in the
    catalog, an empty split, and every other fault of the data.
    """
    # check the options
    for option in fields(config):
        value = getattr(config, option.name)
        if reason := out_of_range(value, option.metadata):
            raise InputError(f"env.{option.name}={value}: {reason}")
    # find the environment
    folders = find_envs()
    if config.name not in folders:
        raise InputError(f'there is no environment "{config.name}".{nearest(config.name, folders)}')
    path = folders[config.name] / "env.yaml"
    # read its data, and what splits and menus it has
    header = _read_env_yaml(path)
    data = _read_data(config, header, path)
    splits = _make_splits(data.examples, data.splits, data.files[-1])
    regular, menus = _make_menus(data, splits)
    spec = Spec(
        name=config.name,
        version=header["version"],
        format=header["format"],
        action=_one_of(config.action or header["action"], ACTIONS, "env.action", path),
        metrics=tuple(header["metrics"]),
        folder=path.parent,
        files=(path, *data.files),
        items=data.items,
        examples=data.examples,
        splits=splits,
        regular=regular,
        menus=menus,
        algo=header.get("algo", ""),
        reward=header.get("reward", ""),
        state=_one_of(config.state or header.get("state", "sentence"), STATES, "env.state", path),
        turns=header.get("turns", 1) if config.turns is None else config.turns,
        turn_cost=header.get("turn_cost", 0.05) if config.turn_cost is None else config.turn_cost,
        left_out=data.left_out,
    )
    _check_best_on_offer(spec, data.files[-1])
    return spec


@dataclass(frozen=True)
class _Data:
    """An environment's files as read. `offered`: for each item, the only split that offers it, None for all of them;
    `splits`: for each example our name of its split, None where the data has no splits.
    """

    files: tuple[Path, ...]
    items: list[Item]
    offered: list[str | None]
    examples: Examples
    splits: list[str | None]
    left_out: dict[str, int] = field(default_factory=dict)


def _read_data(config: EnvConfig, about: Mapping[str, Any], path: Path) -> _Data:
    data_path = _data_path(config, about, path)
    names = {**about.get("splits", {}), **config.splits}
    if about["format"] == "intents":
        table = intents.read(data_path, {**about.get("columns", {}), **config.columns})
        renamed = _rename_splits([split for *_, split in table], names, data_path)
        items, labelled, splits, left_out = intents.to_examples(table, renamed, data_path, config.oos == "keep")
        return _Data((data_path,), items, [None] * len(items), ExampleList(labelled), splits, left_out)
    known = about.get("catalogs", ["default"])
    if config.catalog not in known:
        hint = nearest(config.catalog, known)
        raise InputError(f'env.catalog="{config.catalog}" is not one of its catalogs.{hint}', path)
    suffix = "" if config.catalog == "default" else f".{config.catalog}"
    files = (data_path / f"items{suffix}.jsonl", data_path / f"instructions{suffix}.jsonl")
    items, offered = _read_items(files[0], config.text)
    examples, given = _read_instructions(files[1], items)
    return _Data(files, items, offered, examples, _rename_splits(given, names, files[1]))


def _make_menus(data: _Data, splits: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Positions of the items on offer everywhere, and of all on offer in each split that has items of its own."""
    own = [name for name in dict.fromkeys(data.offered) if name is not None]
    for name in own:
        if name not in splits:
            hint = nearest(name, splits)
            raise InputError(
                f'an item is on offer only in split "{name}", which no instruction has.{hint}', data.files[0]
            )

    def on_offer(*where: str | None) -> np.ndarray:
        return np.array([i for i, split in enumerate(data.offered) if split in where], dtype=np.int64)

    return on_offer(None), {name: on_offer(None, name) for name in own}


def _one_of(value: str, known: Iterable[str], key: str, path: Path) -> str:
    if value not in known:
        raise InputError(f'{key}="{value}" is not known.{nearest(value, known)}', path)
    return value


def _read_env_yaml(path: Path) -> dict[str, Any]:
    about = read_yaml(path)
    for key in REQUIRED:
        if key not in about:
            raise InputError(f'the field "{key}" is missing (an env.yaml has {", ".join(REQUIRED)})', path)
    for key in about:
        if key not in REQUIRED + OPTIONAL:
            raise InputError(f'unknown field "{key}".{nearest(key, REQUIRED + OPTIONAL)}', path)
    types: dict[str, tuple[type, str]] = {
        "version": (int, "an integer"),
        "metrics": (list, "a list of reward names"),
        "splits": (dict, "a mapping from the data's split names to ours"),
        "columns": (dict, "a mapping"),
        "catalogs": (list, "a list of names"),
        "turns": (int, "an integer"),
        "turn_cost": ((int, float), "a number"),  # type: ignore[dict-item]
    }
    for key, value in about.items():
        kind, words = types.get(key, (str, "text"))
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f'the field "{key}" is {value!r}; expected {words}', path)
    _one_of(about["format"], FORMATS, "format", path)
    return about


def _data_path(config: EnvConfig, about: Mapping[str, Any], path: Path) -> Path:
    """Where the data is: `env.path` (from the current directory), else env.yaml's `path` (from its folder)."""
    data = Path(config.path).expanduser() if config.path else path.parent / about.get("path", "")
    if about["format"] == "intents" and not data.is_file():
        raise InputError("no such file of intents; give one with env.path=FILE (.json, .jsonl or .csv)", data)
    if about["format"] == "catalog" and not data.is_dir():
        raise InputError("no such folder; a catalog has items.jsonl and instructions.jsonl", data)
    return data


def _rename_splits(given: list[str | None], names: Mapping[str, str], path: Path) -> list[str | None]:
    """Our names for the data's splits. Raises InputError for a split that `names` mentions and no row has."""
    found = {split for split in given if split is not None}
    for name in names:
        if name not in found:
            raise InputError(
                f'split "{name}" is named (env.splits) but empty: no row has it.{nearest(name, found)}', path
            )
    return [None if split is None else names.get(split, SPLIT_ALIASES.get(split, split)) for split in given]


def _text(record: Mapping[str, Any], key: str, path: Path, line: int) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        what = f'the field "{key}" is missing' if key not in record else f'the field "{key}" is {value!r}'
        raise InputError(f"{what}; expected text", path, line)
    return value


def _read_items(path: Path, text_field: str) -> tuple[list[Item], list[str | None]]:
    """The catalog, and for each item the only split that offers it (None for regular items, which come first)."""
    rows: list[tuple[Item, str | None]] = []
    seen: dict[str, int] = {}
    for line, record in read_jsonl(path):
        name = _text(record, "name", path, line)
        item_id = _text(record, "id", path, line)
        if item_id in seen:
            raise InputError(f'the id "{item_id}" stands already at line {seen[item_id]}', path, line)
        seen[item_id] = line
        attributes = {k: v for k, v in record.items() if k not in ("id", "name", "text", "split")}
        rows.append((Item(item_id, name, _text(record, text_field, path, line), attributes), record.get("split")))
    if not rows:
        raise InputError("the catalog is empty; expected one item a line (id, name, text)", path)
    rows.sort(key=lambda pair: pair[1] is not None)  # stable: regular items first, in the file's order
    return [item for item, _ in rows], [split for _, split in rows]


def _read_instructions(path: Path, items: list[Item]) -> tuple[Examples, list[str | None]]:
    """The examples, and for each the data's name of its split."""
    if path.is_file() and path.stat().st_size >= LARGE_FILE:
        table = open_table(path, items, lambda: _instructions(path, items))
        if table is not None:
            return table, table.splits()
    read = list(_instructions(path, items))
    return ExampleList(example for example, _ in read), [split for _, split in read]


def _instructions(path: Path, items: Sequence[Item]) -> Iterator[tuple[Example, str | None]]:
    """Check and give one instruction after the other, with its split."""
    position = {item.id: i for i, item in enumerate(items)}
    seen: dict[str, int] = {}
    for line, record in read_jsonl(path):
        row_id = _text(record, "id", path, line)
        if row_id in seen:
            raise InputError(f'the id "{row_id}" stands already at line {seen[row_id]}', path, line)
        seen[row_id] = line
        best = record.get("best")
        if not isinstance(best, list) or not best:
            raise InputError('the field "best" must be a list of at least one item id', path, line)
        for item_id in best:
            if item_id not in position:
                raise InputError(
                    f'best item "{item_id}" is not in the catalog.{nearest(str(item_id), position)}', path, line
                )
        references = record.get("references") or [items[position[b]].text for b in best]
        if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
            raise InputError('the field "references" must be a list of texts', path, line)
        split = record.get("split")
        if split is not None and not isinstance(split, str):
            raise InputError(f'the field "split" is {split!r}; expected text', path, line)
        instruction = _text(record, "instruction", path, line)
        yield Example(row_id, instruction, tuple(position[b] for b in best), tuple(references), record), split
    if not seen:
        raise InputError("there are no instructions; expected one a line (id, instruction, best)", path)


def _make_splits(examples: Examples, split_of: list[str | None], path: Path) -> dict[str, np.ndarray]:
    """Group positions by split; without any `split` a seeded hash of the ids makes 80/10/10, validation at least."""
    ids: Any = examples.ids
    if all(split is None for split in split_of):
        order = sorted(range(len(ids)), key=lambda i: _hash(ids[i]))
        tenth = max(1, round(len(order) / 10))
        if len(order) < 3:
            raise InputError("fewer than three instructions and no split field: nothing would be left to test on", path)
        parts = {"train": order[2 * tenth :], "validation": order[:tenth], "test": order[tenth : 2 * tenth]}
        return {name: np.array(sorted(rows), dtype=np.int64) for name, rows in parts.items()}
    grouped: dict[str, list[int]] = {}
    for i, split in enumerate(split_of):
        if split is None:
            raise InputError(f'instruction "{ids[i]}" has no "split" though others have one', path)
        grouped.setdefault(split, []).append(i)
    if "train" not in grouped:
        raise InputError(
            f'no instruction is in split "train" (found: {", ".join(grouped)}); map names with env.splits', path
        )
    if "validation" not in grouped:  # settings and checkpoints must never be chosen on a test split
        order = sorted(grouped["train"], key=lambda i: _hash(ids[i]))
        tenth = max(1, len(order) // 10)
        grouped["train"], grouped["validation"] = sorted(order[tenth:]), sorted(order[:tenth])
        if not grouped["train"]:
            raise InputError('split "train" is too small to take a validation part from it', path)
    if set(grouped) == {"train", "validation"}:
        raise InputError("there is no test split; name one in the data or with env.splits", path)
    names = ["train", "validation", *(name for name in grouped if name not in ("train", "validation"))]
    return {name: np.array(grouped[name], dtype=np.int64) for name in names}


def _hash(row_id: str) -> bytes:
    return hashlib.blake2b(row_id.encode(), digest_size=8, salt=b"split-0").digest()


def _check_best_on_offer(spec: Spec, path: Path) -> None:
    best, starts = spec.examples.best
    for split, rows in spec.splits.items():
        offered = np.zeros(len(spec.items), dtype=bool)
        offered[spec.menu(split)] = True
        right = np.logical_or.reduceat(offered[best], starts[:-1])  # no row is without a best item
        if not right[rows].all():
            row = rows[right[rows].argmin()]
            raise InputError(
                f'instruction "{spec.examples.ids[row]}": none of its best items is on offer in split "{split}"', path
            )
