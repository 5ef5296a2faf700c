"""Annotation without a browser: what is asked, what is saved, what the server refuses, and the terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrec_rl.annotate.command import AnnotateConfig, main, make_session, read_options
from instructrec_rl.annotate.guard import HEADERS, Bucket, is_loopback
from instructrec_rl.annotate.learner import FIRST, Belief
from instructrec_rl.annotate.limits import MAX_BODY_BYTES
from instructrec_rl.annotate.selection import MODES, Question, Tally, question_key
from instructrec_rl.annotate.session import Progress, Session, WriteError
from instructrec_rl.core import InputError
from instructrec_rl.core.command_line import run_command
from instructrec_rl.feedback.schema import make_record
from instructrec_rl.feedback.store import Store, append
from tests.run.test_run import environment

OUT = Path("rewards/feedback/toys.jsonl")


@pytest.fixture
def session(toys: Callable[..., Path]) -> Session:
    toys()
    return make_session(AnnotateConfig(overlap=0.0), ["env=toys"])


def client(session: Session, base_url: str = "http://127.0.0.1:8370", **options: Any) -> Any:
    from starlette.testclient import TestClient

    from instructrec_rl.annotate.server import make_app

    return TestClient(make_app(session, **options), base_url=base_url)


def lines(path: Path = OUT) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer(question: dict[str, Any], value: Any, **more: Any) -> dict[str, Any]:
    """The body that the page posts."""
    return {
        "id": f"answer-{time.monotonic_ns()}",
        "annotator": "ann",
        "env": question["env"],
        "mode": question["mode"],
        "instruction": question["instruction"],
        "responses": [response["text"] for response in question["responses"]],
        "value": value,
        **more,
    }


def ask(web: Any, mode: str = "rate", annotator: str = "ann", **more: Any) -> Any:
    reply = web.post("/api/next", json={"annotator": annotator, "mode": mode, **more})
    assert reply.status_code == 200, reply.text
    return reply.json()["question"]


@pytest.mark.parametrize(("mode", "value", "width"), [
    ("rate", 4, 1), ("thumbs", False, 1), ("compare", 1, 2), ("compare", -1, 2), ("rank", [2, 0, 3, 1], 4),
    ("correct", "a star painted red", 1),
])  # fmt: skip
def test_each_kind_of_answer_becomes_its_record(session: Session, mode: str, value: Any, width: int) -> None:
    web = client(session)
    question = ask(web, mode)
    texts = [response["text"] for response in question["responses"]]
    assert len(texts) == width
    body = answer(question, value, rationale="because", confidence=0.6)
    reply = web.post("/api/answer", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json() == {
        "saved": body["id"], "last": body["id"], "progress": {"you": 1, "all": 1, "target": 200}
    }  # fmt: skip
    (record,) = Store().records
    assert record.kind == MODES[mode][1]
    common = (record.id, record.annotator, record.env, record.rationale, record.confidence)
    assert common == (body["id"], "ann", "toys", "because", 0.6)
    assert record.ts.endswith("Z")
    told = json.loads(OUT.read_text())
    expected = {
        "rate": {"response": texts[0], "rating": 4.0},
        "thumbs": {"response": texts[0], "up": False},
        "correct": {"response": texts[0], "corrected": "a star painted red"},
        "rank": {"responses": [texts[i] for i in value] if mode == "rank" else []},
        "compare": {"chosen": texts[-1] if value == 1 else texts[0], "rejected": texts[0] if value == 1 else texts[-1]},
    }[mode]
    assert expected.items() <= told.items()
    assert told.get("tie", False) == (value == -1 and mode == "compare")


def test_the_same_answer_twice_is_one_line(session: Session) -> None:
    web = client(session)
    body = answer(ask(web), 3)
    replies = [web.post("/api/answer", json=body).json() for _ in range(3)]
    assert replies[0] == replies[1] == replies[2]
    assert len(lines()) == 1
    again = client(make_session(AnnotateConfig(), ["env=toys"]))  # as after a kill: the id is found in the file
    assert again.post("/api/answer", json=body).json() == replies[0]
    assert len(lines()) == 1
    other = again.post("/api/answer", json=body | {"value": 1})
    assert other.status_code == 422
    assert "is taken by another answer" in other.json()["error"]
    assert len(lines()) == 1


def test_the_same_answer_at_once_is_one_line(session: Session) -> None:
    web = client(session)
    body = answer(ask(web), 3)
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(web.post("/api/answer", json=body).status_code)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 8
    assert len(lines()) == 1


def test_undo_writes_a_line_and_asks_again(session: Session) -> None:
    web = client(session)
    first, second = answer(ask(web), 2), None
    web.post("/api/answer", json=first)
    second = answer(ask(web), 5)
    web.post("/api/answer", json=second)
    undo = {"id": "undo-the-second", "annotator": "ann", "target": second["id"]}
    for _ in range(2):  # sent again after a lost reply
        reply = web.post("/api/undo", json=undo).json()
        assert reply["question"]["instruction"] == second["instruction"]
        assert (reply["last"], reply["progress"]["you"]) == (first["id"], 1)
    assert [line["kind"] for line in lines()] == ["rating", "rating", "retract"]
    assert ask(web)["instruction"] == second["instruction"], "the question is open again"
    assert [record.id for record in Store().records] == [first["id"]]
    theirs = web.post("/api/undo", json={"id": "undo-of-others", "annotator": "bob", "target": first["id"]})
    assert theirs.status_code == 422
    assert 'bob has no answer with the id "' in theirs.json()["error"]


def test_the_disk_refuses(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    web = client(session)
    body = answer(ask(web), 3)
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if b"answer-" in bytes(data):
            raise OSError(28, "No space left on device")
        return write(handle, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        refused = web.post("/api/answer", json=body)
    assert refused.status_code == 503, "the page keeps the answer and sends it again"
    assert "no space left on device" in refused.json()["error"]
    assert web.post("/api/answer", json=body).status_code == 200
    assert len(lines()) == 1
    with pytest.raises(InputError, match="no answer with the id"):
        session.undo("undo-nothing", "ann", "nothing")
    assert issubclass(WriteError, InputError)


@pytest.mark.parametrize(("change", "reason"), [
    ({"value": 6}, "is no answer to a question of the kind rate"),
    ({"value": True}, "is no answer"),
    ({"value": None}, "value"),
    ({"value": "4"}, "is no answer"),
    ({"env": "pizza_rec"}, "this page was opened for pizza_rec; here toys is annotated"),
    ({"instruction": "sing"}, "instruction: it is not one of toys"),
    ({"mode": "rat"}, '"rat" is not a kind of question. Did you mean "rate"?'),
    ({"responses": ["a", "b"]}, "2 of them do not make a question of the kind rate"),
    ({"responses": []}, "responses"),
    ({"mode": "correct", "value": "a dragon"}, "it names no item of the catalog"),
    ({"annotator": "  "}, "annotator"),
    ({"annotator": "x" * 65}, "annotator"),
    ({"id": "../x"}, "id"),
    ({"confidence": 2.0}, "confidence"),
    ({"rationale": "x" * 2001}, "rationale"),
    ({"more": 1}, "more"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(session: Session, change: dict[str, Any], reason: str) -> None:
    web = client(session)
    reply = web.post("/api/answer", json=answer(ask(web), 3) | change)
    assert reply.status_code == 422
    assert reason in reply.json()["error"]
    assert "\n" not in reply.json()["error"]
    assert not OUT.exists()


def test_headers_and_files(session: Session) -> None:
    web = client(session)
    for path in ("/", "/page.css", "/page.js", "/answers.js", "/outbox.js", "/icon.svg", "/nothing", "/api/next"):
        reply = web.get(path)
        assert reply.status_code == {"/nothing": 404, "/api/next": 405}.get(path, 200)
        for name, value in HEADERS.items():
            assert reply.headers[name] == value
    page = web.get("/").text
    assert "style=" not in page
    assert "http" not in page.replace("http-equiv", "")
    for name in ("page.js", "answers.js", "outbox.js"):
        script = web.get(f"/{name}").text
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert sink not in script
    assert web.get("/docs").status_code == web.get("/openapi.json").status_code == 404


def test_other_sites_and_other_names_are_refused(session: Session) -> None:
    web, asks = client(session), {"annotator": "ann", "mode": "rate"}
    for host in ("evil.example", "evil.example:8370", "127.0.0.1.evil.example", "", "[::2]:8370", "2130706433"):
        assert web.get("/", headers={"Host": host}).status_code == 403, host
    for host in ("localhost:8370", "127.0.0.1", "[::1]:8370", "127.0.0.2:1"):
        assert web.get("/", headers={"Host": host}).status_code == 200, host
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert web.post("/api/next", json=asks, headers=headers).status_code == 403, headers
    own = {"Origin": "http://127.0.0.1:8370", "Sec-Fetch-Site": "same-origin"}
    assert web.post("/api/next", json=asks, headers=own).status_code == 200
    plain = {"Content-Type": "text/plain"}  # what a form of another site can send without asking
    assert web.post("/api/next", content=json.dumps(asks), headers=plain).status_code == 415
    assert web.put("/api/next", json=asks).status_code == 405
    assert "access-control-allow-origin" not in web.options("/api/next").headers


def test_a_token_is_needed_beyond_loopback(session: Session) -> None:
    remote: dict[str, Any] = {"base_url": "http://192.168.1.5:8370", "token": "s3cret-token", "loopback": False}
    asks, web = {"annotator": "ann", "mode": "rate"}, client(session, **remote)
    for path in ("/", "/page.js", "/?token=", "/?token=wrong"):
        refused = web.get(path)
        assert refused.status_code == 401, path
        assert "Open the link that the server printed" in refused.json()["error"]
    assert web.post("/api/next", json=asks).status_code == 401
    assert web.post("/api/next?token=s3cret-token", json=asks).status_code == 401, "only the page's address carries it"
    assert web.post("/api/next", json=asks, headers={"Authorization": "Bearer s3cret-token"}).status_code == 200
    assert web.post("/api/next", json=asks, headers={"Authorization": "Bearer s3cret-tokenx"}).status_code == 401
    opened = web.get("/?token=s3cret-token", follow_redirects=False)
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert web.get("/").status_code == 200, "the cookie is enough from now on"
    assert web.post("/api/next", json=asks).status_code == 200
    fresh = client(session, **remote)
    fresh.cookies.set(next(iter(web.cookies)), "wrong")
    assert fresh.get("/").status_code == 401
    assert fresh.get("/", headers={"Cookie": "a=\x01;;;=,"}).status_code == 401


def test_long_bodies_are_refused(session: Session) -> None:
    web = client(session)
    json_type = {"Content-Type": "application/json"}
    long = b'"' + b"x" * MAX_BODY_BYTES + b'"'
    assert web.post("/api/answer", content=long, headers=json_type).status_code == 413

    def chunks() -> Iterator[bytes]:  # without a Content-Length
        for _ in range(20):
            yield b"x" * (MAX_BODY_BYTES // 10)

    assert web.post("/api/answer", content=chunks(), headers=json_type).status_code == 413
    for broken in (b"", b"{", b"[]", b"\xff", b"[" * 10_000, b'{"id": NaN}'):
        reply = web.post("/api/answer", content=broken, headers=json_type)
        assert reply.status_code in (400, 422), broken
        assert "error" in reply.json()


def test_too_many_requests_must_wait(session: Session) -> None:
    now = [0.0]
    web = client(session, bucket=Bucket(rate=2.0, burst=5.0, clock=lambda: now[0]))
    codes = [web.get("/page.css").status_code for _ in range(7)]
    assert codes == [200] * 5 + [429] * 2
    assert web.get("/page.css").headers["retry-after"] == "1"
    now[0] = 1.0
    assert [web.get("/page.css").status_code for _ in range(3)] == [200, 200, 429]


def test_the_bucket_forgets_the_quietest_address() -> None:
    bucket = Bucket(rate=1.0, burst=1.0, clock=lambda: 0.0)
    assert bucket.wait_s("a") == 0
    assert bucket.wait_s("a") == 1
    for i in range(5000):
        bucket.wait_s(str(i))
    assert len(bucket.held) == 4096
    assert bucket.wait_s("a") == 0


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "example.com", "localhost.example.com", "")))


def test_every_question_is_new_until_nothing_is_left(session: Session) -> None:
    pool, seen = session.selector.pool, set()
    pairs = pool.candidates.size
    for i in range(pairs):
        question = session.next("ann", "rate")
        assert question is not None
        assert question.key not in seen
        seen.add(question.key)
        session.save(f"answer-{i:08d}", "ann", question, 1 + i % 5)
    assert session.next("ann", "rate") is None
    assert session.next("ann", "thumbs") is not None, "another kind of question has its own"
    assert session.next("bob", "rate") is not None, "and so has another annotator"


def test_first_every_instruction_once(session: Session) -> None:
    asked = set()
    for i in range(FIRST):
        question = session.next("ann", "rate")
        assert question is not None
        asked.add(question.instruction)
        session.save(f"answer-{i:08d}", "ann", question, 3)
    assert len(asked) == FIRST


def test_a_line_that_names_an_item_counts_for_it(session: Session) -> None:
    pool = session.selector.pool
    for i, env in enumerate(("toys", "", "other")):
        for place, item in enumerate(session.spec.items):
            line = {"instruction": pool.instructions[i], "response": item.name, "annotator": "ann", "rating": 2}
            append(OUT, line | {"env": env, "id": f"line-{i}-{place}"})
    left = pool.candidates.size - 2 * pool.candidates.shape[1]  # what was said of another environment does not count
    for i in range(left):
        question = session.next("ann", "rate")
        assert question is not None
        assert question.instruction not in pool.instructions[:2]
        session.save(f"answer-{i:08d}", "ann", question, 3)
    assert session.next("ann", "rate") is None


def test_the_process_may_end_while_something_is_learned(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys()
    keys = "\n".join(["ann", *(str(1 + i % 5) for i in range(FIRST)), "q"]) + "\n"
    command = [sys.executable, "-m", "instructrec_rl.annotate", "env=toys", "overlap=0", "--tui"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), input=keys, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines()) == FIRST


def test_what_is_taken_back_by_hand_no_longer_counts(session: Session) -> None:
    pool = session.selector.pool
    line = {"instruction": pool.instructions[0], "response": pool.responses[0], "annotator": "ann", "rating": 2}
    for env in ("", "toys"):
        append(OUT, line | {"env": env, "id": f"line-{env}"})
    assert session.progress("ann")[0].all == 2
    for env in ("", "toys"):
        append(OUT, {"target": f"line-{env}", "annotator": "ann"})
        assert session.next("ann", "rate") is not None
    assert session.progress("ann") == (Progress(0, 0, 200), None)


def test_skipped_ones_do_not_come_back(session: Session) -> None:
    keys: list[str] = []
    for _ in range(30):
        question = session.next("ann", "compare", skip=keys[-1] if keys else None)
        assert question is not None
        keys.append(question.key)
    assert len(set(keys)) == 30
    again = session.next("ann", "compare")
    assert again is not None
    assert again.key == keys[-1], "the open question stays"


def test_two_annotators_get_different_questions(session: Session) -> None:
    first = {session.next(name, "rate").key for name in ("ann", "bob", "cy")}  # type: ignore[union-attr]
    assert len(first) == 3


def test_overlap_asks_what_others_answered_and_disagreed_on(toys: Callable[..., Path]) -> None:
    toys()
    session = make_session(AnnotateConfig(overlap=1.0), ["env=toys"])
    questions = []
    for i in range(3):
        question = session.next("ann", "rate")
        assert question is not None
        session.save(f"answer-{i:08d}", "ann", question, 5)
        questions.append(question)
    session.save("answer-bob-0001", "bob", questions[1], 1)
    again = session.next("cy", "rate")
    assert again == questions[1], "where ann and bob are apart"
    session.save("answer-cy-00001", "cy", again, 1)
    rest = set()
    for i in range(2):
        question = session.next("cy", "rate")
        assert question is not None
        rest.add(question.key)
        session.save(f"answer-cy-1000{i}", "cy", question, 1)
    assert rest == {questions[0].key, questions[2].key}


def test_a_share_overlaps(toys: Callable[..., Path]) -> None:
    toys()
    session = make_session(AnnotateConfig(overlap=0.3), ["env=toys"])
    for i in range(100):
        for name in ("ann", "bob"):
            question = session.next(name, "rate")
            if question is not None:
                session.save(f"answer-{name}-{i:04d}", name, question, 3)
    store = Store()
    tally = Tally()
    for record in store.records:
        tally.add(record)
    both = sum(len(names) == 2 for names in tally.annotators.values())
    assert 0.1 < both / len(tally.annotators) < 0.9


def test_the_learned_reward_decides_where_it_is_unsure(session: Session) -> None:
    pool = session.selector.pool

    gain = np.full(pool.candidates.shape, 0.01)
    gain[7, 2] = 0.4
    session.learner.belief = Belief(np.full(gain.shape, 0.5), gain)
    assert session.next("ann", "rate") == Question(
        "rate", pool.instructions[7], (pool.responses[pool.candidates[7, 2]],)
    )


def test_the_learned_reward_is_fitted_beside(session: Session) -> None:
    def right(question: Question) -> int:
        item = session.item(question.responses[0])
        assert item is not None
        return 5 if item.attributes["colour"] in question.instruction else 1

    for i in range(FIRST + 1):
        assert session.learner.belief is None
        question = session.next("ann", "rate")
        assert question is not None
        session.save(f"answer-{i:08d}", "ann", question, right(question))
    session.learner.wait()
    belief = session.learner.belief
    assert belief is not None
    assert belief.mean.shape == session.selector.pool.candidates.shape
    assert ((belief.mean >= 0) & (belief.mean <= 1)).all()
    assert ((belief.gain > 0) & (belief.gain <= 1)).all()
    question = session.next("bob", "correct")
    assert question is not None
    row = session.selector.pool.instructions.index(question.instruction)
    places = [session.selector.pool.responses[place] for place in session.selector.pool.candidates[row]]
    assert belief.mean[row, places.index(question.responses[0])] < np.median(belief.mean)


def test_the_gain_is_the_fall_of_the_mean_variance(session: Session) -> None:
    from instructrec_rl.encoders.loading import load_encoder
    from instructrec_rl.feedback.learned.judgements import collect
    from instructrec_rl.feedback.learned.model import learn

    pool = session.selector.pool
    pairs = [(pool.instructions[i], pool.responses[i % 12]) for i in range(40)]
    records = [
        make_record({"instruction": asked, "response": answer, "rating": 1 + i % 5, "annotator": f"a{i % 2}"})
        for i, (asked, answer) in enumerate(pairs)
    ]
    learned = learn(collect(records), load_encoder(), interaction="never")
    asked, answers = [list(texts) for texts in zip(*pairs)]
    x, _ = learned.features(asked, answers)
    x = (x * learned.ridge.scales).astype(np.float64)
    covariance, noise = learned.ridge.covariance, learned.ridge.noise
    before = np.einsum("bf,fg,bg->b", x, covariance, x).mean()
    fall = []
    for row in x:  # the posterior after one more rating, by inverting the precision
        after = np.linalg.inv(np.linalg.inv(covariance) + np.outer(row, row) / noise)
        fall.append(before - np.einsum("bf,fg,bg->b", x, after, x).mean())
    np.testing.assert_allclose(learned.gain(asked, answers), np.array(fall) / max(fall), rtol=1e-3)


def test_questions_come_also_where_nothing_can_be_learned(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(FIRST):
        same = {"chosen": "red circle", "rejected": "a circle painted red"}  # two names of one item: it tells nothing
        append(OUT, {"instruction": f"number {i}", **same})
    assert session.next("ann", "rate") is not None
    session.learner.wait()
    assert session.learner.belief is None
    assert "no learned reward to choose questions by: " in caplog.text
    assert session.next("bob", "rate") is not None


def test_candidates_hold_the_policys_answers(toys: Callable[..., Path], tmp_path: Path) -> None:
    from instructrec_rl.run import command as run

    toys()
    options = ["env=toys", "algo=dqn", "algo.interactions=512", "baselines=none", "out=runs/a"]
    assert run_command(run.main, options) == 0
    session = make_session(AnnotateConfig(run="runs/a"), [])
    from instructrec_rl import load_policy

    pool = session.selector.pool
    answers = load_policy("runs/a").act(pool.instructions)
    for row, answered in enumerate(answers):
        assert pool.responses[pool.candidates[row, 0]] == answered
        assert pool.from_policy[row, 0]
        assert len(set(pool.candidates[row])) == 8
    with pytest.raises(InputError, match="it was trained on toys, not on pizza_rec"):
        make_session(AnnotateConfig(run="runs/a"), ["env=pizza_rec"])
    with pytest.raises(InputError, match="no policy here"):
        make_session(AnnotateConfig(run="runs/none"), [])


def test_a_question_is_chosen_in_200_ms_among_20_000_answers(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.learner, "see", lambda records: None)  # its fit runs beside; it is not what is timed
    pool = session.selector.pool
    asked = pool.instructions
    many = [
        {"id": f"many-{i}", "annotator": f"a{i % 50}", "env": "toys", "instruction": asked[i % len(asked)],
         "response": pool.responses[i % 12] if i % 2 else f"text {i}", "rating": 1 + i % 5}
        for i in range(20_000)
    ]  # fmt: skip
    OUT.parent.mkdir(parents=True)
    OUT.write_text("".join(json.dumps(record) + "\n" for record in many))
    session.next("ann", "rate")  # reads the file
    took = []
    for i in range(5):
        more = {"annotator": "z", "env": "toys", "instruction": asked[i], "response": "x", "rating": 2}
        append(OUT, more)
        start = time.thread_time()
        assert session.next(f"b{i}", "rate") is not None
        took.append(time.thread_time() - start)
    assert min(took) < 0.2, took


def test_keys_do_not_depend_on_the_order() -> None:
    assert question_key("rank", "x", ["a", "b"]) == question_key("rank", "x", ["b", "a"])
    assert question_key("rank", "x", ["a", "b"]) != question_key("compare", "x", ["a", "b"])
    record = make_record({"instruction": "x", "chosen": "b", "rejected": "a"})
    tally = Tally()
    tally.add(record)
    assert list(tally.annotators) == [question_key("compare", "x", ["a", "b"])]


@pytest.mark.parametrize(("arguments", "reason"), [
    (["env=toy"], 'there is no such environment. Did you mean "toys"?'),
    (["env=toys", "prot=1"], 'unknown group or option "prot"'),
    (["env=toys", "port=99999"], "port=99999: expected at least 0 and at most 65535"),
    (["env=toys", "port=x"], "port=x: expected an integer"),
    (["env=toys", "overlap=2"], "overlap=2: expected at least 0 and at most 1"),
    (["env=toys", "split=tst"], 'has no split "tst". Did you mean "test"?'),
    (["env=toys", "out=rewards/feedback/x.txt"], "x.txt: expected a name that ends in .jsonl"),
    (["env=toys", "out=/tmp/x.jsonl"], "/tmp/x.jsonl: feedback is read from "),
    (["env=toys", "host=no.such.host.invalid"], "host=no.such.host.invalid port=8370: cannot listen there"),
    (["env=toys", "--tiu"], 'unknown flag "--tiu"'),
])  # fmt: skip
def test_wrong_options_are_one_line_and_exit_2(
    toys: Callable[..., Path], arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    toys()
    port = [] if any(a.startswith(("port=", "host=")) for a in arguments) else ["port=0"]
    assert run_command(main, [*arguments, *port]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not OUT.exists()


def test_options_in_the_grammar_of_a_run() -> None:
    config, rest = read_options(["env=toys", "overlap=1", "run=runs/a", "target=5", "env.path=x", "out=3"])
    assert (config.overlap, config.run, config.target, config.out) == (1.0, "runs/a", 5, "3")
    assert rest == ["env=toys", "env.path=x"]


def test_help_and_the_missing_extra(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "instructrec_rl.annotate"]
    helped = subprocess.run([*command, "--help"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert helped.returncode == 0
    assert "overlap=0.1" in helped.stdout
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "fastapi.py").write_text("raise ModuleNotFoundError('No module named fastapi', name='fastapi')\n")
    path = f"{hidden}{os.pathsep}{environment()['PYTHONPATH']}"
    missing = subprocess.run([*command, "env=pizza_rec"], cwd=tmp_path, env=environment(PYTHONPATH=path),
                             capture_output=True, text=True)  # fmt: skip
    assert missing.returncode == 2
    assert missing.stderr == (
        "annotate needs the extra: pip install 'instructrec-rl[annotate]' (or use --tui, which needs nothing more)\n"
    )


def test_the_terminal(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys()
    keys = "ann\n4\n9\ns\nc\n2\n0\nu\nr\n1\nq\n"
    command = [sys.executable, "-m", "instructrec_rl.annotate", "env=toys", "overlap=0", "--tui"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), input=keys, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line["kind"] for line in lines()] == ["rating", "preference", "preference", "retract", "rating"]
    assert lines()[2]["tie"]
    assert lines()[3]["target"] == lines()[2]["id"]
    assert [line.get("annotator") for line in lines()] == ["ann"] * 5
    assert "Expected 1 to 5" in done.stdout
    assert "saved (1 by you of 200, 1 by all)" in done.stdout
    assert "colour" in done.stdout


def test_the_command_serves_and_stops_at_ctrl_c(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys()
    running = subprocess.Popen([sys.executable, "-m", "instructrec_rl.annotate", "env=toys", "port=0", "host=0.0.0.0"],
                               cwd=tmp_path, env=environment(INSTRUCTREC_ANNOTATE_TOKEN="abc.DEF_123~"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert running.stdout is not None
        told = [next(running.stdout) for _ in range(3)]
        assert told[0] == "annotate toys: answers go to rewards/feedback/toys.jsonl\n"
        assert "networks that you trust" in told[1]
        assert "/?token=abc.DEF_123~   (Ctrl-C stops)\n" in told[2]
    finally:
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (0, "", "")
