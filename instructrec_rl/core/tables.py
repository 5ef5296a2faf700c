"""The terminal: nothing that is printed is obeyed by it but what rich draws for us.

Within `inert_output` every `print`, log line, warning and traceback passes one place, which shows control characters
as escapes, whatever data they come from. rich, which needs them, draws on a console of `console`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

from instructrec_rl.core.inert import printable

if TYPE_CHECKING:
    from rich.console import Console


class Inert:
    """A text stream on another one, all of whose methods it has; what is written to it is made printable."""

    def __init__(self, stream: IO[str]):
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text; what the stream's encoding lacks becomes an escape too. Returns its length as it was given."""
        shown = printable(text, lines=True)
        try:
            self.stream.write(shown)
        except UnicodeEncodeError as error:
            self.stream.write(shown.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def inert_output() -> Iterator[None]:
    """Make stdout and stderr `Inert`, and put back what they were."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (each if isinstance(each, Inert) else Inert(each) for each in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(stderr: bool = False, **options: Any) -> Console:
    """A rich console on stdout or stderr. What it is given to show is made printable; only what it draws itself is not.

    It is a terminal only where the stream is one, whatever FORCE_COLOR says.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Shown(Console):
        def render(self, *arguments: Any, **named: Any) -> Iterator[Segment]:
            for segment in super().render(*arguments, **named):
                yield segment if segment.control else segment._replace(text=printable(segment.text, lines=True))

    stream = sys.stderr if stderr else sys.stdout
    stream = stream.stream if isinstance(stream, Inert) else stream
    return Shown(file=stream, force_terminal=stream.isatty(), **options)
