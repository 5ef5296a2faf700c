"""Where the seconds of a run go, part by part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock(dict[str, float]):
    """Seconds spent on each of some named parts."""

    def __init__(self, *parts: str):
        super().__init__(dict.fromkeys(parts, 0.0))

    @contextmanager
    def adding(self, part: str) -> Iterator[None]:
        """Adds the seconds spent inside to a part, less what was added to others inside of it."""
        before, started = sum(self.values()), time.perf_counter()
        yield
        self[part] += time.perf_counter() - started - (sum(self.values()) - before)

    def take(self) -> dict[str, float]:
        """The seconds so far; all parts begin again at zero."""
        seconds = dict(self)
        self.update(dict.fromkeys(self, 0.0))
        return seconds
