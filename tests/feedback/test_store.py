"""The format of feedback and its store: completion, what counts, hot reload, several writers, and hostile files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructrec_rl.core import InputError
from instructrec_rl.core.locks import locked
from instructrec_rl.feedback import folders
from instructrec_rl.feedback.schema import KINDS, dump, json_schema, make_record, parse_line
from instructrec_rl.feedback.store import Store, append
from tests.run.test_run import ROOT

MINIMAL: dict[str, dict[str, Any]] = {
    "rating": {"instruction": "a pizza", "response": "Cobalt Anchor", "rating": 4},
    "thumbs": {"instruction": "a pizza", "response": "x", "up": True},
    "preference": {"instruction": "a pizza", "chosen": "x", "rejected": "y"},
    "ranking": {"instruction": "a pizza", "responses": ["x", "y", "z"]},
    "correction": {"instruction": "a pizza", "response": "x", "corrected": "y"},
    "retract": {"target": "some-id"},
}


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def rating(value: float = 4, **more: Any) -> dict[str, Any]:
    return {"instruction": "a pizza", "response": "x", "rating": value, **more}


@pytest.mark.parametrize("kind", MINIMAL)
def test_a_minimal_line_is_completed(kind: str) -> None:
    record = parse_line(json.dumps(MINIMAL[kind]))
    assert type(record) is KINDS[kind]
    assert record.kind == kind
    assert record.id == parse_line(json.dumps(MINIMAL[kind])).id
    assert (record.annotator, record.env) == ("anonymous", "")
    assert make_record(dump(record)) == record


def test_a_rating_is_a_share_of_its_scale() -> None:
    assert make_record(rating(4)).share == 0.75
    assert make_record(rating(30, scale=[0, 100])).share == 0.3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (rating(9), "rating: 9 is outside the scale 1 to 5"),
        (rating(4) | {"raitng": 1}, '"raitng" is not a key of a rating. Did you mean "rating"?'),
        ({"instruction": "a", "rating": 4}, 'a rating needs "response"'),
        ({"instruction": "a", "response": "b", "ratng": 4}, "cannot tell the kind"),
        (rating(4, kind="ratting"), "kind: 'ratting' is not a kind. Did you mean \"rating\"?"),
        (rating("4"), "rating: expected a valid number, got '4'"),
        (rating(True), "rating: expected a valid number, got True"),
        (rating(4, instruction=" "), "instruction: expected text that is not blank"),
        (rating(4, ts="yesterday"), "ts: 'yesterday' is not an ISO 8601 time"),
        (rating(4, scale=[5, 1]), "scale: expected [lowest, highest]"),
        (rating(4, v=2), "v: this line has version 2 of the format; this reads 1"),
        (rating(4, confidence=2), "confidence: expected less than or equal to 1"),
        ({"instruction": "a", "chosen": "x", "rejected": "x"}, "rejected: is the same text as chosen"),
        ({"instruction": "a", "responses": ["x"]}, "responses: expected at least 2 items"),
        ([1], "expected a JSON object"),
    ],
)
def test_what_is_wrong_is_said(line: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        parse_line(json.dumps(line))
    assert said in error.value.reason


def test_the_published_schema_is_the_one_in_force() -> None:
    page = json.loads((ROOT / "docs" / "feedback.schema.json").read_text())
    assert page == json_schema()


def test_bad_lines_are_reported_and_stop_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "er" / "a.jsonl", rating(), "{", "", rating(7), rating(3, response="y"))
    store = Store([tmp_path])
    assert len(store.records) == 2
    assert [(p.path, p.line) for p in store.problems] == [(path, 2), (path, 4)]
    assert str(store.problems[1]) == f"{path}:4: rating: 7 is outside the scale 1 to 5"


def test_a_half_written_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = json.dumps(rating()).encode()
    path.write_bytes(line + b"\n" + line[:20])
    store = Store([tmp_path])
    assert (len(store.records), store.problems, store.waiting) == (1, [], [path])
    with path.open("ab") as stream:
        stream.write(line[20:].replace(b'"x"', b'"y"') + b"\n")
    assert store.refresh()
    assert (len(store.records), store.problems, store.waiting) == (2, [], [])


def test_append_ends_a_line_that_was_left_open(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(rating()))
    append(path, rating(2, response="y"))
    assert len(Store([tmp_path]).records) == 2


def test_the_newest_of_annotator_item_and_kind_counts(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl",
        rating(5, ts="2025-01-02T00:00:00Z", annotator="ann"),
        rating(1, ts="2025-01-01T00:00:00+00:00", annotator="ann"),
        rating(2, ts="2025-01-01T00:00:00Z", annotator="ben"),
        MINIMAL["thumbs"] | {"annotator": "ann", "ts": "2024-01-01"},
    )
    found = {(r.annotator, r.kind): r for r in Store([tmp_path]).records}
    assert len(found) == 3
    assert found["ann", "rating"].rating == 5


def test_lines_without_a_time_follow_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", rating(1), rating(2), rating(3))
    assert [r.rating for r in Store([tmp_path]).records] == [3]


def test_retract_and_supersedes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first = append(path, rating(1))
    second = append(path, rating(2))
    store = Store([tmp_path])
    assert [r.rating for r in store.records] == [2]
    undo = append(path, {"target": second})
    assert store.refresh()
    assert [r.rating for r in store.records] == [1], "undo brings back what was there before"
    append(path, {"target": undo})
    store.refresh()
    assert [r.rating for r in store.records] == [2], "an undo can be undone"
    append(path, rating(4, response="another", supersedes=second))
    store.refresh()
    assert sorted(r.rating for r in store.records) == [1, 4]
    append(path, {"target": first})
    store.refresh()
    assert [r.rating for r in store.records] == [4]
    assert store.version == Store([tmp_path]).version


def test_duplicates_count_once_and_a_taken_id_is_a_problem(tmp_path: Path) -> None:
    line = rating(4, id="one")
    write(tmp_path / "a.jsonl", line, line, rating(5, id="one"))
    write(tmp_path / "b.jsonl", line)
    store = Store([tmp_path])
    assert [r.rating for r in store.records] == [4]
    assert store.num_duplicates == 3
    assert [p.line for p in store.problems] == [3]
    assert 'the id "one" is taken by another record' in store.problems[0].reason


def test_an_edited_a_replaced_and_a_removed_file_are_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rating(4), rating(2, response="y"))
    store = Store([tmp_path])
    version = store.version
    path.write_text(path.read_text().replace('"rating": 4', '"rating": 5'))  # as long as before
    os.utime(path, ns=(1, 1))
    assert store.refresh()
    assert sorted(r.rating for r in store.records) == [2, 5]
    path.unlink()
    assert store.refresh()
    assert (store.records, store.version) == ([], "")
    write(tmp_path / "b.jsonl", rating(4), rating(2, response="y"))
    assert store.refresh()
    assert store.version == version, "the version is of the content, wherever it lies"


def test_only_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")  # opening it would wait for ever
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    write(tmp_path / ".hidden.jsonl", rating())
    store = Store([tmp_path, tmp_path / "absent"])
    assert store.records == []
    assert [str(problem) for problem in store.problems] == [
        f"{tmp_path}/gone.jsonl: cannot read: no such file or directory",
        f"{tmp_path}/pipe.jsonl: cannot read: not a regular file",
    ]


def test_links_are_followed_and_loops_of_them_end(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "deep" / "a.jsonl", rating())
    write(tmp_path / "one" / "b.jsonl", rating(3, response="y"))
    rewards = tmp_path / "rewards"
    rewards.mkdir()
    (rewards / "feedback").symlink_to(tmp_path / "elsewhere")
    (rewards / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (rewards / "up").symlink_to(tmp_path)
    (rewards / "self").symlink_to(rewards / "self")
    (tmp_path / "elsewhere" / "back").symlink_to(rewards)
    store = Store([rewards])
    assert (len(store.records), len(store.paths), store.num_duplicates) == (2, 2, 0)
    assert [str(problem) for problem in store.problems] == [
        f"{rewards}/self: cannot read: too many levels of symbolic links"
    ]
    write(tmp_path / "elsewhere" / "deep" / "a.jsonl", rating(), rating(2, response="z"))
    assert store.refresh()
    assert len(store.records) == 3
    linked = tmp_path / "linked"
    linked.symlink_to(rewards)
    assert len(Store([linked]).records) == 3


def test_a_folder_that_cannot_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", rating())
    write(tmp_path / "closed" / "b.jsonl", rating(response="y"))
    real = os.scandir

    def refuse(folder: str) -> Any:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # chmod stops no root
    store = Store([tmp_path])
    assert [str(problem) for problem in store.problems] == [f"{tmp_path}/closed: cannot read: permission denied"]
    assert len(store.records) == 1
    monkeypatch.undo()
    assert store.refresh()
    assert (len(store.records), store.problems) == (2, [])


def test_a_link_that_leads_everywhere_ends_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (tmp_path / "world" / str(number)).mkdir(parents=True)
    monkeypatch.setattr(folders, "MOST_FOLDERS", 10)
    (problem,) = Store([tmp_path]).problems
    assert problem.reason == "more than 10 folders; the others were not read"


GOOD = '{"instruction": "a", "response": "b", "rating": 4'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (GOOD + ', "rating": 5}', 'broken JSON: the key "rating" is there twice'),
        (GOOD + ', "rating" :5}', 'broken JSON: the key "rating" is there twice'),
        (GOOD + ', "r\\u0061ting": 1}', 'broken JSON: the key "rating" is there twice'),
        (GOOD + ', "annotator": "ann", "annotator": "ben"}', 'broken JSON: the key "annotator" is there twice'),
        (GOOD + ', "confidence": 1e400}', "confidence: expected less than or equal to 1"),
        (GOOD + ', "scale": [1, 1e400]}', "scale: expected [lowest, highest]"),
        (GOOD + ', "scale": [-1e999, 5]}', "scale: expected [lowest, highest]"),
        (GOOD + ', "rationale": "\\ud83d"}', "broken JSON: half of a surrogate pair"),
        (GOOD + ', "rationale": "\\udc00 \\ud800"}', "broken JSON: half of a surrogate pair"),
        (GOOD + "\ud800}", "half of a surrogate pair"),
        (GOOD + ', "confidence": ' + "9" * 5000 + "}", "a number of more than 308 digits"),
        (GOOD[:-1] + "9" * 400 + "}", "rating: expected a valid number"),
        (GOOD + ', "scale": ' + "[" * 100_000 + "]" * 100_000 + "}", "broken JSON: nested more than 64 deep"),
        (GOOD + ', "rating": NaN}', "broken JSON: NaN is not a JSON number"),
        (GOOD + ', "v": true}', "v: this line has version True of the format"),
    ],
)
def test_what_json_readers_disagree_on_is_a_bad_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        parse_line(line)
    assert said in error.value.reason
    assert len(error.value.reason) < 250
    path = tmp_path / "a.jsonl"
    path.write_bytes(line.encode(errors="surrogatepass") + b"\n" + json.dumps(rating()).encode() + b"\n")
    store = Store([tmp_path])
    assert ([problem.line for problem in store.problems], len(store.records)) == ([1], 1)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='":, {}\\\\n', max_size=30), st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_the_screen_for_double_keys_changes_no_good_line(key_like: str, text: str) -> None:
    record = rating(response=key_like, rationale=text + key_like)
    for line in (json.dumps(record), json.dumps(record, ensure_ascii=False, indent=1), json.dumps(record) + "  "):
        assert parse_line(line) == make_record(record)


def test_the_widest_and_the_narrowest_scale_have_shares() -> None:
    assert make_record(rating(1e308, scale=[-1e308, 1e308])).share == 1.0
    assert make_record(rating(0.0, scale=[-1e308, 1e308])).share == 0.5
    assert make_record(rating(-1.7e308, scale=[-1.7e308, 1.7e308])).share == 0.0
    assert make_record(rating(5e-324, scale=[0, 5e-324])).share == 1.0


def test_who_holds_the_lock_is_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append(path, rating())
    before = path.read_bytes()
    with locked(path):
        with pytest.raises(InputError, match=r"a\.jsonl: is in use by another process, waited for 0.1 s"):
            append(path, rating(2, response="y"), wait_s=0.05)
        assert path.read_bytes() == before
        waiting = threading.Thread(target=append, args=(path, rating(2, response="y")))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    waiting.join(10)
    assert len(Store([tmp_path]).records) == 2


def test_a_refused_record_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append(path, rating())
    before = path.read_bytes()
    for bad in (rating(9), rating(4, response="\ud800"), rating(4, response="x" * 2_000_000)):
        with pytest.raises(InputError):
            append(path, bad)
    assert path.read_bytes() == before


operations = st.lists(
    st.tuples(st.sampled_from(["rate", "retract", "supersede"]), st.integers(0, 3), st.integers(0, 9)), max_size=25
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations, st.integers(1, 4))
def test_reading_as_it_grows_equals_reading_at_once(
    tmp_path_factory: pytest.TempPathFactory, steps: Any, every: int
) -> None:
    folder = tmp_path_factory.mktemp("grow")
    store, ids = Store([folder]), ["none"]
    for number, (kind, item, which) in enumerate(steps):
        target, id = ids[which % len(ids)], f"id{number}"
        record = rating(1 + which % 5, response=str(item), annotator=f"a{which % 2}")
        if kind == "retract":
            record = {"target": target}
        elif kind == "supersede":
            record["supersedes"] = target
        append(folder / f"{which % 2}.jsonl", {"id": id, **record})
        ids.append(id)
        if number % every == 0:
            store.refresh()
    store.refresh()
    fresh = Store([folder])
    assert store.version == fresh.version
    assert {r.id: r for r in store.records} == {r.id: r for r in fresh.records}


WRITER = """
import sys
from instructrec_rl.feedback.store import append
for number in range(int(sys.argv[3])):
    record = {"instruction": "q" * 50, "response": f"r{number}", "rating": 3, "annotator": sys.argv[2]}
    print(append(sys.argv[1], record), flush=True)
"""


@pytest.mark.parametrize("lines", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_four_writers_and_a_kill_lose_and_break_nothing(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "rewards" / "all.jsonl"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"w{k}", str(lines)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for k in range(4)
    ]
    acknowledged = []
    victim = writers[0].stdout
    assert victim is not None
    for _ in range(lines // 2):
        acknowledged.append(victim.readline().strip())
    writers[0].send_signal(signal.SIGKILL)
    for writer in writers:
        acknowledged += [line for line in writer.communicate()[0].split("\n") if len(line) == 32]
    assert [w.returncode for w in writers] == [-signal.SIGKILL, 0, 0, 0]
    held = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert path.read_bytes().endswith(b"\n")
    assert len(set(held)) == len(held)
    assert set(acknowledged) <= set(held)
    assert len(acknowledged) >= 3 * lines + lines // 2
    store = Store([tmp_path])
    assert (store.problems, len(store.records)) == ([], len(held))


def hostile(rng: random.Random) -> bytes:
    """A file of good lines to which something was done."""
    good = [json.dumps(rng.choice(list(MINIMAL.values()))).encode() for _ in range(rng.randint(0, 8))]
    data = b"\n".join(good) + b"\n"
    junk: list[bytes] = [
        b'{"instruction": "a", "response": "b", "rating": ' + b"9" * rng.choice([5, 400, 5000]) + b"}\n",
        b"[" * 50_000 + b"\n",
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"\n",
        b"\x00" * rng.randint(1, 3000) + b"\n",
        b'{"instruction": "\\u0000", "response": "\\ud83d", "rating": 1e999}\n',
        "{'instruction': 1}\nnull\ntrue\n[]\n\"x\"\n-0\nNaN\n".encode("utf-16"),
        '{"instruction": "été", "response": "b", "rating": 4}\n'.encode("latin-1"),
        bytes(rng.randrange(256) for _ in range(rng.randint(1, 400))),
        b"\xef\xbb\xbf" + data,
        data.replace(b'"rating"', rng.choice([b'"rating": {}, "x"', b"rating", b'"\\u0072ating"'])),
        data.replace(b":", rng.choice([b"=", b": null,", b": [],"])),
        b'{"kind": ' + rng.choice([b"7", b'"rating"', b"{}", b'["rating"]', b"null", b'"retract"']) + b"}\n",
        data.replace(b"\n", b"\r\n"),
        data.replace(b"\n", b"\r"),
    ]
    if rng.random() < 0.03:
        junk.append(b'{"instruction": "' + b"x" * 10_000_000 + b'", "response": "b", "rating": 4}\n')
        return data + junk[-1] + data
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        data = data[:place] + rng.choice(junk) + data[place:]
    if rng.random() < 0.5:
        data = data[: rng.randrange(len(data) + 1)]
    if rng.random() < 0.3 and data:
        flipped = bytearray(data)
        for _ in range(5):
            flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        data = bytes(flipped)
    return data


def test_a_thousand_hostile_files_give_reports_and_no_traceback(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "fuzzed.jsonl"
    num_problems = num_records = 0
    for number in range(1000):
        path.write_bytes(hostile(rng))
        os.utime(path, ns=(number, number))
        store = Store([tmp_path])
        lines = path.read_bytes().count(b"\n")
        assert all(0 < problem.line <= lines and problem.reason for problem in store.problems)
        assert all("\n" not in str(problem) and len(str(problem)) < 1000 for problem in store.problems)
        num_problems += len(store.problems)
        num_records += len(store.records)
    assert num_problems > 1000
    assert num_records > 500


def big_file(path: Path, lines: int) -> None:
    with path.open("w") as stream:
        for i in range(lines):
            more = {"id": f"id{i}", "ts": "2025-01-01T00:00:00Z", "annotator": f"a{i % 8}", "env": "pizza_rec"}
            texts = {"instruction": f"I want a pizza with mushrooms, number {i // 8}", "response": "tuna, rocket " * 6}
            stream.write(json.dumps({"kind": "rating", **more, **texts, "rating": 1 + i % 5}) + "\n")


def test_a_hundred_thousand_lines_load_and_reload_fast(tmp_path: Path) -> None:
    """The bounds of the issue are 5 s and 100 ms; doubled here, as a loaded machine is slower than we are."""
    path = tmp_path / "a.jsonl"
    big_file(path, 100_000)
    started = time.process_time()
    store = Store([tmp_path])
    assert len(store.records) == 100_000
    assert time.process_time() - started < 10
    append(path, rating())
    started = time.process_time()
    assert store.refresh()
    assert len(store.records) == 100_001
    assert time.process_time() - started < 0.2
