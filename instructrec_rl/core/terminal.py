"""How far a long piece of work is: a bar with its rate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from instructrec_rl.core.tables import console

SECONDS_A_LINE = 10.0


@contextmanager
def counted(what: str, unit: str, total: int, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Yield `advance(n)`: n more of `total` units are done.

    show: True draws a bar on stderr, which is cleared at the end; False shows nothing; None draws the bar on a
    terminal and elsewhere writes a line every ten seconds and one at the end.
    """
    if show is False:
        yield lambda n: None
    elif show or sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # a bar on a terminal
        pace = TextColumn("{task.fields[rate]:,.0f} " + unit + "/s")
        columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), pace, TimeRemainingColumn())
        with Progress(*columns, console=console(stderr=True), transient=True) as bar:
            number = bar.add_task(what, total=total, rate=0.0)
            task = bar.tasks[number]
            yield lambda n: bar.update(number, advance=n, rate=(task.completed + n) / max(task.elapsed or 0, 1e-3))
    else:
        # lines elsewhere
        done, began = 0, time.monotonic()
        last_line = began

        def line() -> str:
            return f"{what}: {done:,} of {total:,} {unit}, {done / max(time.monotonic() - began, 1e-3):,.0f} {unit}/s"

        def advance(n: int) -> None:
            nonlocal done, last_line
            done += n
            if time.monotonic() - last_line >= SECONDS_A_LINE:
                last_line = time.monotonic()
                print(line(), file=sys.stderr, flush=True)

        yield advance
        print(line(), file=sys.stderr, flush=True)
