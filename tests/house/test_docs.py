"""The documentation's commands run, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.run.test_run import ROOT, environment

PAGES = sorted(
    [ROOT / "README.md", ROOT / "rewards" / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("envs/*/README.md")]
)
FENCE = re.compile(r"^```bash run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def blocks() -> list[Any]:
    """Every block marked "bash run", with its file and line as the test's id."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in FENCE.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            found.append(pytest.param(block[1], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


@pytest.mark.parametrize("commands", blocks())
def test_the_commands_run(commands: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr or done.stdout
    assert "Traceback" not in done.stderr


def test_there_are_commands_to_run() -> None:
    marked = sum(page.read_text().count("```bash run\n") for page in PAGES)
    assert len(blocks()) == marked > 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_a_file(page: Path) -> None:
    text = CODE.sub(lambda code: "\n" * code[0].count("\n"), page.read_text())
    broken = []
    for found in LINK.finditer(text):
        target = found[1].partition("#")[0]
        if target and "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
            broken.append(f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}: {found[1]}")
    assert not broken, "\n".join(broken)
