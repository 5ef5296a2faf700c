"""What stands before the page's server: who may ask, from where, how often and how much; and headers on every reply."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 15.0
RATE_PER_S, BURST = 20.0, 100.0  # requests of one address
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

    token: what a client must show, "" for none; loopback: whether the server is bound to loopback, where a request must
    then name it: the name of another site that resolves to 127.0.0.1 (DNS rebinding) is refused.
    """

    def __init__(self, app: App, token: str, loopback: bool, bucket: Bucket | None = None):
        self.app, self.token, self.loopback, self.bucket = app, token, loopback, bucket or Bucket()
        # cookies do not keep ports apart, so each token has a name of its own
        self.cookie = f"instructrec_{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on, or answer it with the reason for refusing."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        try:
            self._check(scope, headers)
            body = await _read_body(receive, headers)
        except RefusedError as refused:
            await _answer(send, refused)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_encoded(HEADERS)]
            await send(message)

        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> MutableMapping[str, Any]:
            return next(given, None) or await receive()

        await self.app(scope, replay, with_headers)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        wait = self.bucket.wait_s((scope.get("client") or ("",))[0])
        if wait:
            raise RefusedError(429, "Too many requests; slower, please.", **{"Retry-After": str(int(wait) + 1)})
        host = headers.get("host", "")
        if self.loopback and not is_loopback(_host_name(host)):
            raise RefusedError(403, f"This server is for this machine only, not for the name {host[:100]}.")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, "Only GET and POST.", Allow="GET, HEAD, POST")
        if scope["method"] == "POST":
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != host:
                raise RefusedError(403, "Requests from other sites are refused.")
            if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise RefusedError(403, "Requests from other sites are refused.")
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise RefusedError(415, "Expected application/json.")
        if self.token:
            self._check_token(scope, headers)

    def _check_token(self, scope: Scope, headers: dict[str, str]) -> None:
        """The token comes once in the address, which is then cleared of it; afterwards in a cookie or a header."""
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if asked and scope["method"] == "GET" and self._is_token(asked[0]):
            cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"
            raise RefusedError(303, "", **{"Location": scope["path"], "Set-Cookie": cookie})
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            cookies.clear()
        shown = cookies[self.cookie].value if self.cookie in cookies else ""
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if not (self._is_token(shown) or self._is_token(bearer)):
            raise RefusedError(401, "Open the link that the server printed: it has the token that is needed here.")

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "replace"), self.token.encode())


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and (host.startswith("[") or ":" not in name) else host


async def _read_body(receive: Receive, headers: dict[str, str]) -> bytes:
    """The whole body. Raises RefusedError where it is too long, or too slow."""
    too_long = RefusedError(413, f"At most {MAX_BODY_BYTES:,} bytes are taken.", Connection="close")
    if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > MAX_BODY_BYTES:
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
