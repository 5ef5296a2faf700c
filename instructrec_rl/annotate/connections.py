"""The connections that the page's server holds: how many, and how long one may keep it waiting.

No new connection is refused. Where there are too many, the one that has waited the longest without a request is closed,
of the address that has the most: silent and slow clients make room for those that ask.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

MOST = 256  # connections that are held
WAIT_S = 15.0  # from the opening, or the last reply, until the headers of a request are there, whole
REQUEST_S = 60.0  # from the headers until the reply was taken
Address = tuple[Any, ...]


@dataclass
class _Held:
    """A connection; `order` grows with each request, so that the lowest has waited the longest."""

    transport: asyncio.Transport
    host: str
    order: int
    busy: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass
class Connections:
    """What is open now, by the client's address and port."""

    most: int = MOST
    wait_s: float = WAIT_S
    request_s: float = REQUEST_S
    held: dict[Address, _Held] = field(default_factory=dict)
    _turn: int = 0

    def opened(self, address: Address, transport: asyncio.Transport) -> None:
        """Take a connection in, and make room for it."""
        found = self.held[address] = _Held(transport, str(address[0]), 0)
        self._wait(found, self.wait_s)
        if len(self.held) > self.most:
            self._drop(address)

    def closed(self, address: Address) -> None:
        """A connection is gone."""
        found = self.held.pop(address, None)
        if found is not None and found.timer is not None:
            found.timer.cancel()

    @contextmanager
    def request(self, address: Address | None) -> Iterator[None]:
        """Around a request whose headers are there, until its reply is taken."""
        found = self.held.get(address) if address is not None else None
        if found is None:
            yield
            return
        found.busy = True
        self._wait(found, self.request_s)
        try:
            yield
        finally:
            found.busy = False
            if self.held.get(address or ()) is found:
                self._wait(found, self.wait_s)

    def _wait(self, found: _Held, seconds: float) -> None:
        if found.timer is not None:
            found.timer.cancel()
        self._turn += 1
        found.order = self._turn
        found.timer = asyncio.get_running_loop().call_later(seconds, found.transport.abort)

    def _drop(self, newest: Address) -> None:
        """Close one, not the newest."""
        hosts = Counter(found.host for found in self.held.values())
        others = [(found.busy, -hosts[found.host], found.order, address) for address, found in self.held.items()]
        victim = min(other for other in others if other[-1] != newest)[-1]
        self.held[victim].transport.abort()
        self.closed(victim)


def counted_protocol(connections: Connections) -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1 protocol, whose connections are counted."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Counted(H11Protocol):
        _address: Address | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = self.client or ("", id(self))  # as the guard finds it in a request's scope
            connections.opened(self._address, transport)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._address is not None:
                connections.closed(self._address)

    return Counted
