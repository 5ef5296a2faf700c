"""Checkpoints as files: one safetensors file each (tensors, and in its head the JSON state and a checksum of both).

A file is written whole or not at all, so a run killed at any moment leaves the last complete one; one that the disk
lost a part of since is found by its checksum, and the one before it is used.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from instructrec_rl.core import InputError
from instructrec_rl.core.checksums import KEY, sha256_of
from instructrec_rl.core.files import open_regular, write_bytes_atomic
from instructrec_rl.core.inert import printable
from instructrec_rl.core.json_reader import parse_object
from instructrec_rl.core.leftovers import remove_abandoned

if TYPE_CHECKING:
    import torch

KEPT = 2  # the last, and the one before it in case the disk lost the last at a power cut
MADE = ("step-*.safetensors", "checkpoint-*", "stage-*")  # what a run keeps in the folder for a resume
T = TypeVar("T")


class Checkpoints:
    """The checkpoints in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint; older ones are removed once this one is complete. Raises InputError for a full disk."""
        from safetensors.torch import save

        text = json.dumps({"step": step, **state})
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        head = {"state": text, KEY: sha256_of(whole, text)}
        write_bytes_atomic(self.folder / f"step-{step:012d}.safetensors", save(whole, head))
        for old in self.newest_first()[KEPT:]:
            old.unlink()

    def newest_first(self) -> list[Path]:
        """The checkpoints that are there, the newest first."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)

    def tidy(self) -> None:
        """Remove what a killed process left half written."""
        remove_abandoned(self.folder)
        for part in self.folder.glob("*.part"):
            part.unlink()

    def forget(self) -> None:
        """Remove what only a resume would read: all checkpoints, and the stages before learning."""
        for path in (path for pattern in MADE for path in self.folder.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the state of a checkpoint. Raises InputError where it is damaged."""
    from safetensors import SafetensorError, safe_open

    open_regular(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            head = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"damaged: not a whole checkpoint ({str(error)[:80]})", path) from error
    text = head.get("state", "")
    if KEY in head and head[KEY] != sha256_of(tensors, text):  # those of 0.1.0 have none
        raise InputError("damaged: not as it was written (sha256)", path)
    state = parse_object(text, path)
    if type(state.get("step")) is not int:
        raise InputError('damaged: its state has no "step"', path)
    return tensors, state


def first_whole(paths: Iterable[Path], read: Callable[[Path], T], check: Callable[[T], None]) -> T | None:
    """What `read` gives of the first path that is not damaged, and a line on stderr where that is not the first one.

    check: raises InputError where the run's lines do not reach as far. None where all are damaged, or there is none;
    raises what `check` raised where it refused all that are whole.
    """
    refused: list[InputError] = []
    short: InputError | None = None
    for path in paths:
        try:
            content = read(path)
        except InputError as error:
            refused.append(error)
            continue
        try:
            check(content)
        except InputError as error:
            refused.append(error)
            short = short or error
            continue
        if refused:
            _say(f"{refused[0]}; going on from {path.stem}")
        return content
    if short is not None:
        raise short
    if refused:
        _say(f"{refused[0]}; going on from the start")
    return None


def _say(words: str) -> None:
    print(printable(words), file=sys.stderr, flush=True)
