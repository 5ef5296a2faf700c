"""Who is kept out of the annotation page and who is not: slow clients, locks, cookies, tokens, what was shown."""

from __future__ import annotations

import datetime
import fcntl
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructrec_rl.annotate.command import AnnotateConfig, main, make_session
from instructrec_rl.annotate.connections import Connections
from instructrec_rl.annotate.guard import Bucket, _cookies, _network
from instructrec_rl.annotate.keys import TOKEN_VARIABLE, Keys, make_keys, people_of
from instructrec_rl.annotate.limits import MAX_TEXT_BYTES, fits, json_bytes, question_fits
from instructrec_rl.annotate.session import MAX_WRITERS, Session
from instructrec_rl.annotate.shown import Shown
from instructrec_rl.core import InputError
from instructrec_rl.core.command_line import run_command
from instructrec_rl.core.inert import printable
from instructrec_rl.feedback.store import Store, append
from tests.annotate.test_annotate import OUT, answer, ask, client, lines
from tests.run.test_run import environment

TOKEN = "a-token.of_16~ch"
REMOTE: dict[str, Any] = {"base_url": "http://192.168.1.5:8370", "loopback": False}
ABOUT = b"POST /api/about HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.fixture
def session(toys: Callable[..., Path]) -> Session:
    toys()
    return make_session(AnnotateConfig(overlap=0.0), ["env=toys"])


@contextmanager
def running(session: Session, connections: Connections | None = None, token: str | Keys = "") -> Iterator[int]:
    """The real server on a free port, which is given."""
    import uvicorn

    from instructrec_rl.annotate.server import listen, serving

    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(serving(session, "127.0.0.1", token, connections))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def get(port: int, path: str = "/page.css", **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        return int(urllib.request.urlopen(request, timeout=20).status)
    except urllib.error.HTTPError as error:
        return error.code


def hang_up(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


@pytest.mark.parametrize("sent", [
    b"", b"GET / HTTP/1.1\r\nHost: 127", b"POST", ABOUT + b"Content-Length: 2\r\n\r\n{", b"\x16\x03\x01",
], ids=["silent", "half a header", "half a method", "half a body", "TLS"])  # fmt: skip
def test_slow_clients_keep_nobody_out(session: Session, sent: bytes) -> None:
    with running(session, token=TOKEN) as port:
        slow: list[socket.socket] = []
        try:
            for _ in range(290):  # more than are held
                slow.append(socket.create_connection(("127.0.0.1", port)))
                slow[-1].sendall(sent)
            start = time.monotonic()
            assert [get(port, Authorization=f"Bearer {TOKEN}") for _ in range(5)] == [200] * 5
            assert time.monotonic() - start < 5
        finally:
            hang_up(slow)


def drip(sender: socket.socket, data: bytes) -> float:
    """Send byte by byte, and return after how many seconds the other side had enough."""
    start = time.monotonic()
    for byte in data:
        try:
            sender.sendall(bytes([byte]))
        except OSError:
            break
        time.sleep(0.05)
    return time.monotonic() - start


def test_who_sends_a_header_byte_by_byte_is_closed(session: Session) -> None:
    with running(session, Connections(wait_s=0.5)) as port:
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.settimeout(5)
            assert drip(slow, b"GET / HTTP/1.1\r\nX: " + b"a" * 1000) < 3
        with socket.create_connection(("127.0.0.1", port)) as idle:
            idle.settimeout(5)
            idle.sendall(b"GET /page.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            start = time.monotonic()
            while idle.recv(65536):  # the reply, then its end
                pass
            assert 0.3 < time.monotonic() - start < 3


def test_room_is_made_by_the_address_that_has_the_most() -> None:
    import asyncio

    class Transport:
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    async def fill() -> dict[tuple[str, int], Transport]:
        connections, made = Connections(most=4), {}
        for address in [("ann", 1), ("eve", 1), ("eve", 2), ("eve", 3), ("bob", 1)]:
            made[address] = Transport()
            connections.opened(address, made[address])  # type: ignore[arg-type]
        with connections.request(("ann", 1)):
            for port in (2, 3):
                made["bob", port] = Transport()
                connections.opened(("bob", port), made["bob", port])  # type: ignore[arg-type]
        for address in list(connections.held):
            connections.closed(address)
        return made

    made = asyncio.run(fill())
    assert {address for address, transport in made.items() if transport.aborted} == {("eve", 1), ("eve", 2), ("bob", 1)}


@contextmanager
def lock_held(path: Path) -> Iterator[None]:
    """Another process that holds the lock of the feedback file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        yield
    finally:
        holder.communicate(b"\n")


def test_who_holds_the_files_lock_stalls_nobody(session: Session) -> None:
    web = client(session, bucket=Bucket(rate=1e6, burst=1e6))
    bodies = [answer(ask(web, annotator=f"a{i}"), 3, annotator=f"a{i}", id=f"answer-{i:08d}") for i in range(40)]
    codes: dict[int, Any] = {}
    with lock_held(OUT):
        threads = [
            threading.Thread(target=lambda i=i: codes.__setitem__(i, web.post("/api/answer", json=bodies[i])))
            for i in range(40)
        ]
        for thread in threads:
            thread.start()
        start = time.monotonic()
        for _ in range(3):
            assert web.get("/page.css").status_code == 200
            assert ask(web, annotator="zoe") is not None
        assert time.monotonic() - start < 2.5, "they wait for nobody"
        for thread in threads:
            thread.join(timeout=15)
        assert len(codes) == 40
    assert {reply.status_code for reply in codes.values()} == {503}
    assert {reply.headers["retry-after"] for reply in codes.values()} == {"2"}
    told = {reply.json()["error"] for reply in codes.values()}
    assert all(each.startswith("The server could not write: ") and "in use by" in each for each in told), told
    assert not OUT.read_text()
    assert MAX_WRITERS < 40
    for body in bodies:  # as the page does
        assert web.post("/api/answer", json=body).status_code == 200
    assert sorted(line["id"] for line in lines()) == [body["id"] for body in bodies]


def test_a_short_wait_for_the_lock_is_waited_for(session: Session) -> None:
    web = client(session)
    body = answer(ask(web), 3)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with OUT.open("a") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        threading.Timer(0.5, lambda: fcntl.flock(holder, fcntl.LOCK_UN)).start()
        assert web.post("/api/answer", json=body).status_code == 200
    assert len(lines()) == 1


@pytest.mark.parametrize("others", [
    'prefs={"dark":true}', "a=\x01", ";;;=,", 'x="a; b"', 'broken="', "a=1, b=2", "_xsrf=2|a|b|1", "=", "ü=ü",
    "Expires", "a" * 4000 + "=1",
])  # fmt: skip
def test_the_cookies_of_others_do_not_matter(session: Session, others: str) -> None:
    web, name = client(session, token=TOKEN, **REMOTE), Keys(TOKEN).cookie
    for header in (f"{others}; {name}={TOKEN}", f"{name}={TOKEN}; {others}", f"{name}=old; {name}={TOKEN};{others}"):
        assert web.get("/", headers={"Cookie": header.encode()}).status_code == 200, header
    assert web.get("/", headers=[("Cookie", others.encode()), ("Cookie", f"{name}={TOKEN}")]).status_code == 200
    for wrong in (others, f"{name}x={TOKEN}", f"{others}; {name}={TOKEN}x", f"{name}=", f'a="{name}={TOKEN}"'):
        assert web.get("/", headers={"Cookie": wrong.encode()}).status_code == 401, wrong


@given(st.lists(st.text(st.characters(blacklist_characters=";"), max_size=20), max_size=5), st.integers(0, 5))
def test_a_cookie_is_found_among_any_others(others: list[str], place: int) -> None:
    name = Keys(TOKEN).cookie
    pairs = [*others[:place], f"{name}={TOKEN}", *others[place:]]
    assert TOKEN in list(_cookies("; ".join(pairs), name))


@pytest.mark.parametrize("token", [
    "x", "elevenchars", "a b c d e f g h", "semicolon;semicolon", 'quote"quote"quote', "ünicode-ünicode",
    " padded-token ", "new\nline-new-line", "comma,comma,comma", "a" * 129, "percent%20percent", "plus+plus+plus+", " ",
])  # fmt: skip
def test_a_token_that_could_not_work_is_refused_at_start(
    toys: Callable[..., Path], token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toys()
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    for host in ("127.0.0.1", "0.0.0.0"):
        assert run_command(main, ["env=toys", f"host={host}", "port=0"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(
            f"${TOKEN_VARIABLE}: a token has 12 to 128 characters, each a letter from A to Z, a digit"
        )
        assert error.count("\n") == 1
        assert token not in error or len(token) < 3


@given(st.text(st.sampled_from("ABCxyz019._~-"), min_size=12, max_size=128))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_any_token_that_is_taken_opens_the_page(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    import asyncio

    from instructrec_rl.annotate.guard import Guard

    monkeypatch.setenv(TOKEN_VARIABLE, token)
    keys = make_keys(["ann", "bob"])
    guard = Guard(None, keys, False)  # type: ignore[arg-type]

    def opened(given: Keys, shown: str, **headers: str) -> dict[str, Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        guard.keys = given
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": f"token={shown}".encode(), "headers": []}
        asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
        return {key.decode(): value.decode() for key, value in sent[0]["headers"]}

    for given_keys, shown in ((Keys(token), token), (keys, keys.people["ann"])):
        cookie = opened(given_keys, shown)["set-cookie"].partition(";")[0]
        assert [given_keys.person(value) for value in _cookies(cookie, given_keys.cookie)] != [None]
    assert keys.person(token) is None, "the secret itself is nobody's link"
    assert keys == make_keys(["ann", "bob"]), "the links stay the same"
    assert keys.people["ann"] != keys.people["bob"]


def test_an_origin_that_is_none_is_refused(session: Session) -> None:
    web, asks = client(session), {"annotator": "ann", "mode": "rate"}
    for origin in ("http://[bad", "http://[::1", "http://127.0.0.1:8370@evil.example", "http://", "", "127.0.0.1:8370",
                   "http://127.0.0.1:8370/", "file://", "http://127.0.0.1:8370, http://evil.example", "http://[::%]:1",
                   "chrome-extension://127.0.0.1:8370", "http://\u00b2"):  # fmt: skip
        refused = web.post("/api/next", json=asks, headers={"Origin": origin.encode("latin-1")})
        assert refused.status_code == 403, origin
    twice = [("Origin", "http://127.0.0.1:8370"), ("Origin", "http://evil.example")]
    assert web.post("/api/next", json=asks, headers=twice).status_code == 403
    for origin in ("http://127.0.0.1:8370", "HTTP://127.0.0.1:8370".replace("HTTP", "http"), "https://127.0.0.1:8370"):
        assert web.post("/api/next", json=asks, headers={"Origin": origin}).status_code == 200, origin
    for host in ("[bad", "[::1", "127.0.0.1:x", "[::1]:8370:1", "\u00b2", "localhost.evil.example", "0x7f000001"):
        assert web.get("/", headers={"Host": host.encode("latin-1")}).status_code == 403, host
    assert web.get("/", headers={"Host": "LOCALHOST:8370"}).status_code == 200


def test_pages_of_others_fetch_nothing_but_links_work(session: Session) -> None:
    web = client(session)
    asked = {"Sec-Fetch-Site": "cross-site"}
    assert web.get("/page.js", headers=asked | {"Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert web.get("/", headers=asked | {"Sec-Fetch-Mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("path", [
    "//evil.example/", "/\\evil.example/", "/%5cevil.example", "/%2f%2fevil.example", "//evil.example",
    "/%09/evil.example", "http://evil.example/", "//evil.example/page.css/", "/page.css/", "/api/about/",
    "/https:evil.example",
])  # fmt: skip
def test_no_address_leads_to_another_site(session: Session, path: str) -> None:
    with running(session, token=TOKEN) as port:
        for query in (f"?token={TOKEN}", f"?token={TOKEN}&token=x&next=//evil.example", ""):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.settimeout(5)
                raw.sendall(f"GET {path}{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                reply = b""
                while data := raw.recv(65536):
                    reply += data
            head = reply.partition(b"\r\n\r\n")[0].decode().lower()
            assert head.split()[1] == ("303" if query else "401"), head
            assert ("\r\nlocation: /\r\n" in head + "\r\n") == bool(query), head


def test_nobody_gets_a_higher_rate_by_a_header(session: Session) -> None:
    with running(session) as port:
        codes = [get(port, **{"X-Forwarded-For": f"10.0.0.{i}", "Forwarded": f"for=10.0.0.{i}"}) for i in range(250)]
    assert set(codes) == {200, 429}


def test_who_is_refused_uses_up_nothing_of_those_who_may(session: Session) -> None:
    now = [0.0]
    bucket = Bucket(rate=1.0, burst=3.0, clock=lambda: now[0])
    web = client(session, token=TOKEN, bucket=bucket, **REMOTE)
    assert [web.get("/").status_code for _ in range(5)] == [401] * 3 + [429] * 2
    bearer = {"Authorization": f"bearer {TOKEN}"}
    assert [web.get("/", headers=bearer).status_code for _ in range(4)] == [200] * 3 + [429]
    assert _network("2001:db8:1:2::1") == _network("2001:db8:1:2:ffff::9") != _network("2001:db8:1:3::1")
    assert _network("::ffff:1.2.3.4") != _network("::ffff:1.2.3.5")
    assert _network("fe80::1%eth0") == _network("fe80::2")


@pytest.mark.parametrize("body", [
    b'{"annotator": "ann", "annotator": "bob", "mode": "rate"}', b'{"annotator": "ann\\ud800", "mode": "rate"}',
    b'{"annotator": "ann", "mode": ' + b"[" * 200 + b"]" * 200 + b"}", b'{"annotator": "ann", "mode": 1e999}',
    b'{"annotator": "ann", "mode": ' + b"9" * 5000 + b"}", b'{"annotator": NaN}', b"null", b"",
    b"\xff\xfe{}", b"[" * 9999, '{"annotator": "ann", "mode": "rate"}'.encode("utf-16"),
])  # fmt: skip
def test_bodies_that_are_no_json_object_are_refused_in_one_line(session: Session, body: bytes) -> None:
    web = client(session)
    for call in ("next", "answer", "undo", "about", "items"):
        reply = web.post(f"/api/{call}", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400, call
        assert "\n" not in reply.json()["error"]
        assert len(reply.json()["error"]) < 300


def test_head_and_other_methods(session: Session) -> None:
    web = client(session)
    for path in ("/", "/page.css", "/page.js"):
        head = web.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == web.get(path).headers["content-length"]
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
        reply = web.request(method, "/")
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD, POST")
    assert web.get("/api/next").headers["allow"] == "POST"


def test_only_what_was_shown_to_somebody_is_saved_from_them(session: Session) -> None:
    web = client(session)
    question = ask(web)
    body = answer(question, 3)
    other = next(text for text in session.selector.pool.responses if text != body["responses"][0])
    test = next(e.instruction for e in session.spec.examples if e.row["split"] == "test")
    for change, reason in (
        ({"responses": ["never shown"]}, "responses: ann was never asked this"),
        ({"responses": [other]}, "responses: ann was never asked this"),
        ({"annotator": "bob"}, "responses: bob was never asked this"),
        ({"mode": "thumbs", "value": True}, "responses: ann was never asked this"),
        ({"responses": [*body["responses"], other], "mode": "compare", "value": 1}, "was never asked this"),
        ({"instruction": test}, "instruction: it is not one of toys"),
    ):
        refused = web.post("/api/answer", json=body | change)
        assert refused.status_code == 422, change
        assert reason in refused.json()["error"]
    assert not OUT.exists()
    assert web.post("/api/answer", json=body).status_code == 200
    assert len(lines()) == 1


def test_what_was_shown_is_known_after_a_kill_and_to_a_second_server(session: Session) -> None:
    first, asked_late = client(session), client(make_session(AnnotateConfig(), ["env=toys"]))
    body = answer(ask(first), 3)
    assert asked_late.post("/api/answer", json=body).status_code == 200, "a server that was there already"
    more = answer(ask(first, "rank"), [2, 0, 3, 1])
    shown = session.shown.path
    with shown.open("ab") as torn:
        torn.write(b"0123")  # a line cut short by a full disk
    last = answer(ask(first, "compare"), 1)
    again = client(make_session(AnnotateConfig(), ["env=toys"]))
    assert again.post("/api/answer", json=more | {"responses": more["responses"][::-1]}).status_code == 200
    assert again.post("/api/answer", json=last).status_code == 200
    shown.unlink()  # what is saved already is acknowledged, whatever is known of what was shown
    anew = client(make_session(AnnotateConfig(), ["env=toys"]))
    assert anew.post("/api/answer", json=body).status_code == 200
    assert len(lines()) == 3
    assert Store().problems == []
    assert b"ann" not in Shown(OUT).path.name.encode()


def test_an_id_that_another_environment_has_is_no_obstacle(session: Session) -> None:
    web = client(session)
    elsewhere = {"id": "my-first-answer", "annotator": "ann", "env": "other", "instruction": "x", "response": "y"}
    append(OUT, elsewhere | {"rating": 1})
    body = answer(ask(web), 3, id="my-first-answer")
    replies = [web.post("/api/answer", json=body).json() for _ in range(2)]
    assert replies[0] == replies[1]
    assert replies[0]["saved"] == replies[0]["last"] == "my-first-answer.toys"
    assert [line["id"] for line in lines()] == ["my-first-answer", "my-first-answer.toys"]
    assert web.post("/api/answer", json=body | {"value": 4}).status_code == 422


def test_an_undo_is_of_ones_own_answers_here(session: Session) -> None:
    web = client(session)
    body = answer(ask(web), 3)
    web.post("/api/answer", json=body)
    append(
        OUT, {"id": "elsewhere-1", "annotator": "ann", "env": "other", "instruction": "x", "response": "y", "rating": 1}
    )
    for annotator, target in (("bob", body["id"]), ("ann", "elsewhere-1"), ("ann", "nothing"), ("Ann", body["id"])):
        undo = {"id": "undo-12345", "annotator": annotator, "target": target}
        assert web.post("/api/undo", json=undo).status_code == 422
    assert len(lines()) == 2


def test_undo_takes_back_the_last_line_whatever_the_clock_says(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instructrec_rl.feedback import store

    times = iter(datetime.datetime(2025, 1, day, tzinfo=datetime.UTC) for day in (9, 5, 5, 1, 7, 2))

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return next(times)

    monkeypatch.setattr(store.datetime, "datetime", Clock)
    web, saved = client(session), []
    for _ in range(5):
        body = answer(ask(web), 3)
        reply = web.post("/api/answer", json=body).json()
        saved.append(body["id"])
        assert reply["last"] == body["id"]
    undone = web.post("/api/undo", json={"id": "undo-the-last", "annotator": "ann", "target": saved[-1]}).json()
    assert undone["last"] == saved[-2]
    again = make_session(AnnotateConfig(), ["env=toys"])
    assert again.progress("ann")[1] == saved[-2], "also for a server that reads the file"


def test_each_person_answers_by_a_link_of_their_own(session: Session) -> None:
    keys = make_keys(people_of("ann, bob"))
    as_ann, as_bob = (client(session, token=keys, **REMOTE) for _ in range(2))
    for web, name in ((as_ann, "ann"), (as_bob, "bob")):
        assert web.get("/").status_code == 401
        assert web.get(f"/?token={keys.people[name]}").status_code == 200
        about = web.post("/api/about", json={}).json()
        assert (about["you"], about["annotators"]) == (name, [name])
    body = answer(ask(as_ann), 3)
    assert as_ann.post("/api/answer", json=body).status_code == 200
    for call, sent in (
        ("answer", answer(ask(as_bob, annotator="bob"), 3, annotator="ann")),
        ("undo", {"id": "undo-12345", "annotator": "ann", "target": body["id"]}),
        ("next", {"annotator": "ann", "mode": "rate"}),
        ("progress", {"annotator": "ann"}),
        ("next", {"annotator": None, "mode": "rate"}),
    ):
        refused = as_bob.post(f"/api/{call}", json=sent)
        assert refused.status_code == 403, call
        assert refused.json()["error"] == "This link is for bob alone; open your own to answer."
    assert len(lines()) == 1
    as_bob.get(f"/?token={keys.people['ann']}")  # in one browser, the link that was opened last
    assert as_bob.post("/api/about", json={}).json()["you"] == "ann"
    assert client(session).post("/api/about", json={}).json()["you"] == ""


@pytest.mark.parametrize("text", ["ann,", ",", "ann,,bob", "ann,Ann", "x" * 65, "ann\x1b[31m", "jose\u0301,jos\u00e9",
                                  "ann\u202e,bob"])  # fmt: skip
def test_people_need_names_that_can_be_told_apart(
    toys: Callable[..., Path], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    toys()
    assert run_command(main, ["env=toys", "port=0", f"people={text}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("people=")
    assert error.count("\n") == 1
    assert printable(error, lines=True) == error


def test_the_command_prints_a_link_for_each_person(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys()
    command = [sys.executable, "-m", "instructrec_rl.annotate", "env=toys", "port=0", "people=ann,Zo\u00eb Ray"]
    serving = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert serving.stdout is not None
        told = [next(serving.stdout) for _ in range(4)]
    finally:
        serving.kill()
        serving.communicate()
    assert "Whoever has a person's address answers as that person" in told[1]
    assert [line.split()[0] for line in told[2:]] == ["open", "open"]
    assert [line.rstrip().rpartition("   ")[2] for line in told[2:]] == ["for ann", "for Zo\u00eb Ray"]
    assert len({line.partition("token=")[2].split()[0] for line in told[2:]}) == 2


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\x9bb", "a\nb", "\x00", "a\u2028b", "a\tb"])
def test_names_hold_no_controls(session: Session, name: str) -> None:
    web = client(session)
    refused = web.post("/api/next", json={"annotator": name, "mode": "rate"})
    assert refused.status_code == 422
    assert printable(refused.json()["error"]) == refused.json()["error"]


@given(st.text())
def test_printable_leaves_nothing_that_a_terminal_obeys(text: str) -> None:
    left = printable(f"\x1b]0;title\x07\x9b31m\r\u202e{text}")
    assert not any(c in left for c in "\x1b\x07\x9b\r\u202e\u2066\x7f\x08")
    assert left.endswith(text) or not text.isprintable()


def test_the_terminal_shows_no_escapes_of_the_data(toys: Callable[..., Path], tmp_path: Path) -> None:
    home = toys()
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"
    items = [json.loads(line) for line in (home / "items.jsonl").read_text().splitlines()]
    items = [item | {"name": item["name"] + evil, f"k{evil}": evil, "colour": [evil]} for item in items]
    (home / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = [json.loads(line) for line in (home / "instructions.jsonl").read_text().splitlines()]
    rows = [row | {"instruction": f"{row['instruction']} {evil}", "constraints": []} for row in rows]
    (home / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "instructrec_rl.annotate", "env=toys", "--tui"]
    keys = f"ann{evil}\n4\nc\n1\nu\nq\n"
    done = subprocess.run(command, cwd=tmp_path, env=environment(), input=keys, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert printable(done.stdout + done.stderr, lines=True) == done.stdout + done.stderr
    assert [line["kind"] for line in lines()] == ["rating", "preference", "retract"]
    assert {line["annotator"] for line in lines()} == {"ann[2J]0;owned31m"}


def long_toys(home: Path, lengths: list[int], text: str = "x") -> None:
    """Items whose texts are so long."""
    items = [json.loads(line) for line in (home / "items.jsonl").read_text().splitlines()]
    for item, length in zip(items, lengths):
        item["text"] = f"{item['id']} " + text * length
    (home / "items.jsonl").write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))


@pytest.mark.parametrize(("lengths", "text", "left_out"), [
    ([27_000] * 12, "x", 0), ([18_000] * 12, "x", 0), ([15_000] * 12, "語", 0), ([90_000] * 12, "x", 0),
    ([120_000] * 5 + [10] * 7, "x", 5), ([9_000] * 3 + [7_000] * 9, "😀", 3), ([60_000] * 2, '"', 2),
])  # fmt: skip
def test_what_is_asked_can_be_saved(
    toys: Callable[..., Path], lengths: list[int], text: str, left_out: int, capsys: pytest.CaptureFixture[str]
) -> None:
    long_toys(toys(), lengths, text)
    session = make_session(AnnotateConfig(overlap=0.0), ["env=toys"])
    told = capsys.readouterr().err
    assert session.selector.pool.left_out == left_out
    assert told == (f"annotate toys: {left_out} texts are not asked about: longer than the 98,304 bytes (as JSON) that "
                    "can be saved\n" if left_out else "")  # fmt: skip
    web = client(session)
    items = web.post("/api/items", json={"words": ""}).json()
    assert items["total"] == 12 - left_out
    for mode, value in (("rate", 4), ("rank", [2, 0, 3, 1]), ("compare", 1), ("correct", None), ("thumbs", True)):
        question = ask(web, mode)
        if mode == "correct":
            value = next(i["text"] for i in items["items"] if i["text"] != question["responses"][0]["text"])
        reply = web.post("/api/answer", json=answer(question, value, rationale="😀" * 2000))
        assert reply.status_code == 200, reply.text
    assert len(Store().records) == 5
    assert Store().problems == []


def test_nothing_is_asked_where_all_is_too_long(toys: Callable[..., Path]) -> None:
    long_toys(toys(), [120_000] * 12)
    with pytest.raises(InputError, match="every response is longer than the 98,304 bytes that can be saved"):
        make_session(AnnotateConfig(), ["env=toys"])


def test_what_others_imported_is_asked_only_where_it_can_be_saved(toys: Callable[..., Path]) -> None:
    toys()
    session = make_session(AnnotateConfig(overlap=1.0), ["env=toys"])
    asked = session.selector.pool.instructions[0]
    imported = [
        {"responses": [f"text {i}" for i in range(20)]},
        {"responses": ["x" * 200_000, "y" * 200_000, "z" * 200_000]},
        {"chosen": "red circle", "rejected": "a circle painted red"},  # two names of one item
        {"response": "x" * 600_000, "rating": 3},
    ]
    for each in imported:
        append(OUT, {"instruction": asked, "annotator": "bob", "env": "toys", **each})
    web = client(session)
    for mode, value in (("rate", 4), ("rank", [2, 0, 3, 1]), ("compare", 1)):
        for _ in range(3):
            assert web.post("/api/answer", json=answer(ask(web, mode), value)).status_code == 200


@given(st.text(st.characters(blacklist_categories=["Cs"])), st.integers(1, 30_000))
def test_the_limit_holds_for_every_way_of_writing_json(text: str, times: int) -> None:
    long = (text * times)[:60_000]
    written = [len(json.dumps(long, ensure_ascii=ascii).encode()) - 2 for ascii in (True, False)]
    assert json_bytes(long) == max(written)
    assert fits(long) == (max(written) <= MAX_TEXT_BYTES)
    assert question_fits(long, []) or not fits(long)


@pytest.mark.parametrize(("arguments", "expected"), [
    (["out=1e3"], "1e3"), (["out=007.jsonl"], "007.jsonl"), (["out=yes"], "yes"), (["out='a b'"], "a b"),
    (["out=a,b"], "a,b"),
])  # fmt: skip
def test_texts_stay_as_they_are_typed(arguments: list[str], expected: str) -> None:
    from instructrec_rl.annotate.command import read_options

    assert read_options(arguments)[0].out == expected


@pytest.mark.parametrize("policy", ["", "[]", "{}", '{"env": 3}', '{"env": "a", "env": "b"}', "\x00", "[" * 999])
def test_a_damaged_policy_is_one_line(toys: Callable[..., Path], tmp_path: Path, policy: str) -> None:
    toys()
    path = tmp_path / "runs" / "a" / "policy" / "policy.json"
    path.parent.mkdir(parents=True)
    path.write_text(policy)
    with pytest.raises(InputError, match=r"policy\.json"):
        make_session(AnnotateConfig(run="runs/a"), [])
