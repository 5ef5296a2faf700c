"""Tables of the benchmarks: on the screen, and between two markers of a Markdown page, so that no figure is typed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_between_markers(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->` of a page."""
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(first)
    _old, closed, after = rest.partition(last)
    if not found or not closed:
        raise SystemExit(f"{page}: expected the markers {first} and {last}")
    page.write_text(f"{before}{first}\n{text}\n{last}{after}", encoding="utf-8")


def about(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python and of the packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """Print a table, the first column to the left and the others to the right."""
    table = Table(title=title, caption=caption)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
