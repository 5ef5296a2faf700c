"""Reads an environment's folder (or one file of intents) into a validated, immutable `Spec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instructrec_rl.config.env_yaml import DEFAULT_STATE, FILE, About, read_env_yaml
from instructrec_rl.core import InputError, Item, nearest
from instructrec_rl.core.files import find_envs
from instructrec_rl.core.options import out_of_range
from instructrec_rl.env.examples import ExampleList, Examples
from instructrec_rl.env.formats import intents
from instructrec_rl.env.formats.catalog import read_instructions, read_items
from instructrec_rl.env.splits import make_splits, rename_splits, test_splits

if TYPE_CHECKING:
    from instructrec_rl.config.schema import EnvConfig


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {len(rows):,}" for name, rows in self.splits.items())
        return f"<Spec {self.name}: {len(self.items):,} items, {splits}>"

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
        return test_splits(self.splits)


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
    header = read_env_yaml(folders[config.name] / FILE)
    # read its data, and what splits and menus it has
    data = _read_data(config, header)
    splits = make_splits(data.examples, data.splits, data.files[-1])
    regular, menus = _make_menus(data, splits)
    spec = Spec(
        name=config.name,
        version=header.version,
        format=header.format,
        action=config.action or header.action,
        metrics=header.metrics,
        folder=header.file.parent,
        files=(header.file, *data.files),
        items=data.items,
        examples=data.examples,
        splits=splits,
        regular=regular,
        menus=menus,
        algo=header.algo,
        reward=header.default_reward(config.path, config.catalog),
        state=config.state or header.state or DEFAULT_STATE[header.format],
        turns=header.turns if config.turns is None else config.turns,
        turn_cost=header.turn_cost if config.turn_cost is None else config.turn_cost,
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


def _read_data(config: EnvConfig, about: About) -> _Data:
    data_path = about.data(config.path)
    names = {**about.splits, **config.splits}
    if about.format == "intents":
        table = intents.read(data_path, {**about.columns, **config.columns})
        renamed = rename_splits([row.split for row in table], names, data_path)
        items, labelled, splits, left_out = intents.to_examples(table, renamed, data_path, config.oos == "keep")
        return _Data((data_path,), items, [None] * len(items), ExampleList(labelled), splits, left_out)
    files = about.catalog_files(data_path, config.catalog)
    items, offered = read_items(files[0], config.text)
    examples, given = read_instructions(files[1], items)
    return _Data(files, items, offered, examples, rename_splits(given, names, files[1]))


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
