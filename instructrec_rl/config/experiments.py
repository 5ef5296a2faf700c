"""Reads experiments/*.yaml: the overrides of one run, or a bench: variants, a grid, and sizes with their seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_rl.config.overrides import Setting
from instructrec_rl.config.schema import GROUPS
from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.files import find_experiments, read_yaml

BENCH_KEYS = ("description", "overrides", "variants", "grid", "sizes")
SIZE_KEYS = ("seeds", "overrides", "variants")
RATINGS = "simulated_ratings"  # an option of bench's own: so many ratings by simulated annotators are the feedback
SET_BY_BENCH = ("seed", "out", "resume")
FOLDER_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")

Overrides = dict[str, Any]  # option -> value, as a run's command line has them: {"algo": "dqn", "env.state": "clauses"}


@dataclass(frozen=True)
class Bench:
    """A benchmark at one size. `variants`: name -> the overrides of its runs; `seeds`: name -> its seeds."""

    path: Path
    description: str
    size: str
    variants: dict[str, Overrides]
    seeds: dict[str, list[int]]

    @property
    def name(self) -> str:
        """The experiment's name: its file's, without the ending."""
        return self.path.stem


def is_bench(content: Mapping[str, Any]) -> bool:
    """Whether an experiment's file describes a bench of many runs, and not one run."""
    return "variants" in content or "sizes" in content


def run_settings(path: Path) -> list[Setting]:
    """The options that an experiment of one run sets. Raises InputError for a bench and for a broken file."""
    content = read_yaml(path)
    if is_bench(content):
        raise InputError(f"this is a bench of many runs; start it with: instructrec-rl bench experiment={path.stem}",
                         path)  # fmt: skip
    if "experiment" in content:
        raise InputError("an experiment cannot name another one", path)
    content.pop("description", None)
    return [Setting(key, value, path) for key, value in flattened_options(content).items()]


def flattened_options(content: Mapping[str, Any]) -> Overrides:
    """`{env: {name: x, path: y}}` as `{env: x, env.path: y}`; what is below an option stays as it is."""
    flat: Overrides = {}
    for key, value in content.items():
        if key in GROUPS and isinstance(value, dict):
            flat |= {key if k == "name" else f"{key}.{k}": v for k, v in value.items()}
        else:
            flat[key] = value
    return flat


def read_bench(name: str, size: str) -> Bench:
    """The bench that experiments/<name>.yaml describes, at a size.

    What is set later wins: the bench's overrides, the variant's, the grid's, the size's, the size's for the variant.
    Raises InputError, with the file, the key and the nearest right name, for what is not there or not as it should be.
    """
    known = find_experiments()
    if name not in known:
        raise InputError(f"experiment={name}: there is no such experiment.{nearest(name, known)}")
    path = known[name]
    content = read_yaml(path)
    if not is_bench(content):
        raise InputError(f"this is one run; start it with: instructrec-rl run experiment={name}", path)
    _check_keys(content, BENCH_KEYS, "", path)
    for key in ("variants", "sizes"):
        if key not in content:
            raise InputError(f'a bench needs "{key}"', path)
    sizes = _mapping(content["sizes"], "sizes", path)
    if size not in sizes:
        raise InputError(f"size={size}: the bench has no such size.{nearest(size, sizes)}", path)
    chosen = _mapping(sizes[size], f"sizes.{size}", path)
    _check_keys(chosen, SIZE_KEYS, f"sizes.{size}.", path)
    variants, seeds = _expand(content, chosen, size, path)
    return Bench(path, str(content.get("description", "")), size, variants, seeds)


def _expand(
    content: Mapping[str, Any], chosen: Mapping[str, Any], size: str, path: Path
) -> tuple[dict[str, Overrides], dict[str, list[int]]]:
    """Every variant with its overrides, and every variant with its seeds."""
    named, place = _mapping(content["variants"], "variants", path), f"sizes.{size}"
    common = _overrides(content.get("overrides", {}), "overrides", path)
    of_size = _overrides(chosen.get("overrides", {}), f"{place}.overrides", path)
    own = _mapping(chosen.get("variants"), f"{place}.variants", path, empty=True)
    for name in own:
        if name not in named:
            raise InputError(f'{place}.variants: there is no variant "{name}".{nearest(name, named)}', path)
    variants, seeds = {}, {}
    for name, overrides in named.items():
        if not FOLDER_NAME.fullmatch(name):
            raise InputError(f'variants: "{name}" becomes a folder\'s name: letters, digits, "_", "-", "."', path)
        more = dict(_mapping(own.get(name, {}), f"{place}.variants.{name}", path, empty=True))
        given = more.pop("seeds", chosen.get("seeds"))
        above = _overrides(overrides, f"variants.{name}", path)
        last = of_size | _overrides(more, f"{place}.variants.{name}", path)
        for suffix, cell in _cells(content.get("grid"), path):
            if name + suffix in variants:
                raise InputError(f'variants: "{name + suffix}" is there twice, once by the grid', path)
            variants[name + suffix] = common | above | cell | last
            seeds[name + suffix] = _seeds(given, f"{place}.seeds", path)
    return variants, seeds


def _cells(grid: Any, path: Path) -> list[tuple[str, Overrides]]:
    """Every combination of the grid's values, with what it adds to a variant's name; one empty one for no grid."""
    cells: list[tuple[str, Overrides]] = [("", {})]
    for key, values in (_mapping(grid, "grid", path) if grid is not None else {}).items():
        _check_option(key, "grid", path)
        if not isinstance(values, list) or not values or any(isinstance(v, (list, dict)) for v in values):
            raise InputError(f"grid.{key}: expected a list of values, such as [constraints, rouge]", path)
        cells = [
            (f"{name}-{re.sub('[^A-Za-z0-9_.]+', '_', str(value))}", {**cell, key: value})
            for name, cell in cells
            for value in values
        ]
    return cells


def _seeds(given: Any, place: str, path: Path) -> list[int]:
    whole = isinstance(given, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in given)
    if not whole or not given or len(set(given)) < len(given):
        raise InputError(f"{place}: expected a list of different whole numbers, such as [0, 1, 2]", path)
    return list(given)


def _overrides(given: Any, place: str, path: Path) -> Overrides:
    flat = flattened_options(_mapping(given, place, path, empty=True))
    for key in flat:
        _check_option(key, place, path)
    return flat


def _check_option(key: str, place: str, path: Path) -> None:
    if key in SET_BY_BENCH:
        raise InputError(f"{place}.{key}: bench sets this itself" + ("; give seeds" if key == "seed" else ""), path)


def _mapping(given: Any, place: str, path: Path, empty: bool = False) -> dict[str, Any]:
    if given is None and empty:
        return {}
    if not isinstance(given, dict) or not (given or empty) or not all(isinstance(key, str) for key in given):
        raise InputError(f"{place}: expected a mapping (key: value)", path)
    return given


def _check_keys(given: Mapping[str, Any], known: tuple[str, ...], place: str, path: Path) -> None:
    for key in given:
        if key not in known:
            raise InputError(f'unknown key "{place}{key}".{nearest(key, known)}', path)
