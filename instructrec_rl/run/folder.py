"""A run's folder at its start: who may write in it, its config, what the run reads and on what machine."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.config.schema import BEFORE_THE_OPTION
from instructrec_rl.core import InputError
from instructrec_rl.core.claims import FOREIGN, Claim, claim
from instructrec_rl.core.files import (
    PACKAGE,
    flattened,
    read_json,
    read_yaml,
    sha256_file,
    write_json_atomic,
    write_text_atomic,
)
from instructrec_rl.core.inert import printable
from instructrec_rl.core.leftovers import remove_abandoned
from instructrec_rl.core.yaml_reader import write_yaml

if TYPE_CHECKING:
    from instructrec_rl.config.schema import RunConfig
    from instructrec_rl.env.environment import Environment

PACKAGES = ("instructrec-rl", "torch", "transformers", "accelerate", "gymnasium", "numpy", "hydra-core", "trl")
LOCK, CONFIG, MANIFEST = ".run.lock", "config.yaml", "manifest.json"
COPY = "checkpoints/start.json"  # of config and manifest, for a resume that finds one of them damaged
WRITTEN = re.compile(r"\.run\.lock|manifest\.json|checkpoints|\.(config\.yaml|manifest\.json)\.\d+\.tmp")  # so far
AT_START = ("rollouts.jsonl", "rollouts.jsonl.gz", "feedback/records.jsonl", "feedback/versions.jsonl")  # before a step
IN_USE = "another process is at work in this folder; wait for it, or give another out=DIR"
TAKEN = "this folder already holds a run; give another out=DIR, or resume=true to continue it"


def open_folder(config: RunConfig, env: Environment, command: str) -> Claim:
    """The run's folder, for this process alone: with its config and manifest, or with those of the run to resume.

    command: what is kept as the command line that does the run again. Raises InputError where the folder holds anything
    else, another process is at work in it, or the run in it has other options or data; it is then as it was.
    """
    text = write_yaml(_options(config))
    claimed = _claim(config, f"{env.spec.name}-{config.algo.name}")
    folder = claimed.folder
    try:
        begun = (folder / CONFIG).exists()
        if begun and not config.resume:
            raise InputError(TAKEN, folder)
        if not begun and any(not WRITTEN.fullmatch(path.name) for path in folder.iterdir()):
            raise InputError(FOREIGN.format(kind="a run"), folder)
        if begun:
            _check_goes_on(folder, config, env)
    except BaseException:
        claimed.release()
        raise
    for part in (folder, folder / "checkpoints"):
        remove_abandoned(part)
    if not begun:
        try:
            _begin(folder, text, _manifest(config, env, command))
        except BaseException:
            forget_if_nothing_was_learned(claimed)
            raise
    return claimed


def _claim(config: RunConfig, name: str) -> Claim:
    """The folder that `out` names, or a new one of a name that no other has."""
    if config.out:
        return claim(Path(config.out), LOCK, "a run", lambda folder: (folder / CONFIG).exists(), IN_USE)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        folder = Path(f"runs/{name}-{stamp}-{config.seed}{f'-{number}' if number > 1 else ''}")
        if folder.exists():
            continue
        try:
            claimed = claim(folder, LOCK, "a run", lambda folder: False, IN_USE)
        except InputError:
            if folder.exists():  # another process made it meanwhile
                continue
            raise
        if folder in claimed.made:
            return claimed
        claimed.release()
    raise AssertionError("numbers do not end")


def _options(config: RunConfig) -> dict[str, Any]:
    """The options that decide what a run does."""
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in ("out", "resume")}


def _begin(folder: Path, text: str, manifest: dict[str, Any]) -> None:
    write_json_atomic(folder / MANIFEST, manifest)
    write_json_atomic(folder / COPY, {"config": text, "manifest": manifest})
    write_text_atomic(folder / CONFIG, text)  # last: a folder with a config is a run


def _check_goes_on(folder: Path, config: RunConfig, env: Environment) -> None:
    """Refuse to resume with other options, data, encoder or reward; feedback may grow while a run is stopped."""
    _mend(folder)
    before, now = dict(flattened(read_yaml(folder / CONFIG))), dict(flattened(_options(config)))
    missing = (
        dict(flattened(_defaults(config))) | BEFORE_THE_OPTION
    )  # an option that came after the run was begun had its default
    for key in {**before, **now}:
        then = before.get(key, missing.get(key))
        if then != now.get(key):
            raise InputError(
                f"resume=true with other options than the run has: {key} was {then!r} and is now {now.get(key)!r}",
                folder / CONFIG,
            )
    said, hashes = read_json(folder / MANIFEST).get("sha256"), _hashes(env)
    for key in ("data", "encoder", "reward"):
        if not isinstance(said, dict) or key not in said:
            raise InputError(f'damaged: "sha256.{key}" is missing; start a new run', folder / MANIFEST)
        if said[key] != hashes[key]:
            raise InputError(
                f"resume=true, but the {key} is not what the run began with; start a new run", folder / MANIFEST
            )


def _defaults(config: RunConfig) -> dict[str, Any]:
    """The defaults of all options that have one."""

    def of(tree: Any) -> dict[str, Any]:
        given = {}
        for each in dataclasses.fields(tree):
            if dataclasses.is_dataclass(value := getattr(tree, each.name)):
                given[each.name] = of(value)
            elif each.default is not dataclasses.MISSING:
                given[each.name] = each.default
        return given

    return of(config)


def _mend(folder: Path) -> None:
    """Write config.yaml and manifest.json again from their copy where one of them is torn, and say so."""
    for name, read in ((CONFIG, read_yaml), (MANIFEST, read_json)):
        try:
            read(folder / name)
        except InputError as error:
            if not (folder / COPY).is_file():
                raise
            copy = read_json(folder / COPY)
            if name == CONFIG:
                write_text_atomic(folder / CONFIG, str(copy.get("config")))
            else:
                write_json_atomic(folder / MANIFEST, copy.get("manifest"))
            print(printable(f"{error}; written again from {folder / COPY}"), file=sys.stderr, flush=True)


def _manifest(config: RunConfig, env: Environment, command: str) -> dict[str, Any]:
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "sha256": _hashes(env),
        "left_out": env.spec.left_out,
    }


def _hashes(env: Environment) -> dict[str, Any]:
    """What the run's result depends on beside its options."""
    return {
        "data": {os.path.relpath(path, env.spec.folder): sha256_file(path) for path in env.spec.files},
        "encoder": env.encoder.fingerprint,
        "reward": sha256_file(env.reward.path),
        "feedback": env.reward.version,
    }


def _commit() -> str:
    """The commit of the checkout this code runs from, or empty outside one."""
    here = PACKAGE.parent
    if not (here / ".git").exists():
        return ""
    found = subprocess.run(
        ["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else ""


def forget_if_nothing_was_learned(claimed: Claim) -> None:
    """Take away what this process wrote into a folder that it made or found empty, so that the same `out` can be used.

    A folder with anything learned in it stays, and so does what others put there.
    """
    folder = claimed.folder
    if (folder / "metrics.jsonl").exists() or any(path.name != Path(COPY).name for path in _in(folder / "checkpoints")):
        claimed.release()
        return
    for name in (CONFIG, MANIFEST, COPY, *AT_START):
        with contextlib.suppress(OSError):  # the error that ended the run is the one to show
            (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    for name in ("checkpoints", "feedback"):
        with contextlib.suppress(OSError):  # not there, or not empty
            (folder / name).rmdir()
    claimed.withdraw()


def _in(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
