"""Agreement, annotators' habits, the command, and the formats of others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrec_rl.core import InputError
from instructrec_rl.core import command_line as cli
from instructrec_rl.feedback import imports, quality
from instructrec_rl.feedback.agreement import krippendorff_alpha
from instructrec_rl.feedback.exports import export_rows
from instructrec_rl.feedback.schema import Record, dump, make_record
from instructrec_rl.feedback.store import Store
from tests.feedback.test_store import MINIMAL, rating, write

# Krippendorff 2011, Computing Krippendorff's Alpha-Reliability: data A (binary, two observers), B (nominal, two
# observers) and C (four observers, missing values), each with the alpha worked out there by hand.
BINARY = ["0100000010", "1110010000"]
NOMINAL = ["aabbdcccedda", "babbbcccedd."]
FOUR = ["123321412...", "12332241 25.3".replace(" ", ""), ".333234225 1.".replace(" ", ""), "12332441251."]


def ratings_of(table: list[str]) -> tuple[np.ndarray, np.ndarray]:
    cells = [(unit, value) for row in table for unit, value in enumerate(row) if value != "."]
    values = [ord(value) - ord("0") for _, value in cells]
    return np.array([unit for unit, _ in cells]), np.array(values)


@pytest.mark.parametrize(
    ("table", "level", "alpha"),
    [
        (BINARY, "nominal", 0.095),
        (["aabbdcccedda"[:12], "babbbcccedda"[:11] + "d"], "nominal", 0.692),
        (FOUR, "nominal", 0.743),
        (FOUR, "ordinal", 0.815),
        (FOUR, "interval", 0.849),
    ],
)
def test_alpha_is_krippendorffs(table: list[str], level: str, alpha: float) -> None:
    assert krippendorff_alpha(*ratings_of(table), level) == pytest.approx(alpha, abs=6e-4)


def test_alpha_of_nothing_of_agreement_and_of_the_opposite() -> None:
    units = np.array([0, 0, 1, 1])
    assert krippendorff_alpha(np.arange(4), units) is None
    assert krippendorff_alpha(units, np.ones(4)) is None
    assert krippendorff_alpha(units, units, "ordinal") == 1
    assert krippendorff_alpha(units, np.array([0, 1, 1, 0]), "nominal") == -0.5
    with pytest.raises(ValueError, match="ratio is not one of"):
        krippendorff_alpha(units, units, "ratio")


def rated(tmp_path: Path, rows: list[dict[str, Any]]) -> Store:
    write(tmp_path / "rewards" / "a.jsonl", *rows)
    return Store([tmp_path / "rewards"])


def test_annotators_drift_and_agreement(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for k in range(60):
        worth = int(rng.integers(1, 6))
        for name, value in (
            ("calm", worth),
            ("fair", int(np.clip(worth + rng.integers(-1, 2), 1, 5))),
            ("tired", min(5, worth // 2 + 1 + 2 * (k > 30))),
            ("dice", int(rng.integers(1, 6))),
        ):
            stamp = f"2025-01-01T{k // 60:02}:{k % 60:02}:00Z"
            rows.append(rating(value, response=f"r{k}", annotator=name, ts=stamp))
    store = rated(tmp_path, rows)
    found = {one.name: one for one in quality.annotators(store.entries, {"dice": 0.01, "calm": 0.99})}
    assert [found[name].drift is not None for name in ("calm", "fair", "tired")] == [False, False, True]
    assert found["fair"].agreement > 0.5 > abs(found["dice"].agreement)
    assert [name for name, one in found.items() if one.likely_random] == ["dice"]
    alphas = quality.alphas(store.records)
    assert set(alphas) == {"ratings, nominal", "ratings, ordinal", "ratings, interval"}
    covered = quality.coverage(store.records, {"train": ["a pizza", "b"], "test": ["c"]})
    assert covered == {"train": (1, 2), "test": (0, 1)}


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.run_command(cli.dispatch, ["feedback", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    return tmp_path


def test_check_names_every_bad_line_and_exits_2(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(here / "rewards" / "deep" / "a.jsonl", rating(), "{", rating(7))
    code, out, err = run(capsys, "check")
    assert (code, err.splitlines()) == (2, [
        "rewards/deep/a.jsonl:2: broken JSON: Expecting property name enclosed in double quotes (column 2)",
        "rewards/deep/a.jsonl:3: rating: 7 is outside the scale 1 to 5",
    ])  # fmt: skip
    assert out.splitlines() == ["1 files, 1 good lines, 2 bad", "what counts: 1 rating"]
    path.write_text(json.dumps(rating()) + "\n" + '{"instr')
    code, out, err = run(capsys, "check")
    assert (code, err) == (0, "")
    assert "rewards/deep/a.jsonl: the last line has no newline yet; it waits for it" in out
    assert run(capsys, "check", str(path))[0] == 0
    assert run(capsys, "check", "absent") == (2, "", "absent: there is no such file or folder\n")
    assert run(capsys, "chek") == (2, "", run(capsys, "chek")[2])
    assert 'Did you mean "check"?' in run(capsys, "chek")[2]


def test_check_without_any_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check")[:2] == (0, "0 files, 0 good lines, 0 bad\nwhat counts: nothing\n")


def test_feedback_that_counts_nowhere_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [rating(env="pizza_rek"), rating(response="b", env="pizza_rek"), rating(response="c", env="pizza_rec"),
            rating(response="d"), rating(response="e", env="mine\x1b[31m")]  # fmt: skip
    write(here / "rewards" / "a.jsonl", *rows)
    code, out, err = run(capsys, "check")
    assert (code, err) == (0, "")
    said = [line for line in out.splitlines() if "counts nowhere" in line]
    assert said[0].startswith('1 record is of the environment "mine\\x1b[31m", which does not exist here')
    assert said[1].startswith(
        '2 records are of the environment "pizza_rek", which does not exist here: counts nowhere.'
    )
    assert 'Did you mean "pizza_rec"?' in said[1]
    (here / "envs" / "pizza_rek").mkdir(parents=True)
    (here / "envs" / "pizza_rek" / "env.yaml").write_text("name: pizza_rek\n")
    assert '"pizza_rek"' not in run(capsys, "check")[1].replace("Known", "").split("counts nowhere")[-1]


def test_what_cannot_be_read_is_said_and_no_success(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here / "elsewhere" / "a.jsonl", rating())
    (here / "rewards").mkdir()
    (here / "rewards" / "feedback").symlink_to(here / "elsewhere")
    assert run(capsys, "check")[:2] == (0, "1 files, 1 good lines, 0 bad\nwhat counts: 1 rating\n")

    def refuse(folder: str) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    code, out, err = run(capsys, "check")
    assert (code, out.splitlines()[0]) == (2, "0 files, 0 good lines, 1 bad")
    assert err == "rewards: cannot read: permission denied\n"


def test_stats_of_what_cannot_be_validated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [rating(1 + k % 5, response="r", annotator=f"a{k}") for k in range(60)]
    write(here / "rewards" / "a.jsonl", *rows)
    code, out, err = run(capsys, "stats")
    assert (code, err) == (0, "")
    assert "learned reward: it cannot be validated, as without a fold 0 judgements are too few" in out


def test_stats(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [rating(1 + k % 5, response=f"r{k}", annotator=name) for k in range(8) for name in ("ann", "ben")]
    write(here / "rewards" / "a.jsonl", *rows)
    code, out, err = run(capsys, "stats")
    assert (code, err) == (0, "")
    assert "Krippendorff's alpha, ratings, interval: 1.000" in out
    assert "learned reward: 16 judgements are too few to validate, 50 needed" in out
    assert out.splitlines()[1].split()[:3] == ["ann", "8", "8"]


def test_merge_keeps_what_counts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "rewards" / "a.jsonl", rating(1), rating(2), "{")
    write(here / "rewards" / "b.jsonl", *MINIMAL.values())
    before = Store()
    code, out, _ = run(capsys, "merge", "--out", "all.jsonl")
    assert code == 0
    assert "all.jsonl: 6 records; 2 that no longer count and 1 bad lines were left out" in out
    assert {r.id for r in Store([here / "all.jsonl"]).records} == {r.id for r in before.records}
    code, _, err = run(capsys, "merge", "--out", "all.jsonl")
    assert (code, err) == (2, "all.jsonl: is there already; give another file\n")


def records() -> list[Record]:
    more = {"annotator": "ann", "ts": "2025-01-01T00:00:00Z", "env": "toys"}
    return [make_record({**fields, "id": kind, **more}) for kind, fields in MINIMAL.items() if kind != "retract"]


@pytest.mark.parametrize(
    ("form", "kinds"), [("trl-preference", {"preference", "correction"}), ("trl-unpaired", {"rating", "thumbs"})]
)
def test_trl_round_trips(here: Path, capsys: pytest.CaptureFixture[str], form: str, kinds: set[str]) -> None:
    """Ratings and rankings are no preferences: they come back as the pairs that they imply."""
    write(here / "rewards" / "a.jsonl", *map(dump, records()))
    assert run(capsys, "export", "--format", form, "--out", "out.jsonl")[0] == 0
    assert run(capsys, "import", "out.jsonl", "--format", form, "--out", "back.jsonl")[0] == 0
    assert Store([here / "back.jsonl"]).problems == []
    back = {record.id: record for record in imports.read(here / "out.jsonl", form).records}
    for record in records():
        if record.kind in kinds:
            assert back[record.id] == record
    if form == "trl-preference":
        pairs = {(r.chosen, r.rejected) for r in back.values() if r.kind == "preference"}
        assert pairs == {("x", "y"), ("x", "z"), ("y", "z")}


def test_the_rows_are_what_trl_reads() -> None:
    from trl.data_utils import is_conversational

    rows = list(export_rows(records(), "trl-preference"))
    assert all({"prompt", "chosen", "rejected"} <= set(row) and not is_conversational(row) for row in rows)
    unpaired = list(export_rows(records(), "trl-unpaired"))
    assert [row["label"] for row in unpaired] == [True, True]
    two = [make_record(rating(r, response=f"r{r}", id=f"{r}")) for r in (2, 5, 3)]
    assert [(row["chosen"], row["rejected"]) for row in export_rows(two, "trl-preference")] == [
        ("r5", "r3"), ("r3", "r2"),
    ]  # fmt: skip


def imported(path: Path, rows: Any, form: str, **more: str) -> imports.Imported:
    path.write_text(json.dumps(rows))
    return imports.read(path, form, **more)


def test_hh_rlhf(tmp_path: Path) -> None:
    head = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: A joke?\n\nAssistant:"
    rows = [
        {"chosen": head + " Knock, knock.", "rejected": head + " No."},
        {"chosen": "\n\nHuman: Q?\n\nAssistant: yes", "rejected": "\n\nHuman: Q?\n\nAssistant: no"},
        {"chosen": "no dialogue", "rejected": "at all"},
    ]
    found = imported(tmp_path / "hh.json", rows, "hh-rlhf", annotator="hh")
    first, second = found.records
    assert (first.chosen, first.rejected) == ("Knock, knock.", "No.")
    assert first.instruction.endswith("Human: A joke?")
    assert (second.instruction, second.chosen, second.annotator) == ("Q?", "yes", "hh")
    assert [index for index, _ in found.broken] == [2]


def test_pandalm(tmp_path: Path) -> None:
    row = {"instruction": "Say", "input": "more", "response1": "x", "response2": "y"}
    rows = [row | {"annotator1": 2, "annotator2": 0}, row | {"response1": True, "annotator1": 1}, row, 7]
    found = imported(tmp_path / "p.json", rows, "pandalm")
    assert [(r.annotator, r.instruction, r.chosen, r.tie) for r in found.records] == [
        ("annotator1", "Say\nmore", "y", False), ("annotator2", "Say\nmore", "x", True),
    ]  # fmt: skip
    assert found.broken == [
        (1, "response1: expected text, got True"), (2, "has no field annotator1"), (3, "expected an object"),
    ]  # fmt: skip
    assert [r.id for r in imports.read(tmp_path / "p.json", "pandalm").records] == [r.id for r in found.records]


@pytest.mark.shared
def test_pandalms_own_file(shared: Path) -> None:
    found = imports.read(shared / "pandalm" / "testset-v1.json", "pandalm")
    assert [index for index, _ in found.broken] == [157, 158, 159, 161, 162, 164]
    # 99 of its pairs stand there twice or more; who said the same of them again counts once, as in the store
    assert len(found.records) == 3 * (999 - 6) - 388
    assert found.notes[0].startswith("388 answers said the same of the same")


ARGILLA = [
    {
        "id": "1",
        "status": "completed",
        "fields": {"instruction": "Say", "response": "x"},
        "metadata": {},
        "suggestions": {},
        "responses": {
            "quality": [{"value": 4, "user_id": "u1"}, {"value": 2, "user_id": "u2"}],
            "fix": [{"value": "better", "user_id": "u1"}],
        },
    },
    {
        "fields": {"instruction": "Say", "response-1": "x", "response-2": "y"},
        "responses": [
            {"user_id": "u3", "status": "submitted", "values": {"order": {"value": [
                {"rank": 2, "value": "response-1"}, {"rank": 1, "value": "response-2"}]}}},
            {"user_id": "u4", "status": "discarded", "values": {"order": {"value": []}}},
        ],
    },
    {"fields": {"instruction": "Say"}, "responses": {"quality": [{"value": 4, "user_id": "u1"}]}},
]  # fmt: skip


def test_argilla(tmp_path: Path) -> None:
    found = imported(tmp_path / "a.json", ARGILLA, "argilla", env="toys")
    assert [(r.kind, r.annotator, r.env) for r in found.records] == [
        ("rating", "u1", "toys"), ("rating", "u2", "toys"), ("correction", "u1", "toys"), ("ranking", "u3", "toys"),
    ]  # fmt: skip
    assert found.records[3].responses == ["y", "x"]
    assert found.broken == [(2, "has none of the fields response, completion, answer, output, generation")]


LABEL_STUDIO = [
    {
        "id": 1,
        "data": {"prompt": "Say", "response1": "x", "response2": "y", "response": "x"},
        "annotations": [
            {
                "id": 5,
                "completed_by": {"id": 3, "email": "ann@example.org"},
                "created_at": "2025-03-09T22:16:08.728353Z",
                "was_cancelled": False,
                "result": [
                    {"from_name": "pw", "to_name": "a,b", "type": "pairwise", "value": {"selected": "right"}},
                    {"from_name": "stars", "to_name": "a", "type": "rating", "value": {"rating": 4}},
                    {"from_name": "ok", "to_name": "a", "type": "choices", "value": {"choices": ["bad"]}},
                    {"from_name": "fix", "to_name": "a", "type": "textarea", "value": {"text": ["better"]}},
                ],
            },
            {"completed_by": 4, "was_cancelled": True, "result": [{}]},
        ],
    },
    {"id": 2, "data": {"prompt": "Say"}, "annotations": [{"completed_by": 9, "result": [
        {"from_name": "box", "to_name": "img", "type": "rectanglelabels", "value": {}}]}]},
]  # fmt: skip


def test_label_studio(tmp_path: Path) -> None:
    found = imported(tmp_path / "l.json", LABEL_STUDIO, "label-studio")
    assert [r.kind for r in found.records] == ["preference", "rating", "thumbs", "correction"]
    assert {(r.annotator, r.ts) for r in found.records} == {("ann@example.org", "2025-03-09T22:16:08.728353Z")}
    assert (found.records[0].chosen, found.records[2].up) == ("y", False)
    assert found.broken == [
        (1, 'result of type "rectanglelabels": expected rating, number, choices, pairwise or textarea')
    ]


def test_import_of_what_is_no_such_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "x.json").write_text('[{"a": 1}]')
    code, _, err = run(capsys, "import", "x.json", "--format", "pandalm", "--out", "y.jsonl")
    assert code == 2
    assert err.splitlines()[0].startswith("x.json: row 0: has none of the fields")
    assert not (here / "y.jsonl").exists()
    (here / "x.json").write_text("[")
    with pytest.raises(InputError, match=r"x\.json:1: broken JSON"):
        imports.read(Path("x.json"), "argilla")
    (here / "x.json").write_text('{"a": 1}\n{\n[' + "[" * 100_000)
    assert [index for index, _ in imports.read(Path("x.json"), "hh-rlhf").broken] == [0, 1, 2]
    code, _, err = run(capsys, "import", "x.json", "--format", "pandaml", "--out", "y.jsonl")
    assert (code, 'Did you mean "pandalm"?' in err) == (2, True)


def test_simulated_ratings_follow_what_the_answers_are_worth(tmp_path: Path) -> None:
    """Seven of eight annotators rate what the reward pays; the lines are feedback that the store takes whole."""
    from instructrec_rl import load_env
    from instructrec_rl.feedback.simulate import simulate

    env = load_env("pizza_rec", reward="constraints")
    lines = simulate(env, 2000, seed=3)
    assert lines == simulate(env, 2000, seed=3)
    assert lines != simulate(env, 2000, seed=4)
    assert len({(line["instruction"], line["response"]) for line in lines}) == 2000
    row = {example.instruction: k for k, example in enumerate(env.examples)}
    item = {item.name: k for k, item in enumerate(env.items)}
    worth = env.reward_table(
        np.array([row[line["instruction"]] for line in lines]), np.array([item[line["response"]] for line in lines])
    )
    given = np.array([line["rating"] for line in lines])
    each = [
        np.corrcoef(worth[mine], given[mine])[0, 1]
        for k in range(8)
        for mine in [[line["annotator"] == f"simulated-{k}" for line in lines]]
    ]
    assert sum(r > 0.6 for r in each) == 7
    assert min(each) < 0.2
    assert (
        cli.run_command(
            cli.dispatch,
            ["feedback", "simulate", "--env", "pizza_rec", "--ratings", "50", "--out", str(tmp_path / "r.jsonl")],
        )
        == 0
    )
    store = Store([tmp_path])
    assert (len(store.records), len(store.problems)) == (50, 0)
