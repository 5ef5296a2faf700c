"""The documentation's commands run, and its links lead somewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.run.test_run import ROOT, environment

PAGES = sorted(
    [ROOT / "README.md", ROOT / "rewards" / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("envs/*/README.md")]
)
FENCE = re.compile(r"^```bash run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


KINDS = ("tutorials", "how_to", "reference", "explanation", "results")
MOST_WORDS = 1_200  # of a page, outside of tables and code
EXEMPT = {"explanation/log.md"}  # a log grows; results are what commands wrote


def test_every_page_is_of_one_kind_and_short() -> None:
    docs = ROOT / "docs"
    long: dict[str, int] = {}
    for page in docs.rglob("*.md"):
        name = page.relative_to(docs).as_posix()
        assert name == "index.md" or name.partition("/")[0] in KINDS, name
        words = len(re.sub(r"(?ms)^```.*?^```$|^\|[^\n]*$", "", page.read_text()).split())
        if words > MOST_WORDS and not name.startswith("results/") and name not in EXEMPT:
            long[name] = words
    assert long == {}


def test_every_page_is_reached_from_the_index() -> None:
    """Over links, from docs/index.md: a page that nobody links to is a page that nobody finds."""
    reached, waiting = set(), [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = (found[1].partition("#")[0] for found in LINK.finditer(page.read_text()))
        waiting += [(page.parent / t).resolve() for t in targets if t.endswith(".md") and "://" not in t]
    assert set((ROOT / "docs").rglob("*.md")) <= reached


NAMED = re.compile(r"\b(?:instructrec_rl|python -m benchmarks)(?:\.[a-z_0-9]+)+")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_docs_name_is_there(page: Path) -> None:
    for found in NAMED.finditer(page.read_text()):
        parts = found[0].removeprefix("python -m ").split(".")
        names = [".".join(parts[:k]) for k in range(len(parts), 0, -1)]
        nearest_module = next(name for name in names if is_module(name))
        rest = found[0].removeprefix("python -m ").removeprefix(nearest_module).strip(".").split(".")[0]
        assert not rest or hasattr(importlib.import_module(nearest_module), rest), found[0]


def written_by_commands() -> list[Any]:
    """(script, page) of every documented command that writes a table into a page."""
    found = []
    for page in PAGES:
        joined = page.read_text().replace("\\\n", " ")
        for line in re.finditer(r"python -m (benchmarks[.\w]+)([^\n]*)--markdown ((?:docs/[\w/]+\.md\s*)+)", joined):
            for target in line[3].split():
                found.append(pytest.param(line[1], target, id=f"{page.relative_to(ROOT)}: {line[1]} {target}"))
    return found


@pytest.mark.parametrize(("script", "target"), written_by_commands())
def test_a_documented_command_finds_the_marks_that_it_writes_between(script: str, target: str) -> None:
    source, page = (ROOT / f"{script.replace('.', '/')}.py").read_text(), (ROOT / target).read_text()
    marks = re.findall(r"<!-- (\w+) -->", page)
    assert [name for name in marks if f'"{name}"' in source], f"{target} has the marks of {marks}"


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.parent.joinpath(f"{path.name}.py").exists()


def blocks() -> list[Any]:
    """Every block marked "bash run", with its file and line as the test's id."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in [] if page == ROOT / "README.md" else FENCE.finditer(text):  # the README's has a test of its own
            line = text.count("\n", 0, block.start()) + 1
            found.append(pytest.param(block[1], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


@pytest.mark.slow
@pytest.mark.ci
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


def test_the_readme_shows_what_its_command_prints_and_answers(tmp_path: Path) -> None:
    """The same table, and the same answer from the policy that the command leaves."""
    readme = (ROOT / "README.md").read_text()
    command, shown = re.findall(r"(?ms)^```bash run\n(.*?)^```$\n^```$\n(.*?)^```$", readme)[0]
    own = environment(PATH=f"{Path(sys.executable).parent}:{environment()['PATH']}", COLUMNS="100")
    options = {"cwd": tmp_path, "env": own, "capture_output": True, "text": True, "check": True}
    done = subprocess.run(["bash", "-euc", command], **options)  # type: ignore[call-overload]
    heads = [[line.split()[0] for line in text.splitlines() if line.strip()] for text in (shown, done.stdout)]
    assert heads[1][-len(heads[0]) :] == heads[0]
    code, answer = re.findall(r"(?ms)^```python\n(from.*?)^# (\[.*?\])$", readme)[0]
    lines = code.strip().splitlines()
    program = "\n".join([*lines[:-1], f"print({lines[-1]})"])
    given = subprocess.run([sys.executable, "-c", program], **options).stdout  # type: ignore[call-overload]
    form = re.compile(r"\['[^']+'\]\n?")
    assert form.fullmatch(given)
    assert form.fullmatch(answer)


def test_there_are_commands_to_run() -> None:
    marked = sum(page.read_text().count("```bash run\n") for page in PAGES if page != ROOT / "README.md")
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


def test_the_python_page_is_true_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of docs/reference/python.md gives what the page shows."""
    import doctest

    from instructrec_rl.commands import new
    from instructrec_rl.env.registration import register_environments

    monkeypatch.chdir(tmp_path)
    new.main(["env", "tea"])
    register_environments()  # as in a new process: here Gymnasium was imported before there was one
    page = ROOT / "docs" / "reference" / "python.md"
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", page.read_text())
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, str(page), 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(examples, out=told.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)
    assert len(examples.examples) > 25


def test_the_page_of_commands_is_what_help_says() -> None:
    from benchmarks.pages import PAGE, commands_page

    assert PAGE.read_text(encoding="utf-8") == commands_page(), "run: python -m benchmarks.pages"
