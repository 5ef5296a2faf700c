"""What a bench shows: a live table, a row a variant, on a terminal; elsewhere one plain line an ended run."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from instructrec_rl.bench.folder import State
from instructrec_rl.core.inert import printable
from instructrec_rl.core.tables import console
from instructrec_rl.run.screen import duration, share

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

REDRAW_S = 0.5
ENDED = ("done", "failed")
LEFT = (0, 2)  # columns of words


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return sum(values) / len(values) if values else None


def seconds_left(states: Sequence[State], workers: int, now: float) -> float | None:
    """The wall seconds until all runs have ended, by what the ended ones took; None while none has.

    A variant of which no run has ended is taken to cost the mean of the others.
    """
    took: dict[str, list[float]] = {}
    for state in states:
        if state.status == "done" and state.wall_s:
            took.setdefault(state.run.variant, []).append(state.wall_s)
    usual = mean([value for values in took.values() for value in values])
    open_still = [state for state in states if state.status in ("waiting", "running")]
    if usual is None or not open_still:
        return None if open_still else 0.0
    left = 0.0
    for state in open_still:
        expected = mean(took.get(state.run.variant, [])) or usual
        left += max(0.0, expected - (now - state.began if state.status == "running" else 0.0))
    return left / min(workers, len(open_still))


def rows_of(states: Sequence[State]) -> list[dict[str, Any]]:
    """A row a variant: its runs by status, the mean score of those done, and the CPU seconds so far."""
    rows: dict[str, dict[str, Any]] = {}
    for state in states:
        row = rows.setdefault(state.run.variant, {"all": 0, "scores": [], "cpu_s": 0.0})
        row["all"] += 1
        row[state.status] = row.get(state.status, 0) + 1
        row["cpu_s"] += state.cpu_s
        if state.score is not None:
            row["scores"].append(state.score)
    return [{"variant": variant, **row, "score": mean(row.pop("scores"))} for variant, row in rows.items()]


def cells_of(row: dict[str, Any]) -> list[str]:
    """The texts of a row: variant, seeds done of all, what else they do, score, CPU seconds."""
    other = [f"{row[status]} {status}" for status in ("running", "failed", "stopped") if row.get(status)]
    done = f"{row.get('done', 0)} of {row['all']}"
    return [printable(row["variant"]), done, ", ".join(other), share(row["score"]), f"{row['cpu_s']:,.0f}"]


def heads_of(states: Sequence[State]) -> list[str]:
    """The heads of those columns. The score is of the environment's first metric."""
    metric = next((state.metric for state in states if state.metric), "score")
    return ["variant", "done", "", printable(metric), "CPU-s"]


@dataclass
class BenchScreen:
    """Follows the runs on stderr. Made by `following`; live is the table on a terminal, None elsewhere."""

    states: list[State]
    workers: int
    live: Live | None = None
    drawn: float = field(default=0.0)

    def say(self, words: str) -> None:
        """A line that stays, above the table where there is one."""
        if self.live is not None:
            self.live.console.print(words, markup=False, highlight=False, soft_wrap=True)
        else:
            print(words, file=sys.stderr, flush=True)

    def ended(self, state: State) -> None:
        """Off a terminal, a line about a run that has ended; what failed is said on a terminal too."""
        done = sum(each.status in ENDED for each in self.states)
        left = seconds_left(self.states, self.workers, time.monotonic())
        rest = f", about {duration(left)} left" if left else ""
        score = f", {state.metric} {share(state.score)}" if state.metric else ""
        words = f"{state.run.name}: {state.status} in {duration(state.wall_s)}{score}"
        if self.live is None:
            self.say(f"{words} ({done} of {len(self.states)}{rest})")
        elif state.status == "failed":
            self.say(f"{words}; {state.log}")

    def draw(self, now: float) -> None:
        """Bring the table up to date, a few times a second at most."""
        if self.live is not None and now - self.drawn >= REDRAW_S:
            self.drawn = now
            self.live.update(self._table(now), refresh=True)

    def _table(self, now: float) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        done, left = sum(state.status in ENDED for state in self.states), seconds_left(self.states, self.workers, now)
        rest = "" if left == 0 else ", time left not known yet" if left is None else f", about {duration(left)} left"
        title = f"{done} of {len(self.states)} runs{rest}"
        look: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "header_style": "dim"}
        table = Table(title=title, title_justify="left", title_style="", **look)
        for place, head in enumerate(heads_of(self.states)):
            table.add_column(Text(head), justify="left" if place in LEFT else "right")
        for row in rows_of(self.states):
            style = "red" if row.get("failed") else "bold" if row.get("running") else ""
            table.add_row(*map(Text, cells_of(row)), style=style)
        return table


@contextlib.contextmanager
def following(states: list[State], workers: int) -> Iterator[BenchScreen]:
    """A screen that follows the runs while they go on; on a terminal the last table stays."""
    if not sys.stderr.isatty():
        yield BenchScreen(states, workers)
        return
    from rich.live import Live

    # no thread of its own: between a fork and its exec there should be one thread only
    with Live(console=console(stderr=True), auto_refresh=False) as live:
        screen = BenchScreen(states, workers, live)
        try:
            yield screen
        finally:
            screen.drawn = 0.0
            screen.draw(time.monotonic())


def result_lines(states: Sequence[State]) -> list[str]:
    """The table at the end as plain lines, aligned by spaces."""
    rows = [heads_of(states), *(cells_of(row) for row in rows_of(states))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i in LEFT else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return ["normalised, mean over seeds and test splits: 0 % is random, 100 % the oracle", *lines]
