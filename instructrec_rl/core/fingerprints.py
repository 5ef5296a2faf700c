"""What a result depends on beside its options, as sha256: the code, and the versions of the packages below it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable

from instructrec_rl.core.files import PACKAGE, find_envs, find_rewards, sha256_file

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy", "scipy", "scikit-learn", "sacrebleu", "nltk")


@functools.cache
def sha256_of_code() -> str:
    """One digest of our Python files, of every reward that is found, of environments' Python, and of versions.

    Renaming a file changes it, moving the whole installation does not. Read once a process: what runs is what was
    there at the start.
    """
    package = PACKAGE
    files = {f"instructrec_rl/{path.relative_to(package)}": path for path in package.glob("**/*.py")}
    files = {name: path for name, path in files.items() if not name.startswith("instructrec_rl/bundle/")}
    files |= {f"rewards/{path.name}": path for path in find_rewards().values()}
    files |= {f"envs/{name}/{p.name}": p for name, folder in find_envs().items() for p in folder.glob("*.py")}
    lines = [f"{name} {sha256_file(path)}" for name, path in sorted(files.items())]
    return digest([*lines, f"python {platform.python_version()}", *map(_version, PACKAGES)])


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} none"


def digest(lines: Iterable[str]) -> str:
    """The sha256 of some lines of text, in hexadecimal."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
