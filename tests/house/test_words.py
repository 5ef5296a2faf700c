"""Files and functions stay short, long functions say what each step does, and variables say what they hold."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "instructrec_rl").rglob("*.py"), *(ROOT / "rewards").glob("*.py")])
MOST_LINES, MOST_IN_FUNCTION, LONG = 350, 60, 30
VAGUE = {"found", "said", "place", "about", "own", "each"}  # what does it hold?
LABELLED = 0.02  # of the lines of long functions are labels: comments on lines of their own


@dataclass(frozen=True)
class Function:
    """A function of ours. lines: from `def` to its last; names: what it assigns; labels: own-line comments."""

    where: str
    lines: int
    names: frozenset[str]
    labels: int


def functions(path: Path) -> Iterator[Function]:
    """Every function of a file; what stands in an inner one counts for the outer one too."""
    text = path.read_text(encoding="utf-8")
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            end = node.end_lineno or node.lineno
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            names |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
            labels = sum(line in comments for line in range(node.lineno, end + 1))
            where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            yield Function(where, end - node.lineno + 1, frozenset(names), labels)


ALL = [function for path in FILES for function in functions(path)]
LONG_ONES = [function for function in ALL if function.lines > LONG]


def test_no_file_is_long() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > MOST_LINES} == {}


def test_no_function_is_long() -> None:
    assert [function.where for function in ALL if function.lines > MOST_IN_FUNCTION] == []


@pytest.mark.parametrize("name", sorted(VAGUE))
def test_a_variable_of_a_long_function_says_what_it_holds(name: str) -> None:
    assert [function.where for function in LONG_ONES if name in function.names] == []


def test_long_functions_have_labels() -> None:
    lines, labels = (sum(getattr(function, name) for function in LONG_ONES) for name in ("lines", "labels"))
    assert labels / lines >= LABELLED, f"{labels} labels in {lines} lines of {len(LONG_ONES)} long functions"


def test_each_long_function_has_labels() -> None:
    assert [function.where for function in LONG_ONES if function.labels < 2] == []
