"""Every module can be imported where the system lacks what POSIX has; no lock, clock or handle is asked for at import.

Nothing here was ever run on Windows or macOS: this blocks what Windows lacks, on the machine at hand.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.test_layers import FILES, ROOT

POSIX_ONLY = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
BLOCK = """
import importlib, os, signal, sys
import {first}
for name in {modules}:
    sys.modules[name] = None
for name in ("pread", "pwrite", "O_CLOEXEC", "O_NONBLOCK", "O_DIRECTORY", "fork", "getuid", "geteuid", "killpg",
             "setsid", "sched_getaffinity", "fchmod", "chown", "mkfifo"):
    vars(os).pop(name, None)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGCHLD", "pthread_sigmask", "alarm", "setitimer"):
    vars(signal).pop(name, None)
"""
LIGHT = ["core", "core.files", "core.locks", "core.command_line", "bench.launchers", "feedback.schema",
         "feedback.store", "feedback.imports", "feedback.command", "bench.folder", "commands.score",
         "commands.ope.logs", "commands.response_files"]  # fmt: skip


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_module_imports_what_only_posix_has_at_its_top() -> None:
    for name, path in FILES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not set(names) & set(POSIX_ONLY), f"{name}: {names}"


@pytest.mark.parametrize("name", LIGHT)
def test_what_needs_no_torch_is_imported_without_posix(name: str) -> None:
    run(BLOCK.format(first="numpy", modules=POSIX_ONLY) + f"importlib.import_module('instructrec_rl.{name}')", ROOT)


def test_every_module_is_imported_without_posix() -> None:
    """Others' packages come first: that they do without POSIX is theirs to see to."""
    first = "asyncio, torch, transformers, accelerate, peft, datasets, trl, uvicorn, fastapi, gymnasium, portalocker"
    ours = [name for name in FILES if not name.startswith("rewards:") and not name.endswith("__main__.py")]
    names = sorted("instructrec_rl/" + name for name in ours)
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    code = BLOCK.format(first=first, modules=POSIX_ONLY) + f"for name in {names}:\n    importlib.import_module(name)\n"
    code += "import instructrec_rl.bench.launchers as l; print(l.cpu_of_children() >= 0)"
    assert run(code, ROOT).strip() == "True"


def test_feedback_is_appended_and_read_without_posix_calls(tmp_path: Path) -> None:
    """The lock is portalocker's, which has its own way on each system; the rest must need no POSIX call."""
    code = BLOCK.format(first="portalocker", modules=POSIX_ONLY) + (
        "from instructrec_rl.feedback.store import Store, append\n"
        "for k in range(3): append('rewards/a.jsonl', {'instruction': 'q', 'response': str(k), 'rating': 4})\n"
        "print(len(Store(['rewards']).records))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr
