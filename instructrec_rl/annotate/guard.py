"""What stands before the page's server: who may ask, from where, how often and how much; and headers on every reply."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from instructrec_rl.annotate.connections import Connections
from instructrec_rl.annotate.keys import Keys
from instructrec_rl.annotate.limits import MAX_BODY_BYTES
from instructrec_rl.core import InputError
from instructrec_rl.core.json_reader import parse_object

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_TIMEOUT_S = 15.0
RATE_PER_S, BURST = 20.0, 100.0  # requests of one address; those that are refused are counted apart
MAX_ADDRESSES = 4096
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src "
    "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass
class Bucket:
    """A token bucket for each address: `rate` requests a second, `burst` at once."""

    rate: float = RATE_PER_S
    burst: float = BURST
    clock: Callable[[], float] = time.monotonic
    held: dict[str, tuple[float, float]] = field(default_factory=dict)

    def wait_s(self, address: str) -> float:
        """0 where a request may pass, which is then counted; else the seconds until it may."""
        now = self.clock()
        tokens, then = self.held.pop(address, (self.burst, now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        passes = tokens >= 1
        self.held[address] = (tokens - 1 if passes else tokens, now)
        if len(self.held) > MAX_ADDRESSES:
            del self.held[next(iter(self.held))]  # the one that was quiet the longest
        return 0.0 if passes else (1 - tokens) / self.rate


class RefusedError(Exception):
    """A request that does not reach the application."""

    def __init__(self, status: int, reason: str, **headers: str):
        self.status, self.reason, self.headers = status, reason, headers


class Guard:
    """ASGI middleware.

    keys: what a client must show; loopback: whether the server is bound to loopback, where a request must then name it:
    the name of another site that resolves to 127.0.0.1 (DNS rebinding) is refused; connections: told of each request.
    """

    def __init__(
        self,
        app: App,
        keys: Keys,
        loopback: bool,
        bucket: Bucket | None = None,
        connections: Connections | None = None,
    ):
        self.app, self.keys, self.loopback = app, keys, loopback
        self.bucket, self.connections = bucket or Bucket(), connections or Connections()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on, or answer it with the reason for refusing."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        with self.connections.request(scope.get("client")):
            try:
                body = await self._admit(scope, receive)
            except RefusedError as refused:
                await _answer(send, refused)
                return
            await self._pass_on(scope, receive, send, body)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_encoded(HEADERS)]
            await send(message)

        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> MutableMapping[str, Any]:
            return next(given, None) or await receive()

        await self.app(scope, replay, with_headers)

    async def _admit(self, scope: Scope, receive: Receive) -> bytes:
        """The body of a request that may pass; who sends it is noted in the scope. Raises RefusedError."""
        headers = _headers(scope)
        address = _network((scope.get("client") or ("",))[0])
        try:
            self._check(scope, headers)
            person = self._person(scope, headers)
        except RefusedError as refused:  # whoever may not come in uses up nothing of those who may
            self._count(address if refused.status == 303 else f"refused {address}")
            raise
        self._count(f"{person} {address}")
        scope["person"] = person
        body = await _read_body(receive, headers)
        if scope["method"] == "POST":
            _check_body(body, person)
        return body

    def _count(self, client: str) -> None:
        wait = self.bucket.wait_s(client)
        if wait:
            raise RefusedError(429, "Too many requests; slower, please.", **{"Retry-After": str(int(wait) + 1)})

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if self.loopback and not is_loopback(_host_name(host)):
            raise RefusedError(403, f"This server is for this machine only, not for the name {host[:100]}.")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, "Only GET, HEAD and POST.", Allow="GET, HEAD, POST")
        site = headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
        if scope["method"] == "POST":
            if not site or not _is_own(headers.get("origin"), host):
                raise RefusedError(403, "Requests from other sites are refused.")
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise RefusedError(415, "Expected application/json.")
        elif not site and headers.get("sec-fetch-mode", "navigate") != "navigate":  # a link from elsewhere is fine
            raise RefusedError(403, "Requests from other sites are refused.")

    def _person(self, scope: Scope, headers: dict[str, str]) -> str:
        """Who asks, "" where that is not known. Raises RefusedError where a token is needed and none is shown.

        The token comes once in the address, which is then cleared of it; afterwards in a cookie or a header.
        """
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if asked and self.keys.secret and scope["method"] in ("GET", "HEAD") and self.keys.person(asked) is not None:
            cookie = f"{self.keys.cookie}={asked}; HttpOnly; SameSite=Lax; Path=/"
            # always to the page itself: a path that comes with the request may lead to another site
            raise RefusedError(303, "", **{"Location": "/", "Set-Cookie": cookie})
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        shown = [*_cookies(headers.get("cookie", ""), self.keys.cookie)]
        shown += [bearer.strip()] if scheme.lower() == "bearer" else []
        found = [person for person in map(self.keys.person, shown or [""]) if person is not None]
        if not found:
            raise RefusedError(401, "Open the link that the server printed: it has the token that is needed here.")
        return found[0]


def _headers(scope: Scope) -> dict[str, str]:
    """A request's headers by their names in small letters. A header that is there twice is joined, as RFC 9110 says."""
    headers: dict[str, str] = {}
    for key, value in scope["headers"]:
        name, text = key.decode("latin-1").lower(), value.decode("latin-1")
        joint = "; " if name == "cookie" else ", "
        headers[name] = f"{headers[name]}{joint}{text}" if name in headers else text
    return headers


def _cookies(header: str, name: str) -> Iterator[str]:
    """The values of the cookie `name`. Split at semicolons and nothing else, as browsers join them (RFC 6265, section
    5.4): what other servers on this machine put into theirs does not matter.
    """
    for pair in header.split(";"):
        key, _, value = pair.partition("=")
        if key.strip() == name:
            yield value.strip().removeprefix('"').removesuffix('"')


def _is_own(origin: str | None, host: str) -> bool:
    """Whether a request's Origin is the site that it goes to. Programs that are no browsers send none."""
    if origin is None:
        return True
    scheme, _, name = origin.partition("://")
    return scheme in ("http", "https") and bool(name) and name.lower() == host.lower()


def _network(address: str) -> str:
    """An address as the rate of requests is counted for: of IPv6 the first 64 bits, which one household has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(int(parsed) >> 64) if parsed.version == 6 and parsed.ipv4_mapped is None else str(parsed)


def _check_body(body: bytes, person: str) -> None:
    """Raises RefusedError for what is not a JSON object, and for what is sent in another's name."""
    try:
        name = parse_object(body).get("annotator", person)
    except InputError as error:
        raise RefusedError(400, f"body: {error.reason}") from None
    if person and name != person:
        raise RefusedError(403, f"This link is for {person} alone; open your own to answer.")


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() and (host.startswith("[") or ":" not in name) else host.lower()


async def _read_body(receive: Receive, headers: dict[str, str]) -> bytes:
    """The whole body. Raises RefusedError where it is too long, or too slow."""
    too_long = RefusedError(413, f"At most {MAX_BODY_BYTES:,} bytes are taken.", Connection="close")
    told = headers.get("content-length", "0")
    if told.isascii() and told.isdigit() and (len(told) > 15 or int(told) > MAX_BODY_BYTES):
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError(400, "The request was cut short.")
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise too_long
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise RefusedError(408, "The request took too long.", Connection="close") from None


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(key.lower().encode(), value.encode("latin-1", "replace")) for key, value in headers.items()]


async def _answer(send: Send, refused: RefusedError) -> None:
    body = json.dumps({"error": refused.reason}).encode() if refused.reason else b""
    about = {"Content-Type": "application/json", "Content-Length": str(len(body)), **HEADERS, **refused.headers}
    await send({"type": "http.response.start", "status": refused.status, "headers": _encoded(about)})
    await send({"type": "http.response.body", "body": body})
