"""A run's folder at its start: its config, what it read and on what machine, and whether it may be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.core import InputError
from instructrec_rl.core.files import PACKAGE, sha256_file, write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    from instructrec_rl.config.schema import RunConfig
    from instructrec_rl.env.environment import Environment

PACKAGES = ("instructrec-rl", "torch", "transformers", "accelerate", "gymnasium", "numpy", "hydra-core", "trl")


def open_folder(config: RunConfig, env: Environment) -> Path:
    """Make the run's folder with its config and manifest, or check that the one to resume has the same config."""
    plain = dataclasses.asdict(config)
    for key in ("out", "resume"):
        plain.pop(key)
    text = _yaml(plain)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(config.out or f"runs/{env.spec.name}-{config.algo.name}-{stamp}-{config.seed}")
    if not config.out:
        while folder.exists():
            folder = folder.with_name(folder.name + "x")
    started = folder / "config.yaml"
    if started.exists():
        if not config.resume:
            raise InputError(
                "this folder already holds a run; give another out=DIR, or resume=true to continue it", folder
            )
        if started.read_text() != text:
            raise InputError(f"resume=true with other options than the run has: {_difference(started, plain)}", started)
        _check_unchanged(folder / "manifest.json", _hashes(env))
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the run's folder cannot be made: {error.strerror}", folder) from error
    write_json_atomic(folder / "manifest.json", _manifest(config, env))
    write_text_atomic(started, text)  # last: a folder with a config is a run
    return folder


def _yaml(plain: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _difference(path: Path, plain: dict[str, Any]) -> str:
    """The first option in which a stored config and this one differ."""
    import yaml

    def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(tree, dict):
            return {prefix[:-1]: tree}
        return {key: value for name, sub in tree.items() for key, value in flat(sub, f"{prefix}{name}.").items()}

    old, new = flat(yaml.safe_load(path.read_text())), flat(plain)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return f"{changed[0]} was {old.get(changed[0])!r} and is now {new.get(changed[0])!r}" if changed else "its layout"


def _manifest(config: RunConfig, env: Environment) -> dict[str, Any]:
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": _command(),
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


def _check_unchanged(path: Path, now: dict[str, Any]) -> None:
    """Refuse to resume on other data, another encoder or another reward; feedback may grow while a run is stopped."""
    then = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    for key in ("data", "encoder", "reward"):
        if then[key] != now[key]:
            raise InputError(f"resume=true, but the {key} is not what the run began with; start a new run", path)


def _command() -> str:
    """The command line that started this run, as one would type it."""
    program = Path(sys.argv[0])
    name = "python -m instructrec_rl.run" if program.suffix == ".py" else program.name
    return f"{name} {shlex.join(sys.argv[1:])}".strip()


def _commit() -> str:
    """The commit of the checkout this code runs from, or empty outside one."""
    here = PACKAGE.parent
    if not (here / ".git").exists():
        return ""
    found = subprocess.run(
        ["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else ""


def forget_if_nothing_was_learned(folder: Path) -> None:
    """Take away what `open_folder` wrote, so that wrong input can be mended and run again with the same `out`.

    A folder with anything learned in it, and files of others, stay as they are.
    """
    if (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists():
        return
    shutil.rmtree(folder / "feedback", ignore_errors=True)  # versions of a reward that follows people
    for name in ("config.yaml", "manifest.json", "rollouts.jsonl"):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()
