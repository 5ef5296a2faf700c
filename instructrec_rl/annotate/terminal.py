"""The same questions in a terminal: rate and compare, skip, undo, quit."""

from __future__ import annotations

import getpass
import uuid
from typing import TYPE_CHECKING, Any

from instructrec_rl.annotate.selection import Question
from instructrec_rl.annotate.session import Session, WriteError
from instructrec_rl.core import InputError
from instructrec_rl.core.inert import printable
from instructrec_rl.core.tables import console as make_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel

ASKS = {
    "rate": "1 to 5 (5: it answers perfectly), s skip, u undo, c compare, q quit",
    "compare": "1 or 2 (the better one), 0 as good, s skip, u undo, r rate, q quit",
}


def ask(session: Session) -> None:
    """Ask until the annotator quits, or nothing is left. Each answer is on disk before "saved" is printed."""
    console = make_console(highlight=False)
    user = printable(getpass.getuser())
    annotator = "".join(filter(str.isprintable, _input(console, f"Your name ({user}): "))).strip() or user
    mode, skip = "rate", None
    while True:
        question = session.next(annotator, mode, skip)
        skip = None
        if question is None:
            console.print("Nothing left to ask here.")
            return
        _show(console, session, question)
        while (given := _answer(console, mode)) is None:
            console.print(f"Expected {ASKS[mode]}.")
        if given == "q":
            return
        if given == "s":
            skip = question.key
        elif given == "u":
            _undo(console, session, annotator)
        elif given in ("c", "r"):
            mode = {"c": "compare", "r": "rate"}[given]
        else:
            _save(console, session, annotator, question, given)


def _answer(console: Console, mode: str) -> Any:
    """A letter, or the answer's value as `Session.save` takes it; None for anything else. The input's end quits."""
    given = _input(console, f"{ASKS[mode]}\n> ", end="q").lower()
    if given in ("q", "s", "u", "c" if mode == "rate" else "r"):
        return given
    low, high, shift = (1, 5, 0) if mode == "rate" else (0, 2, 1)
    return int(given) - shift if given.isascii() and given.isdigit() and low <= int(given) <= high else None


def _input(console: Console, prompt: str, end: str = "") -> str:
    try:
        return console.input(prompt, markup=False).strip()
    except EOFError:
        return end


def _save(console: Console, session: Session, annotator: str, question: Question, value: Any) -> None:
    try:
        session.save(uuid.uuid4().hex, annotator, question, value)
    except InputError as error:
        console.print(printable(f"not saved: {error}"), markup=False, emoji=False)
        return
    progress, _ = session.progress(annotator)
    console.print(f"saved ({progress.you} by you of {progress.target}, {progress.all} by all)")


def _undo(console: Console, session: Session, annotator: str) -> None:
    _, last = session.progress(annotator)
    if last is None:
        console.print("There is nothing to take back.")
        return
    try:
        session.undo(uuid.uuid4().hex, annotator, last)
        console.print("taken back")
    except WriteError as error:
        console.print(printable(f"not taken back: {error}"), markup=False, emoji=False)


def _show(console: Console, session: Session, question: Question) -> None:
    from rich.panel import Panel
    from rich.text import Text

    console.print()
    console.print(
        Panel(Text(printable(question.instruction, lines=True), style="bold"), title="instruction", title_align="left")
    )
    for i, response in enumerate(question.responses, 1):
        console.print(_response(session, response, str(i) if len(question.responses) > 1 else "response"))


def _response(session: Session, response: str, title: str) -> Panel:
    """A response as a panel: the item's name and short attributes where it is an item, else its words."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    item = session.item(response)
    shown: Any = Text(printable(response, lines=True))
    if item is not None:
        shown = Table(
            box=None, show_header=False, padding=(0, 2, 0, 0), title=Text(printable(item.name)), title_justify="left"
        )
        for key, value in item.attributes.items():
            words = printable(", ".join(map(str, value)) if isinstance(value, list) else str(value))
            if len(words) <= 80:
                shown.add_row(Text(printable(key).replace("_", " "), style="dim"), Text(words or "none"))
        if not shown.row_count:
            shown.add_row(Text(printable(response, lines=True)))
    return Panel(shown, title=title, title_align="left", border_style="dim")
