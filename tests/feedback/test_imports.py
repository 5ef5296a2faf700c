"""Others' files as feedback: what each form of answer says, what it cannot say, and what one odd answer takes with it.

The forms are those of the tools' own documentation: Label Studio's JSON export and tags, Argilla's `to_json` of version
2 and feedback records of version 1, TRL's dataset formats, and HH-RLHF's transcripts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_rl.core import InputError
from instructrec_rl.core import command_line as cli
from instructrec_rl.feedback import imports
from instructrec_rl.feedback.imports import Imported
from instructrec_rl.feedback.schema import MAX_LINE_BYTES, Preference, Rating
from instructrec_rl.feedback.store import Store

ONE = {"instruction": "Say", "response": "x"}
TWO = {"prompt": "Say", "response_a": "x", "response_b": "y"}


def imported(tmp_path: Path, rows: Any, form: str, **more: Any) -> Imported:
    path = tmp_path / "rows.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return imports.read(path, form, **more)


def result(kind: str, value: Any, name: str = "quality") -> dict[str, Any]:
    key = {"pairwise": "selected", "textarea": "text"}.get(kind, kind)
    return {"id": "r", "from_name": name, "to_name": "t", "type": kind, "origin": "manual", "value": {key: value}}


def task(*results: Any, data: Any = ONE, **annotation: Any) -> dict[str, Any]:
    """A task as Label Studio exports it."""
    about = {"id": 1, "completed_by": 3, "was_cancelled": False, "ground_truth": False, **annotation}
    return {"id": 1, "data": data, "annotations": [about | {"result": list(results)}], "drafts": [], "predictions": []}


def argilla(value: Any, name: str = "quality", fields: Any = ONE, **more: Any) -> dict[str, Any]:
    """A record as Argilla 2's to_json has it."""
    answers = {name: [{"value": value, "user_id": "u1", **more}]}
    return {"id": "r", "fields": fields, "metadata": {}, "suggestions": {}, "responses": answers, "vectors": {}}


def said(found: Imported) -> list[Any]:
    """What the records say, shortly."""
    short = []
    for record in found.records:
        match record.kind:
            case "rating":
                short.append((record.rating, *record.scale))
            case "thumbs":
                short.append(record.up)
            case "preference":
                short.append(f"{record.chosen} = {record.rejected}" if record.tie else
                             f"{record.chosen} > {record.rejected}")  # fmt: skip
            case "ranking":
                short.append(" > ".join(record.responses))
            case "correction":
                short.append(record.corrected)
    return short


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (task(result("rating", 4)), [(4.0, 1.0, 5.0)]),
        (task(result("number", 4.5)), [(4.5, 1.0, 5.0)]),
        (task(result("number", "4")), [(4.0, 1.0, 5.0)]),
        (task(result("choices", ["Yes"])), [True]),
        (task(result("choices", ["thumbs down"])), [False]),
        (task(result("choices", "bad")), [False]),
        (task(result("choices", ["1"])), [(1.0, 1.0, 5.0)]),
        (task(result("choices", ["5"])), [(5.0, 1.0, 5.0)]),
        (task(result("choices", [" 3.5 "])), [(3.5, 1.0, 5.0)]),
        (task(result("pairwise", "left"), data=TWO), ["x > y"]),
        (task(result("pairwise", "right"), data=TWO), ["y > x"]),
        (task(result("choices", ["Response B"]), data=TWO), ["y > x"]),
        (task(result("choices", ["left"]), data=TWO), ["x > y"]),
        (task(result("choices", ["2"]), data=TWO), ["y > x"]),
        (task(result("choices", ["Tie"]), data=TWO), ["x = y"]),
        (task(result("textarea", ["better"], "fix")), ["better"]),
        (task(result("textarea", "better", "answer_text")), ["better"]),
    ],
)
def test_what_each_result_of_label_studio_says(tmp_path: Path, row: Any, says: list[Any]) -> None:
    found = imported(tmp_path, [row], "label-studio")
    assert (said(found), found.broken) == (says, [])
    assert {record.annotator for record in found.records} == {"3"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (result("choices", ["Not helpful"]), "quality: cannot tell what 'Not helpful' says"),
        (result("choices", ["Neutral"]), "quality: cannot tell what 'Neutral' says"),
        (result("choices", ["4/5"]), "quality: cannot tell what '4/5' says"),
        (result("choices", ["5 - excellent"]), "quality: cannot tell what '5 - excellent' says"),
        (result("choices", ["Yes", "Relevant"]), "quality: expected one answer, got 2"),
        (result("choices", []), "quality: expected one answer, got 0"),
        (result("choices", [["a", "b"]]), "quality: cannot tell what ['a', 'b'] says"),
        (result("number", "four"), "quality: cannot tell what 'four' says"),
        (result("rating", None), "quality: cannot tell what None says"),
        (result("rating", True), "quality: cannot tell what True says"),
        (result("textarea", ["one", "two"], "fix"), "fix: expected one answer, got 2"),
        (result("textarea", [" "], "fix"), "fix: cannot tell what ' ' says"),
        (result("textarea", ["4"], "fix"), "fix: cannot tell what '4' says"),
        (result("textarea", ["too greasy"], "comments"), "comments: cannot tell what 'too greasy' says"),
        (result("textarea", ["it is"], "why_so"), "why_so: cannot tell what 'it is' says"),
        (result("pairwise", "left"), "has no two responses"),
        (result("labels", ["NAME"]), 'result of type "labels": expected rating, number, choices, pairwise or'),
        (result("ranker", {"rank": ["a", "b"]}), 'result of type "ranker"'),
        (result("taxonomy", [["a", "b"]]), 'result of type "taxonomy"'),
        ({"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}, 'result of type "relation"'),
        (result("rating", 4) | {"value": {"rating": 4, "start": 0, "end": 3, "text": "abc"}}, "is about a part of"),
        (result("rating", 4) | {"value": {}}, 'quality: expected a value with "rating"'),
        (result("rating", 4) | {"value": None}, 'quality: expected a value with "rating"'),
        ("x", "a result that is no object"),
    ],
)
def test_an_odd_result_is_lost_alone(tmp_path: Path, row: Any, why: str) -> None:
    """The task's other results, other annotations and the next task stay."""
    odd = task(row, result("rating", 2, "stars"))
    odd["annotations"].append({"completed_by": 4, "result": [result("rating", 5, "stars")]})
    found = imported(tmp_path, [odd, task(result("rating", 3, "stars"), data=ONE | {"response": "z"})], "label-studio")
    assert said(found) == [(2.0, 1.0, 5.0), (5.0, 1.0, 5.0), (3.0, 1.0, 5.0)]
    assert [index for index, _ in found.broken] == [0]
    assert why in found.broken[0][1]


def test_pairwise_without_a_selection_is_no_tie(tmp_path: Path) -> None:
    found = imported(tmp_path, [task(result("pairwise", "none"), data=TWO)], "label-studio")
    assert (found.records, found.broken) == ([], [(0, "quality: cannot tell what 'none' says")])


def test_what_is_no_ones_answer_in_label_studio(tmp_path: Path) -> None:
    row = task(result("rating", 4))
    row["annotations"].append({"completed_by": 4, "was_cancelled": True, "result": [result("rating", 1)]})
    row["predictions"] = [{"model_version": "m", "result": [result("rating", 1)]}]
    row["drafts"] = [{"result": [result("rating", 2)]}]
    rows = [row, {"id": 2, "data": ONE, "annotations": []}, {"id": 3, "data": ONE}]
    found = imported(tmp_path, rows, "label-studio")
    assert (said(found), found.broken) == ([(4.0, 1.0, 5.0)], [])
    found = imported(tmp_path, [{"id": 1, "text": "flat", "sentiment": "good"}], "label-studio")
    assert found.broken == [(0, 'has no "data": expected a task of the JSON export')]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (argilla(4), [(4.0, 1.0, 5.0)]),
        (argilla("4"), [(4.0, 1.0, 5.0)]),
        (argilla("1"), [(1.0, 1.0, 5.0)]),
        (argilla("yes"), [True]),
        (argilla("thumbs_down"), [False]),
        (argilla("better", "fix"), ["better"]),
        (argilla("better", "corrected_response"), ["better"]),
        (argilla("better", "response"), ["better"]),
        (argilla("response_b", "preferred", TWO), ["y > x"]),
        (argilla("tie", "preferred", TWO), ["x = y"]),
        (
            argilla([{"value": "response_b", "rank": 1}, {"value": "response_a", "rank": 2}], "order", TWO),
            ["y > x"],
        ),
    ],
)
def test_what_each_answer_of_argilla_says(tmp_path: Path, row: Any, says: list[Any]) -> None:
    assert said(imported(tmp_path, [row], "argilla")) == says
    name, ((answer, *_)) = next(iter(row["responses"].items()))
    older = row | {
        "responses": [{"user_id": "u1", "status": "submitted", "values": {name: {"value": answer["value"]}}}]
    }
    found = imported(tmp_path, [older], "argilla")
    assert (said(found), found.broken) == (says, [])
    assert {record.annotator for record in found.records} == {"u1"}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("very_unhelpful", "helpful"), ("too greasy", "comments"), ("Neutral", "quality"), (["a", "b"], "topics"),
        ([], "topics"), ([{"start": 0, "end": 2, "label": "NAME"}], "spans"), (None, "quality"), ({"a": 1}, "quality"),
        ("4", "fix"), ("yes", "correction"), ("", "fix"),
    ],
)  # fmt: skip
def test_what_an_answer_of_argilla_cannot_say(tmp_path: Path, value: Any, name: str) -> None:
    row = argilla(value, name)
    row["responses"]["stars"] = [{"value": 2, "user_id": "u2"}]
    found = imported(tmp_path, [row], "argilla")
    assert said(found) == [(2.0, 1.0, 5.0)]
    assert [index for index, _ in found.broken] == [0]
    assert found.broken[0][1].startswith(f"{name}: cannot tell what {value!r:.60} says")


def test_a_text_is_a_correction_where_that_is_said(tmp_path: Path) -> None:
    rows = [argilla("too greasy", "comments"), argilla("4", "comments"), argilla("Neutral", "mood")]
    found = imported(tmp_path, rows, "argilla", corrections=["comments"])
    assert said(found) == ["too greasy", "4"]
    assert [index for index, _ in found.broken] == [2]
    with pytest.raises(InputError, match=r'--correction: there is no question "coments"\. Did you mean "comments"\?'):
        imported(tmp_path, rows, "argilla", corrections=["coments"])


def test_drafts_discarded_answers_and_suggestions_are_no_answers(tmp_path: Path) -> None:
    rows = [argilla(4, status="draft"), argilla(3, status="discarded"), argilla(2, status="submitted")]
    rows[0]["suggestions"] = {"quality": {"value": 5, "agent": "m"}}
    rows.append({"fields": ONE, "responses": [{"user_id": "u", "status": "discarded", "values": None}]})
    rows.append({"fields": ONE, "responses": None})
    found = imported(tmp_path, rows, "argilla")
    assert (said(found), found.broken) == ([(2.0, 1.0, 5.0)], [])


THREE = {"instruction": "Say", "response-1": "x", "response-2": "y", "response-3": "z"}


@settings(max_examples=50, deadline=None)
@given(ranks=st.lists(st.integers(1, 3), min_size=3, max_size=3))
def test_no_pair_of_a_ranking_is_between_equal_ranks(
    tmp_path_factory: pytest.TempPathFactory, ranks: list[int]
) -> None:
    value = [{"value": f"response-{k + 1}", "rank": rank} for k, rank in enumerate(ranks)]
    found = imported(tmp_path_factory.mktemp("r"), [argilla(value, "order", THREE)], "argilla")
    of = dict(zip("xyz", ranks))
    pairs = set()
    for record in found.records:
        if isinstance(record, Preference):
            pairs.add((record.chosen, record.rejected))
        else:
            texts = record.responses
            pairs |= {(a, b) for k, a in enumerate(texts) for b in texts[k + 1 :]}
    assert pairs == {(a, b) for a in of for b in of if of[a] < of[b]}
    assert bool(found.broken) == (not pairs)


def test_rankings_that_say_no_order(tmp_path: Path) -> None:
    ranked = [{"value": "response-1", "rank": 1}, {"value": "response-2", "rank": None}]
    rows = [argilla(["response-2", "response-1"], "order", THREE), argilla(ranked, "order", THREE),
            argilla([{"value": "response-1", "rank": 1}, {"value": "nothing", "rank": 2}], "order", THREE)]  # fmt: skip
    found = imported(tmp_path, rows, "argilla")
    assert found.records == []
    assert "Argilla 2 exports a ranking without its ranks" in found.broken[0][1]
    assert "cannot tell" in found.broken[1][1]
    assert "has none of the fields nothing" in found.broken[2][1]


@pytest.mark.parametrize(
    ("low", "high", "inside", "outside"),
    [(0, 10, [0, 5, 10], 11), (1, 10, [1, 10], 0), (0, 1, [0, 0.5, 1], 2), (-1, 1, [-1, 0], -2), (0, 100, [99], 101)],
)
def test_scales(tmp_path: Path, low: float, high: float, inside: list[float], outside: float) -> None:
    values = [*inside, str(inside[0])]
    rows = [argilla(value, fields=ONE | {"response": str(k)}) for k, value in enumerate(values)]
    found = imported(tmp_path, rows, "argilla", scales={"": (low, high)})
    assert said(found) == [(float(value), low, high) for value in values]
    results = [task(result("number", value), data=ONE | {"response": str(k)}) for k, value in enumerate(values)]
    assert said(imported(tmp_path, results, "label-studio", scales={"quality": (low, high)})) == said(found)
    with pytest.raises(InputError, match=f"row {len(rows)}: quality: the rating {outside} is outside {low} to {high}"):
        imported(tmp_path, [*rows, argilla(outside)], "argilla", scales={"": (low, high)})
    if any(not 1 <= value <= 5 for value in inside):
        with pytest.raises(InputError, match="is outside 1 to 5; say the question's scale: --scale quality=LOWEST"):
            imported(tmp_path, rows, "argilla")


def test_each_question_has_its_scale(tmp_path: Path) -> None:
    rows = [argilla(9), argilla(0, "ok"), argilla(5, "stars")]
    found = imported(tmp_path, rows, "argilla", scales={"quality": (0, 10), "ok": (0, 1)})
    assert said(found) == [(9.0, 0.0, 10.0), (0.0, 0.0, 1.0), (5.0, 1.0, 5.0)]
    assert [r.share for r in found.records if isinstance(r, Rating)] == [0.9, 0.0, 1.0]
    assert len(found.notes) == 2, "of three ratings of one response by one annotator the newest counts"
    assert 'the questions "quality" and "ok" both gave a rating' in found.notes[0]
    found = imported(tmp_path, rows, "argilla", questions=["stars"])
    assert (said(found), found.notes) == ([(5.0, 1.0, 5.0)], [])
    with pytest.raises(InputError, match=r'--scale: there is no question "qualty"\. Did you mean "quality"\?'):
        imported(tmp_path, rows, "argilla", scales={"qualty": (0, 10), "": (0, 10)})


@pytest.mark.parametrize("others", [["3"], ["0"], ["5", "4"]])
def test_numbers_name_responses_only_where_no_other_number_is_an_answer(tmp_path: Path, others: list[str]) -> None:
    """1 to 5 is how far one response is better than the other, and 1 then says something else than 1 of 2."""
    rows = [task(result("choices", [number]), data=TWO, completed_by=k) for k, number in enumerate(["1", "2", *others])]
    assert said(imported(tmp_path, rows[:2], "label-studio")) == ["x > y", "y > x"]
    found = imported(tmp_path, rows, "label-studio")
    assert found.records == []
    assert [index for index, _ in found.broken] == list(range(len(rows)))


@pytest.mark.parametrize("who", [None, "", " ", "None", {}, {"email": None, "id": None}, ["x"], True])
def test_an_unknown_annotator_is_the_one_that_was_given(tmp_path: Path, who: Any) -> None:
    row = task(result("rating", 3), completed_by=who)
    (record,) = imported(tmp_path, [row], "label-studio", annotator="ann").records
    assert record.annotator == "ann"
    assert imported(tmp_path, [row], "label-studio").records[0].annotator == "anonymous"
    for row in (
        argilla(3, user_id=who),
        {"fields": ONE, "responses": [{"user_id": who, "values": {"q": {"value": 3}}}]},
    ):
        (record,) = imported(tmp_path, [row], "argilla", annotator="ann").records
        assert record.annotator == "ann"


@pytest.mark.parametrize(("who", "name"), [(0, "0"), ({"id": 7}, "7"), ({"email": "a@b.c", "id": 7}, "a@b.c")])
def test_a_known_annotator_stays(tmp_path: Path, who: Any, name: str) -> None:
    (record,) = imported(tmp_path, [task(result("rating", 3), completed_by=who)], "label-studio", annotator="x").records
    assert record.annotator == name


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be short."}
TURNS = [user("A"), assistant("B"), user("C")]
TRANSCRIPT = "Human: A\n\nAssistant: B\n\nHuman: C"


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": "Q", "chosen": "x", "rejected": "y"}, "Q"),
        ({"prompt": [user("Q")], "chosen": [assistant("x")], "rejected": [assistant("y")]}, "Q"),
        ({"prompt": TURNS, "chosen": [assistant("x")], "rejected": [assistant("y")]}, TRANSCRIPT),
        ({"prompt": [SYSTEM, user("Q")], "chosen": [assistant("x")], "rejected": [assistant("y")]},
         "System: Be short.\n\nHuman: Q"),
        ({"prompt": "Q", "chosen": [user("Q"), assistant("x")], "rejected": [user("Q"), assistant("y")]}, "Q"),
        ({"chosen": [user("Q"), assistant("x")], "rejected": [user("Q"), assistant("y")]}, "Q"),
        ({"chosen": [*TURNS, assistant("x")], "rejected": [*TURNS, assistant("y")]}, TRANSCRIPT),
        ({"prompt": TURNS, "chosen": [*TURNS, assistant("x")], "rejected": [*TURNS, assistant("y")]}, TRANSCRIPT),
        ({"prompt": None, "chosen": "Q is x", "rejected": "Q is y"}, "Q is"),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: x", "rejected": "\n\nHuman: Q\n\nAssistant: y"}, "Q"),
        ({"prompt": [user([{"type": "text", "text": "Q"}])], "chosen": "x", "rejected": "y"}, "Q"),
    ],
)  # fmt: skip
def test_the_instruction_is_the_whole_dialogue(tmp_path: Path, row: Any, asked: str) -> None:
    found = imported(tmp_path, [row], "trl-preference")
    assert found.broken == []
    (record,) = found.records
    assert isinstance(record, Preference)
    assert (record.instruction, record.chosen, record.rejected) == (asked, "x", "y")


def test_the_words_of_trls_documentation(tmp_path: Path) -> None:
    rows = [{"chosen": "The sky is blue.", "rejected": "The sky is green."}]
    (record,) = imported(tmp_path, rows, "trl-preference").records
    assert isinstance(record, Preference)
    assert (record.instruction, record.chosen, record.rejected) == ("The sky is", "blue.", "green.")
    row = {"prompt": TURNS, "completion": [assistant("x")], "label": True}
    (record,) = imported(tmp_path, [row], "trl-unpaired").records
    assert (record.kind, record.instruction) == ("thumbs", TRANSCRIPT)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"chosen": "blue", "rejected": "green"}, 'has no "prompt", and chosen and rejected begin differently'),
        ({"prompt": [user("Q")], "chosen": [], "rejected": "y"}, "chosen: expected text, got []"),
        ({"prompt": [{"role": "user"}], "chosen": "x", "rejected": "y"}, "prompt: expected a message with content"),
        ({"prompt": [user("Q"), {"content": "R"}], "chosen": "x", "rejected": "y"}, "without a role"),
        ({"prompt": [user([{"type": "image"}])], "chosen": "x", "rejected": "y"}, "has a part that is no text"),
        ({"prompt": "Q", "chosen": "x", "rejected": "x"}, "is the same text as chosen"),
        ({"chosen": [user("Q")], "rejected": [user("Q"), assistant("y")]}, "no message is left beside the prompt"),
    ],
)
def test_dialogues_that_say_nothing(tmp_path: Path, row: Any, why: str) -> None:
    found = imported(tmp_path, [row], "trl-preference")
    assert why in found.broken[0][1]


def test_transcripts_of_hh_that_end_early(tmp_path: Path) -> None:
    head = "\n\nHuman: Hi\n\nAssistant: Hello"
    rows = [
        {"chosen": f"{head}\n\nHuman: Q\n\nAssistant: x", "rejected": head},
        {"chosen": head + " there", "rejected": head},
    ]
    found = imported(tmp_path, rows, "hh-rlhf")
    assert [r.instruction for r in found.records] == ["Hi", "Hi"]
    assert said(found)[1] == "Hello there > Hello"


def test_one_odd_vote_of_pandalm_is_lost_alone(tmp_path: Path) -> None:
    row = {"instruction": "Say", "response1": "x", "response2": "y", "annotator1": 2, "annotator2": True,
           "annotator3": 1.0, "annotator4": 0}  # fmt: skip
    found = imported(tmp_path, [row], "pandalm")
    assert said(found) == ["y > x", "x = y"]
    assert [reason for _, reason in found.broken] == [
        "annotator2: expected 0, 1 or 2, got True", "annotator3: expected 0, 1 or 2, got 1.0",
    ]  # fmt: skip


def test_ids_are_of_the_content(tmp_path: Path) -> None:
    """Files of one name do not collide, and the same file counts once, whatever its name."""
    for folder, value in (("a", 4), ("b", 2), ("c", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.json").write_text(json.dumps([argilla(value, fields=ONE | {"response": folder})]))
    ids = [imports.read(tmp_path / folder / "train.json", "argilla").records[0].id for folder in "abc"]
    assert len(set(ids)) == 3
    (tmp_path / "other.json").write_text((tmp_path / "a" / "train.json").read_text())
    assert imports.read(tmp_path / "other.json", "argilla").records[0].id == ids[0]
    found = imported(tmp_path, [argilla(4), argilla(4), argilla(3)], "argilla")
    assert said(found) == [(4.0, 1.0, 5.0), (3.0, 1.0, 5.0)]
    assert found.notes == ["1 answers said the same of the same as another by the same annotator, and count once"]
    rows = [{"prompt": p, "chosen": "x", "rejected": "y", "kind": "ranking"} for p in ("P", "Q")]
    assert len({record.id for record in imported(tmp_path, rows, "trl-preference").records}) == 2


GOOD = json.dumps(argilla(4))
BROKEN = ['{"fields": "\\ud83d"}', '{"a": 1, "a": 2}', '{"a": 1e400}', "[" * 99 + "]" * 99, "9" * 5000, "{oops}", "NaN"]


@pytest.mark.parametrize("bad", BROKEN, ids=lambda text: text[:12])
@pytest.mark.parametrize("form", ["[%s,\n %s, %s]", "%s\n%s\n%s\n"])
def test_a_row_that_is_no_json_is_lost_alone(tmp_path: Path, bad: str, form: str) -> None:
    other = json.dumps(argilla(2, fields=ONE | {"response": '"],{'}))
    found = imported(tmp_path, form % (GOOD, bad, other), "argilla")
    assert said(found) == [(4.0, 1.0, 5.0), (2.0, 1.0, 5.0)]
    assert [index for index, _ in found.broken] == [1]
    assert "broken JSON" in found.broken[0][1]


@pytest.mark.parametrize(
    "text", ["[", "[{]", '["a]', "[1, 2", "[1] [2]", "[1]]", '["' + '\\"' * 50_000, "[" + '"' * 99]
)
def test_a_list_that_does_not_close_is_one_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"rows\.json:\d+: broken JSON"):
        imported(tmp_path, text, "argilla")


def test_bytes_that_are_no_text_are_lost_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"\xef\xbb\xbf[" + GOOD.encode() + b', "\xff"]')
    found = imports.read(path, "argilla")
    assert (said(found), [index for index, _ in found.broken]) == ([(4.0, 1.0, 5.0)], [1])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["value", "rank", "fields", "data", "responses", "annotations", "result", "type", "text", "user_id", "rating",
         "completed_by", "chosen", "rejected", "prompt", "label", "role", "content"]) | st.text(max_size=3), inner,
        max_size=4),
    max_leaves=20,
)  # fmt: skip


def outcome(folder: Path, rows: Any, form: str) -> Imported | str:
    """What was imported, or the one error."""
    try:
        return imported(folder, rows, form)
    except InputError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(st.lists(values, max_size=4), st.sampled_from(imports.READERS))
def test_any_json_gives_records_or_reasons(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], form: str
) -> None:
    found = outcome(tmp_path_factory.mktemp("any"), rows, form)
    if isinstance(found, Imported):
        assert all(0 <= index < len(rows) and len(reason) < 400 for index, reason in found.broken)
    else:
        assert "is outside" in found


@settings(max_examples=300, deadline=None)
@given(values, st.sampled_from(["rating", "number", "choices", "textarea", "pairwise"]), st.text(max_size=9))
def test_any_answer_gives_a_record_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, value: Any, kind: str, name: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for form, row in (("label-studio", task(result(kind, value, name))), ("argilla", argilla(value, name))):
        found = outcome(folder, [row], form)
        assert len(found.records) + len(found.broken) == 1 if isinstance(found, Imported) else "is outside" in found


def run(*argv: str) -> int:
    return cli.run_command(lambda words: cli.dispatch(words), ["feedback", *argv])


def test_the_command_takes_scales_and_says_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [argilla(-1), argilla(1, "other"), argilla("odd", "third")]
    Path("q.json").write_text(json.dumps(rows))
    common = ["import", "q.json", "--format", "argilla", "--out"]
    assert run(*common, "a.jsonl") == 2
    assert "q.json: row 0: quality: the rating -1 is outside 1 to 5" in capsys.readouterr().err
    assert not Path("a.jsonl").exists()
    assert run(*common, "a.jsonl", "--scale", "-1,1") == 0
    out, err = capsys.readouterr()
    assert out == "a.jsonl: 2 records; 1 broken rows or answers were left out\n"
    assert "q.json: row 2: third: cannot tell what 'odd' says" in err
    assert 'the questions "quality" and "other" both gave a rating' in err
    assert sorted(r.share for r in Store(["a.jsonl"]).records if isinstance(r, Rating)) in ([0.0], [1.0])
    assert run(*common, "b.jsonl", "--scale", "quality=-1,1", "--question", "quality") == 0
    for wrong in ("1", "5,1", "a,b", "0,inf", "1,2,3", "1,1"):
        capsys.readouterr()
        assert run(*common, "c.jsonl", "--scale", wrong) == 2
        assert f"--scale {wrong}: expected the lowest and the highest rating" in capsys.readouterr().err
    assert run("import", "q.json", "--format", "hh-rlhf", "--out", "c.jsonl", "--question", "x") == 2
    assert "--question: hh-rlhf has no questions" in capsys.readouterr().err


def test_a_line_that_no_reader_takes_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    long = "é" * (MAX_LINE_BYTES // 2)
    Path("q.json").write_text(json.dumps([argilla(4), argilla(4, fields=ONE | {"response": long})]))
    assert run("import", "q.json", "--format", "argilla", "--out", "a.jsonl") == 0
    assert "q.json: row 1: would be a line of 1,048," in capsys.readouterr().err
    assert len(Store(["a.jsonl"]).records) == 1
    line = {"instruction": "Say", "response": "", "rating": 4}
    room = MAX_LINE_BYTES - len(json.dumps(line)) - 1
    Path("b.jsonl").write_text("".join(json.dumps(line | {"response": "x" * size}) + "\n" for size in (room, 10)))
    assert len(Store(["b.jsonl"]).records) == 2
    assert run("merge", "b.jsonl", "--out", "c.jsonl") == 2
    out, err = capsys.readouterr()
    assert err.startswith("b.jsonl:1: is not merged: it would be a line of 1,048,")
    assert out.startswith("c.jsonl: 1 records;")
    assert (len(Store(["c.jsonl"]).records), Store(["c.jsonl"]).problems) == (1, [])
