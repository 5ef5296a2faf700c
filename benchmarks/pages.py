"""Pages that are written by a command: docs/reference/commands.md, and the output that the README shows.

python -m benchmarks.pages            write them
python -m benchmarks.pages --check    exit 1 where the page of commands is not what --help says
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "commands.md"
README = ROOT / "README.md"
COMMANDS = ("run", "bench", "report", "feedback", "annotate", "score", "audit", "ope", "list", "new", "check", "doctor")
SHOWN = "python -m instructrec_rl.run env=pizza_rec reward=constraints out=my_run"
ASKED = "recommend a mild pizza without mushrooms"
HEAD = """# Commands

What `--help` says, written by `python -m benchmarks.pages`. `instructrec-rl COMMAND`; `run`, `bench`, `report`,
`feedback` and `annotate` are also `python -m instructrec_rl.COMMAND`. Exit codes: 0 done; 2 wrong input, in one line;
1 a fault of ours, or training that diverged; 130, 143 or 129 stopped, with a checkpoint left behind.
"""


def printed(command: str, folder: Path) -> str:
    """What a command prints, in a folder of its own and at a width that a page has."""
    own = os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = command.replace("python ", f"{sys.executable} ", 1).split()
    return subprocess.run(words, cwd=folder, env=own, capture_output=True, text=True, check=True).stdout


def commands_page() -> str:
    """The page of all commands."""
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as empty:
        for name in COMMANDS:
            text = printed(f"python -m instructrec_rl {name} --help", Path(empty)).rstrip()
            parts.append(f"\n## {name}\n\n```\n{text}\n```\n")
    return "".join(parts)


def write_readme() -> None:
    """Put what the shown command prints, and what its policy answers, into the README."""
    with tempfile.TemporaryDirectory() as folder:
        text = printed(SHOWN, Path(folder))
        code = f"from instructrec_rl import load_policy; print(load_policy('my_run').act(['{ASKED}']))"
        own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        answer = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=own, capture_output=True, text=True, check=True
        )
    block = "\n".join(["```bash run", SHOWN, "```", "```", *map(str.rstrip, text.splitlines()[-9:]), "```", ""])
    whole = README.read_text(encoding="utf-8")
    made = re.sub(
        r"(?s)(<!-- first run -->\n).*?(<!-- /first run -->)", lambda found: found[1] + block + found[2], whole
    )
    made = re.sub(r"(?m)(^policy\.act.*\n)# .*$", lambda found: found[1] + f"# {answer.stdout.strip()}", made)
    README.write_text(made, encoding="utf-8")


def main() -> int:
    """Write both, or see whether the page of commands is up to date."""
    page = commands_page()
    if "--check" in sys.argv:
        return int(PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    write_readme()
    return 0


if __name__ == "__main__":
    sys.exit(main())
