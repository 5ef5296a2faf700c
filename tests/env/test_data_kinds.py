"""Kinds of data that were read as something else in silence: read as what they say, or refused with their place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_rl import load_env, load_reward
from instructrec_rl.commands import check
from instructrec_rl.config.compose import compose
from instructrec_rl.config.schema import EnvConfig
from instructrec_rl.core import InputError, Item
from instructrec_rl.core.files import find_envs
from instructrec_rl.core.same_text import canonical, fold, same_value
from instructrec_rl.encoders.item_features import item_features
from instructrec_rl.env.constraints import satisfies
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.env.spec import load_spec

INVISIBLE = ("\u200b", "\ufeff", "\u2060", "\u200e", "\u00ad", "\ufe0f")


def intents(folder: Path, content: str, suffix: str = "csv") -> object:
    path = folder / f"q.{suffix}"
    path.write_text(content, encoding="utf-8")
    return load_spec(EnvConfig(name="intents", path=str(path)))


ROWS = "".join(f"{word} {k},{label},{split}\n" for k, split in enumerate(("train", "train", "validation", "test"))
               for word, label in (("hi", "greet"), ("bye", "leave")))  # fmt: skip


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("text,label\nyes, please,agree\n", "q.csv:2: more fields than the header (2)"),
        ("text,label,split\nhi,greet,train\nno, no, no,leave,train\n", "q.csv:3: more fields than the header (3)"),
        ('text,label\nhi,greet\n"two\nlines",leave,x\n', "q.csv:4: more fields than the header (2)"),
        ("text,label,label\nhi,greet,x\n", 'q.csv:1: the header has "label" twice'),
        ("text,label,text\nhi,greet,x\n", 'q.csv:1: the header has "text" twice'),
    ],
)
def test_a_csv_that_its_header_does_not_fit_is_refused(tmp_path: Path, content: str, why: str) -> None:
    with pytest.raises(InputError) as error:
        intents(tmp_path, content)
    assert why in str(error.value)


@pytest.mark.parametrize("other", ["greet ", "\u200bgreet", " greet\t", "greet\u200e"])
def test_labels_that_differ_in_what_nobody_sees_are_one(tmp_path: Path, other: str) -> None:
    spec = intents(tmp_path, "text,label,split\n" + ROWS + f"hello,{other},train\n")
    assert [item.id for item in spec.items] == ["greet", "leave"]
    assert spec.examples[-1].best == (0,)


@pytest.mark.parametrize(
    ("one", "other"), [("no", "No"), ("e\u0301t\u00e9", "\u00c9T\u00c9"), ("a_b", "a b"), ("stop", "stop!")]
)
def test_labels_that_nobody_can_tell_apart_are_refused_with_both_places(tmp_path: Path, one: str, other: str) -> None:
    with pytest.raises(InputError) as error:
        intents(tmp_path, f"text,label,split\n{ROWS}x,{one},train\ny,{other},train\n")
    assert "(line 10)" in str(error.value)
    assert "(line 11)" in str(error.value)


def test_integer_labels_are_their_text_in_every_form(tmp_path: Path) -> None:
    """As Hugging Face writes Banking77 and CLINC150."""
    rows = [line.rpartition(",")[0].rpartition(",") for line in ROWS.splitlines()]
    splits = [line.rpartition(",")[2] for line in ROWS.splitlines()]
    records = [{"text": text, "label": ("greet", "leave").index(label)} for text, _, label in rows]
    lines = "".join(json.dumps(record | {"split": split}) + "\n" for record, split in zip(records, splits))
    table: dict[str, list[list[object]]] = {}
    for record, split in zip(records, splits):
        table.setdefault(split, []).append(list(record.values()))
    csv = "text,label,split\n" + ROWS.replace("greet", "0").replace("leave", "1")
    read = [intents(tmp_path, lines, "jsonl"), intents(tmp_path, json.dumps(table), "json"), intents(tmp_path, csv)]
    assert [[item.id for item in spec.items] for spec in read] == [["0", "1"]] * 3


@pytest.mark.parametrize("label", ["true", "0.5", "null", '["a"]'])
def test_a_label_of_another_kind_is_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(InputError, match='the column "label" is missing or not text'):
        intents(tmp_path, f'{{"text": "a", "label": {label}, "split": "train"}}\n', "jsonl")


HOSTILE = ["1" * 5_000, "[" * 100_000 + "]" * 100_000, '"\\ud83d"', "1e999", "NaN", '{"a": 1, "a": 2}']


@pytest.mark.parametrize("value", HOSTILE, ids=lambda text: text[:8])
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_hostile_json_of_intents_is_one_line(tmp_path: Path, value: str, suffix: str) -> None:
    content = f'{{"train": [["a", {value}]]}}' if suffix == "json" else f'{{"text": "a", "label": {value}}}\n'
    with pytest.raises(InputError) as error:
        intents(tmp_path, content, suffix)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1_000


@pytest.mark.parametrize("value", HOSTILE, ids=lambda text: text[:8])
@pytest.mark.parametrize("file", ["items.jsonl", "instructions.jsonl"])
def test_hostile_json_of_catalogs_is_one_line(toys: Callable[..., Path], value: str, file: str) -> None:
    path = toys() / file
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:-1] + f', "more": {value}}}'
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as error:
        load_env("toys")
    assert f"{file}:2: broken JSON" in str(error.value)


ALIKE = [Item("a", "US", "US", {}), Item("b", "us", "us", {}), Item("c", "wait 1", "Wait!", {}),
         Item("d", "wait 2", "Wait?", {})]  # fmt: skip


def test_items_that_differ_in_case_or_a_last_mark_are_told_apart() -> None:
    find = ItemFinder(ALIKE)
    assert find(["US", "us", "Wait!", "Wait?", "Us", "wait", "Wait", "wait 2."]).tolist() == [0, 1, 2, 3, -1, -1, -1, 3]


def test_each_item_is_paid_for_itself_alone() -> None:
    texts = [item.text for item in ALIKE]

    class World:
        items, encoder = ALIKE, None

    exact = load_reward("exact_match", env=World())
    paid = [exact.score(["x"] * 4, texts, [[text]] * 4) for text in texts]
    np.testing.assert_array_equal(np.stack(paid), np.eye(4))


@pytest.mark.parametrize("text", ["red circle\u200b", "red  circle", "\ufeffred circle"])
def test_items_with_one_text_are_refused_with_both_lines(toys: Callable[..., Path], text: str) -> None:
    path = toys() / "items.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    record = first | {"id": "twin", "name": "twin", "text": first["text"].replace("red circle", text)}
    record["text"] = first["text"][:3] + "\u200b" + first["text"][3:] if text == "red circle\u200b" else record["text"]
    record["text"] = record["text"] if record["text"] != first["text"] else f" {first['text']} "
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    with pytest.raises(InputError, match=r"items\.jsonl:13: the text .* stands already at line 1"):
        load_env("toys")


@given(st.text(max_size=12), st.integers(0, 12), st.sampled_from(INVISIBLE))
def test_marks_that_nobody_sees_change_no_text(text: str, at: int, mark: str) -> None:
    assert canonical(text[:at] + mark + text[at:]) == canonical(text)
    assert canonical(mark + text) == canonical(text) == canonical(text + mark)
    assert canonical(canonical(text)) == canonical(text)
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize("word", ["jalape\u00f1o", "\u1e69", "\uac00", "Å"])
def test_unicode_forms_are_one(word: str) -> None:
    import unicodedata

    forms = {unicodedata.normalize(form, word) for form in ("NFC", "NFD")}
    assert len({canonical(form) for form in forms}) == 1
    assert canonical("👨\u200d👩") != canonical("👨👩")  # the joiner of emoji and of Persian words is a difference
    assert canonical("می\u200cخواهم") != canonical("میخواهم")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(True, 1, False), (False, 0, False), (1, 1.0, True), ("1", 1, False), ("e\u0301", "é", True), (True, True, True)],
)
def test_values_are_compared_by_their_kind(one: object, other: object, same: bool) -> None:
    assert same_value(one, other) is same
    item = Item("a", "a", "a", {"held": one, "list": [one]})
    for op, attribute, value in (("is", "held", other), ("has", "list", other), ("any_of", "held", [other])):
        assert satisfies({"attribute": attribute, "op": op, "value": value}, [item]).tolist() == [same]


def test_a_constraint_on_true_is_not_remembered_as_one_on_one() -> None:
    class World:
        items = [Item("a", "a", "a", {"vegan": True}), Item("b", "b", "b", {"vegan": 1})]  # noqa: RUF012
        encoder = None

    reward = load_reward("constraints", env=World())
    rows = [{"constraints": [{"attribute": "vegan", "op": "is", "value": value}]} for value in (1, True)]
    assert reward.score(["x"] * 2, ["a", "a"], [[]] * 2, rows).tolist() == [0.0, 1.0]
    assert reward.score(["x"] * 2, ["b", "b"], [[]] * 2, rows).tolist() == [1.0, 0.0]


def test_items_with_the_same_attributes_are_told_apart_by_their_texts(caplog: pytest.LogCaptureFixture) -> None:
    items = [Item(f"i{k}", f"n{k}", f"text {k}", {"kind": "ab"[k // 2]}) for k in range(4)]
    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    features, prior = item_features(items, "auto", lambda: vectors)
    assert len({row.tobytes() for row in features}) == 4
    assert prior is not None
    assert '"i0" and "i1" among them: their texts are read too' in caplog.text
    alone, _ = item_features(items, "attributes", lambda: vectors)
    assert len({row.tobytes() for row in alone}) == 2
    assert "they can never be told apart" in caplog.text


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        (
            "env.yaml",
            '["constraints"',
            '["ruge"',
            'env.yaml: the field "metrics": unknown reward "ruge".',
        ),
        ("env.yaml", '["constraints"', "[null", "env.yaml: the field \"metrics\" holds 'None'; expected names"),
        ("env.yaml", '["constraints"', "[[x]", 'env.yaml: the field "metrics" holds "[\'x\']"; expected names'),
        ("env.yaml", "name: ", "name: not", "but its folder is"),
        ("instructions.jsonl", '"op": "is"', '"op": "<="', 'instructions.jsonl:1: reward constraints: row 0 (id "'),
        ("instructions.jsonl", '"op": "is"', '"op": "at_most"', "instructions.jsonl:1: reward constraints: "),
        ("instructions.jsonl", '"constraints"', '"wishes"', 'has no "constraints"'),
    ],
)
def test_check_refuses_what_a_run_refuses(toys: Callable[..., Path], file: str, old: str, new: str, why: str) -> None:
    edit(toys() / file, old, new)
    check._load_env.cache_clear()
    with pytest.raises(InputError) as error:
        check.check_env("toys")
    assert why in str(error.value)


def test_the_default_reward_is_one_and_from_the_data(toys: Callable[..., Path]) -> None:
    """By the command line, from Python, and by `check`, for every environment that is found."""
    home = toys()
    for name in find_envs():
        if name != "intents":  # has no data of its own
            assert compose([f"env={name}"]).reward.name == load_env(name).reward_name
    edit(home / "env.yaml", "metrics: ", "reward: rouge\nmetrics: ")
    assert compose(["env=toys"]).reward.name == load_env("toys").reward_name == "rouge"
    edit(home / "env.yaml", "reward: rouge\n", "")
    rows = (home / "instructions.jsonl").read_text().replace('"constraints"', '"wishes"')
    (home / "instructions.jsonl").write_text(rows)
    edit(home / "env.yaml", '"constraints", ', "")
    check._load_env.cache_clear()
    assert compose(["env=toys"]).reward.name == load_env("toys").reward_name == "exact_match"
    assert check.check_env("toys").endswith("reward exact_match")


def test_reprs_are_short(toys: Callable[..., Path]) -> None:
    toys()
    env = load_env("toys")
    for shown in (repr(env), repr(env.spec), repr(env.dynamics())):
        assert len(shown) < 200
        assert "toys" in shown


def test_importing_is_quick_of_what_reads_no_unicode() -> None:
    """`regex` is loaded for texts that are not ASCII alone."""
    code = "import sys; from instructrec_rl.core.same_text import fold; fold('plain'); print('regex' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
