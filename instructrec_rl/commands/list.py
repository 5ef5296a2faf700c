"""`instructrec-rl list envs|rewards|algos|experiments`: names and what they are, without importing any of them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

from instructrec_rl.config.env_yaml import FILE, read_env_yaml
from instructrec_rl.config.experiments import is_bench
from instructrec_rl.config.schema import ALGORITHM_NOTES
from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.command_line import Parser
from instructrec_rl.core.files import find_envs, find_experiments, find_rewards, read_yaml
from instructrec_rl.core.inert import printable
from instructrec_rl.core.tables import console


def main(argv: list[str]) -> None:
    """Print a table on a terminal, else one `name<TAB>description` line each. Raises InputError for an unknown kind."""
    parser = Parser(prog="instructrec-rl list", description="List what is found, with a line about each.")
    parser.add_argument("kind", nargs="?", help=f"{', '.join(KINDS)} (default: all of them)")
    kind = parser.parse_args(argv).kind
    if kind is not None and kind not in KINDS:
        raise InputError(f'list: there is no kind "{kind}".{nearest(kind, KINDS)}')
    for each in [kind] if kind else KINDS:
        _show(each, KINDS[each](), heading=kind is None)


def _show(kind: str, rows: dict[str, str], heading: bool) -> None:
    if sys.stdout.isatty():
        from rich.table import Table
        from rich.text import Text

        table = Table(title=kind, title_justify="left", box=None)
        table.add_column("name", no_wrap=True)
        table.add_column("description")
        for name, about in rows.items():
            table.add_row(
                Text(printable(name), style="bold"),
                Text(printable(about), style="red" if about.startswith("broken: ") else ""),
            )
        console().print(table)
        return
    if heading:
        print(f"{kind}:")
    for name, about in rows.items():
        print(f"{printable(name)}\t{printable(about)}")


def _described(paths: dict[str, Path], describe: Callable[[Path], str]) -> dict[str, str]:
    """A line about each; a broken file is marked, and hides nothing else."""
    lines = {}
    for name, path in paths.items():
        try:
            lines[name] = " ".join(describe(path).split())
        except InputError as error:
            lines[name] = f"broken: {error}"
    return lines


def _env_line(folder: Path) -> str:
    about = read_env_yaml(folder / FILE)
    return about.description or f"format {about.format}"


def _reward_line(path: Path) -> str:
    if path.suffix == ".yaml":
        return _overrides_line(path)
    try:
        docstring = ast.get_docstring(ast.parse(path.read_bytes(), str(path)))
    except SyntaxError as error:
        raise InputError(f"not valid Python: {error.msg}", path, error.lineno) from error
    except (OSError, ValueError) as error:  # ValueError: null bytes
        raise InputError(f"cannot be read: {error}", path) from error
    return (docstring or "").split("\n\n")[0]


def _overrides_line(path: Path) -> str:
    content = read_yaml(path)
    return str(content.get("description") or ", ".join(f"{key}={value}" for key, value in content.items()))


def _experiment_line(path: Path) -> str:
    content = read_yaml(path)
    if not is_bench(content):
        return _overrides_line(path)
    sizes = content.get("sizes")
    known = f", size={'|'.join(map(str, sizes))}" if isinstance(sizes, dict) else ""
    return f"bench{known}: {content.get('description') or 'variants'}"


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "envs": lambda: _described(find_envs(), _env_line),
    "rewards": lambda: _described(find_rewards(), _reward_line),
    "algos": lambda: dict(ALGORITHM_NOTES),
    "experiments": lambda: _described(find_experiments(), _experiment_line),
}
