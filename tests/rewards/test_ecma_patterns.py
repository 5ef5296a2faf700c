"""Patterns of JSON Schema mean what ECMA 262 says, with the flag u; a search without end stops with an error."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_rl import load_reward
from instructrec_rl.core import InputError
from instructrec_rl.rewards import ecma_patterns
from instructrec_rl.rewards.ecma_patterns import PatternError, ecma_pattern, found_in
from instructrec_rl.rewards.json_schema import check_schema, fits


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        ("a", ["a", "bab"], ["b", ""]),  # it searches
        ("^a$", ["a"], ["a\n", "ba", "b\na"]),
        (r"^\d+$", ["12"], ["٣", "१", "1\n"]),
        (r"^\w+$", ["aB_1"], ["é", "я", ""]),
        (r"^\s$", [" ", "\t", "\ufeff", "\u3000", "\u2028"], ["\x1c", "\x85", "\u200b"]),
        (r"^\S\D\W$", ["aaé", "\x1c-é"], ["1-_", " a-"]),
        ("^.$", ["a", "🍕", "\x85"], ["\n", "\r", "\u2028", "ab"]),
        (r"^\u{1F355}$", ["🍕"], ["u{1F355}"]),
        (r"^\ud83c\udf55\u0041\x42\cJ\0$", ["🍕AB\n\0"], []),
        (r"^(?<year>\d{4})-\k<year>$", ["2024-2024"], ["2024-2023"]),
        (r"^(?:(a)|b)\1$", ["b", "aa"], ["a", "ba"]),  # a group that took no part is the empty text
        (r"^[^\d\s]+$", ["ab"], ["a1"]),
        (r"^[\W]$", ["é", "-"], ["e"]),
        ("^[]", [], ["", "a"]),
        ("^[^]$", ["\n", "a"], [""]),
        (r"\bpizza\b", ["a pizza!", "épizzaé"], ["pizzas"]),
        (r"^\p{Lu}\P{L}$", ["Ä1"], ["ä1", "ÄA"]),
        (r"^\p{Script=Greek}+$", ["αβ"], ["ab"]),
        (r"^[[a&&b||c~]+$", ["[", "a&|~"], ["]", "-"]),
        (r"^[a\-z]+$", ["-a"], ["b"]),
        (r"^[a-]+$", ["-a"], ["b"]),
        (r"^[\b]$", ["\b"], ["b"]),
        (r"^a{2,3}?$", ["aa", "aaa"], ["a"]),
        ("(?<=a)b(?!c)", ["abd"], ["abc", "b"]),
        ("^a b#c$", ["a b#c"], ["ab"]),
    ],
)
def test_a_pattern_means_what_ecma_says(pattern: str, found: list[str], not_found: list[str]) -> None:
    check_schema({"pattern": pattern})
    assert [text for text in found if not fits(text, {"pattern": pattern})] == []
    assert [text for text in not_found if fits(text, {"pattern": pattern})] == []


NOT_ECMA = ["(?i)a", "(?i:a)", r"\A", r"a\Z", r"\a", r"\G", "a++", "a*+", "a?+", "(?>a)", "(?P<a>b)", "(?P=a)", "(?#x)"]
NOT_ECMA += ["(?|a)", "{", "a{,3}", "a{2,1}", "a}", "]", r"\2(a)", "[b-a]", "(", ")", "[a", "*", "^*", "(?=a)*", "a|*"]
NOT_ECMA += ["(?<n>a)(?<n>b)", r"\k<z>", r"\p{Nope}", r"\u{110000}", r"\u12", "\\", r"[\w-a]", r"\é", r"\01", "(?<1>a)"]


@pytest.mark.parametrize("pattern", NOT_ECMA)
def test_what_is_not_ecmas_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match=r"^schema.properties.a.pattern: not a regular expression of ECMA 262: "):
        check_schema({"properties": {"a": {"pattern": pattern}}})


@given(st.text())
def test_a_text_is_found_by_its_own_characters(text: str) -> None:
    for pattern in (
        "".join(f"\\u{{{ord(char):x}}}" for char in text),
        "".join(f"[\\u{{{ord(char):x}}}]" for char in text),
    ):
        assert found_in(ecma_pattern(f"^{pattern}$"), text, "it")


@given(st.text(r"ab1(){}[]?*+^$|\.,-:<>=!kdwsuxpP0é"))
def test_any_pattern_is_read_or_refused(pattern: str) -> None:
    try:
        found = ecma_pattern(pattern)
    except PatternError:
        return
    found_in(found, "ab1", "it")


@pytest.mark.parametrize(
    "options",
    [
        {"pattern": r"^([a-z]|\w)*$"},
        {"forbid": "^(a|aa)+$"},
        {"schema": {"type": "string", "pattern": r"^([a-z]|\w)*$"}},
        {"schema": {"items": {"pattern": r"^([a-z]|\w)*$"}}},
    ],
)
def test_a_search_without_end_is_an_error_with_the_row(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecma_patterns, "TIMEOUT_S", 0.2)
    text = "a" * 5000 + "!"
    response = {"schema": f'["{text}"]' if "items" in str(options) else f'"{text}"'}.get(next(iter(options)), text)
    started = time.monotonic()
    with pytest.raises(
        InputError, match=r"row 1: .* took more than 0.2 s on a response of .*repeats inside of repeats"
    ):
        load_reward("format", **options).score(
            [""] * 2, ["a" if "schema" not in options else '"a"', response], [[]] * 2
        )
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"multipleOf": 0.1}, [0.3, 1, 0, -0.7, 1e308], [0.35]),
        ({"multipleOf": 3}, [9, 3.0, 10**400 * 3, "x"], [10**400, 1]),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 2}, [1.5], [1, 2]),
        ({"maximum": 9007199254740992}, [9007199254740992], [9007199254740993, 10**400]),
        ({"enum": [1]}, [1, 1.0], [True, "1"]),
        ({"const": False}, [False], [0, None]),
        ({"minLength": 1, "maxLength": 1}, ["🍕"], ["e\u0301"]),
    ],
)
def test_numbers_and_lengths(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    check_schema(schema)
    assert [value for value in good if not fits(value, schema)] == []
    assert [value for value in bad if fits(value, schema)] == []


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": 5}, 'schema.type: "5" is not a type'),
        ({"type": [["string"]]}, "is not a type"),
        ({"minItems": -1}, "schema.minItems: expected a count of at least 0"),
        ({"minLength": 1.5}, "schema.minLength: expected a count"),
        ({"maximum": float("nan")}, "schema.maximum: expected a number"),
        ({"minimum": True}, "schema.minimum: expected a number"),
        ({"multipleOf": 0}, "schema.multipleOf: expected a number above 0"),
        ({"required": [1]}, "schema.required: expected a list of texts"),
    ],
)
def test_a_wrong_schema_is_explained(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_schema(schema)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "[1e999]", "1" * 400, "[" * 70 + "]" * 70, '"\\ud800"', "NaN", "\ufeff1"]
)
def test_json_that_other_readers_refuse_is_none(text: str) -> None:
    assert load_reward("format", json=True).score([""], [text], [[]]) == [0]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 30_000])
def test_repetition_is_found_in_long_texts(size: int) -> None:
    reward = load_reward("format", no_repetition=size)
    start = [f"w{k}" for k in range(size)]
    texts = [" ".join([*start, "x", *start]), " ".join([*start, "x", *start[1:]]), "a" * 100_000, " ".join(start)]
    started = time.process_time()
    assert reward.score([""] * 4, texts, [[]] * 4).tolist() == [0, 1, 1, 1]
    assert time.process_time() - started < 5
