"""The files of a saved policy, which are not trusted: every one has its sha256 in policy.json, and every JSON a form.

What was damaged on its way is found before anything is made of it. It is no signature: who can write the folder can
write the checksums, so nothing in it is ever run, and nothing outside it is read because it says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.core.files import sha256_file

POLICY = "policy.json"
MOST_FILES = 1_000


def checksums(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a policy's folder but policy.json, by its path in the folder."""
    return {name: sha256_file(folder / name) for name in _names(folder)}


def seal(about: Mapping[str, Any]) -> str:
    """The sha256 of what policy.json says, `sha256` itself left out."""
    said = {key: value for key, value in about.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_files(folder: Path, files: Mapping[str, str] | None) -> None:
    """Raise InputError where a folder's files are not those that were saved, byte for byte.

    files: their checksums, None in folders of before there were any: of these only links that lead outside are refused.
    """
    names = _names(folder)
    if files is None:
        return
    for name in sorted(files.keys() ^ set(names)):
        if name in files:
            raise InputError(f'the file "{name[:80]}" of the policy is missing', folder)
        raise InputError("not one of the files that the policy was saved with; take it away", folder / name)
    for name, expected in files.items():
        if sha256_file(folder / name) != expected:
            raise InputError("damaged: not as the policy was saved (sha256)", folder / name)


def _names(folder: Path) -> list[str]:
    """Every file that a loader may read: hidden ones and Markdown are nobody's. Raises InputError for links outside."""
    inside, names = folder.resolve(), []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() and inside not in Path(os.path.realpath(path)).parents:
            raise InputError("a link that leads out of the policy's folder is not followed", path)
        if path.is_dir() or name == POLICY or path.suffix == ".md" or _hidden(name):
            continue
        names.append(name)
        if len(names) > MOST_FILES:
            raise InputError(f"more than {MOST_FILES:,} files: not the folder of a policy", folder)
    return names


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
