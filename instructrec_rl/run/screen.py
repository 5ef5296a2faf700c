"""What a run shows on the screen: a table of its result and the progress of learning. Off a terminal, plain lines.

Also the few readings of result.json that the table and the report share. rich is imported where it is used.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.core.inert import printable
from instructrec_rl.core.tables import console as make_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Update = Callable[[int, int, str], None]

PLAIN_EVERY_S = 10.0
WIDE_SPLITS = 7  # more columns than this, and the raw values would not fit into 100 characters


def main_metric(result: dict[str, Any]) -> str:
    """The environment's first metric: the first in the first split of result.json."""
    return next(iter(next(iter(result["splits"].values()))["metrics"]))


def answerers(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Who answered, by the name to show, and their splits: the policy, the stages before it if any, the baselines."""
    found = {f"policy ({result['algo']})": result["splits"]}
    stages = dict(result.get("stages") or {})
    if result.get("warm_start"):
        last = next(reversed(stages), "")
        stages.pop(last, None)
        found[f"warm start ({last})" if last else "warm start"] = result["warm_start"]["splits"]
    found |= {f"stage {name}": stage["splits"] for name, stage in stages.items()}
    return found | {name: baseline["splits"] for name, baseline in result.get("baselines", {}).items()}


def share(value: float | None) -> str:
    """A normalised value in per cent, where 0 % is random and 100 % the oracle; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{round(100 * value):d} %"


def figure(value: float | None) -> str:
    """A raw mean with three decimals, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def values_of(splits: dict[str, Any], split: str, metric: str) -> tuple[float | None, float | None]:
    """(normalised, raw) of a metric on a split; None where it was not computed."""
    found = splits.get(split, {})
    return found.get("normalized", {}).get(metric), found.get("metrics", {}).get(metric)


def title_of(result: dict[str, Any]) -> str:
    """What the figures of the table mean, in one line."""
    return f"{main_metric(result)}: 0 % is random, 100 % the oracle (raw mean beside it)"


def result_table(result: dict[str, Any]) -> Table:
    """The main metric of the policy and every baseline (rows) on every split (columns), within 100 columns.

    Each cell has the normalised value and, dimmed, the raw mean; the policy's row comes first and is bold.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    metric, splits = main_metric(result), list(result["splits"])
    look: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 0, 0, 1), "pad_edge": False, "header_style": "dim"}
    table = Table(title=Text(printable(title_of(result))), title_justify="left", title_style="", **look)
    table.add_column(Text(printable(result["env"])), overflow="fold")
    for split in splits:
        table.add_column(Text(printable(split)), justify="right", overflow="fold")
    for position, (name, found) in enumerate(answerers(result).items()):
        cells = []
        for split in splits:
            normalized, raw = values_of(found, split, metric)
            cell = Text(share(normalized))
            if len(splits) <= WIDE_SPLITS and raw is not None:
                cell.append(f" {raw:.2f}", style="dim not bold")
            cells.append(cell)
        table.add_row(Text(printable(name)), *cells, style="bold" if position == 0 else "")
    return table


def result_lines(result: dict[str, Any]) -> list[str]:
    """The same table as plain lines, aligned by spaces and never wrapped."""
    metric, splits = main_metric(result), list(result["splits"])
    rows = [[str(result["env"]), *splits]]
    for name, found in answerers(result).items():
        pairs = [values_of(found, split, metric) for split in splits]
        rows.append([name, *(f"{share(normalized)} {figure(raw)}" for normalized, raw in pairs)])
    rows = [[printable(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = [[row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))] for row in rows]
    return [printable(title_of(result)), *("  ".join(row).rstrip() for row in aligned)]


def print_result(result: dict[str, Any], run_dir: Path, console: Console | None = None) -> None:
    """Print the table to stdout, and last the path of the report: rich on a terminal, plain lines elsewhere."""
    console = console or make_console()
    report = printable(f"report: {run_dir / 'report.html'}")
    if console.is_terminal:
        console.print(result_table(result))
        console.print(report, markup=False, highlight=False, soft_wrap=True)
    else:
        print("\n".join([*result_lines(result), report]), file=console.file, flush=True)


@contextlib.contextmanager
def progress(description: str, total: int, console: Console | None = None) -> Iterator[Update]:
    """Yields `update(step, total, words)`, as a `Recorder` calls it: steps done of how many, and a few words.

    `total` is what is shown before the first update; an algorithm may count in its own steps (examples, say).

    On a terminal's stderr a bar with rate, elapsed and left time; elsewhere a plain line at every tenth of the way
    and at least every ten seconds. The rate counts from the first update on, so that a resumed run shows its own.
    """
    console = console or make_console(stderr=True)
    if not console.is_terminal:
        yield _PlainProgress(description, console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    words = TextColumn("{task.fields[words]}", style="dim", markup=False)
    first = TextColumn("{task.description}", markup=False)
    pace = TextColumn("{task.fields[pace]}", markup=False)
    with Progress(first, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), pace, words, console=console) as bar:
        task, rate = bar.add_task(description, total=total, words="", pace=""), _Rate()

        def update(step: int, total: int, words: str = "") -> None:
            bar.update(task, completed=step, total=total, words=words, pace=", ".join(rate.words(step, total)))

        yield update


@dataclass
class _Rate:
    """Steps a second since the first update, and the time left at that rate. Counting back begins anew: a stage."""

    clock: Callable[[], float] = time.monotonic
    first: tuple[int, float] | None = None
    last: int = 0

    def words(self, step: int, total: int) -> list[str]:
        if self.first is None or step < self.last:
            self.first = (step, self.clock())
        self.last = step
        steps, seconds = step - self.first[0], self.clock() - self.first[1]
        if steps <= 0 or seconds <= 0:
            return []
        rate = steps / seconds
        left = max(0, total - step) / rate
        return [f"{rate:,.0f} steps/s" if rate >= 10 else f"{rate:.2g} steps/s", f"{duration(left)} left"]


@dataclass
class _PlainProgress:
    """Lines for a log file: one at every tenth of the way, and one whenever the last is ten seconds old."""

    description: str
    console: Console
    clock: Callable[[], float] = time.monotonic
    rate: _Rate = field(init=False)
    started: float = field(init=False)
    last_s: float = field(init=False)
    tenth: int = -1

    def __post_init__(self) -> None:
        self.rate = _Rate(self.clock)
        self.started = self.last_s = self.clock()

    def __call__(self, step: int, total: int, words: str = "") -> None:
        now, tenth = self.clock(), 10 * step // max(1, total)
        if step < self.rate.last:
            self.tenth = -1
        pace = self.rate.words(step, total)
        if tenth <= self.tenth and now - self.last_s < PLAIN_EVERY_S:
            return
        self.tenth, self.last_s = max(tenth, self.tenth), now
        done = f"{step:,} of {total:,} ({100 * step // max(1, total)} %)"
        parts = [done, *pace[:1], f"{duration(now - self.started)} elapsed", *pace[1:], *([words] if words else [])]
        print(printable(f"{self.description}: {', '.join(parts)}"), file=self.console.file, flush=True)


def duration(seconds: float) -> str:
    """Seconds in words, as "2 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
