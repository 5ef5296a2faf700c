"""The trainer's checkpoints: folders, whole where the file is there that is written last and names all the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_json, sha256_file, write_json_atomic

STATE = "instructrec.json"


def folders_newest_first(folder: Path) -> list[Path]:
    """The checkpoints that were whole when they were written, the newest first."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{STATE}") if path.parent.name[11:].isdecimal()]
    return sorted(whole, key=lambda path: int(path.name[11:]), reverse=True)


def seal_folder(folder: Path, state: dict[str, Any]) -> None:
    """Write what a resume needs beside the trainer's own files, and the checksums of these. Comes last.

    The generators of further processes (rng_state_1.pth) are left out, as those write them when they like.
    """
    own = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("rng_state_"))
    files = {path.name: sha256_file(path) for path in own if path.name != STATE}
    write_json_atomic(folder / STATE, {**state, "files": files})


def read_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint's folder and its state. Raises InputError where a file is not as it was written."""
    state = read_json(folder / STATE)
    for key in ("step", "spent", "best_score", "best_step", "interactions", "kl_coefficient"):
        if key not in state:
            raise InputError(f'damaged: it has no "{key}"', folder / STATE)
    files = state.get("files", {})  # those of 0.1.0 have none
    if not isinstance(files, dict):
        raise InputError('damaged: "files" are no checksums', folder / STATE)
    for name, expected in files.items():
        if Path(name).name != name or sha256_file(folder / name) != expected:
            raise InputError("damaged: not as it was written (sha256)", folder / name)
    return folder, state
