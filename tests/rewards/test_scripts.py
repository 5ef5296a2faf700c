"""Words and scores in every script of Unicode: what is equal is paid, and English stays what the references say."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_rl import load_reward
from instructrec_rl.config.schema import EnvConfig
from instructrec_rl.core import InputError
from instructrec_rl.env.environment import make_environment
from instructrec_rl.env.spec import load_spec
from instructrec_rl.rewards.tokens import _ASCII_WORD, _WORD, OTHER_SCRIPT, WORD_RULES, word_rule, words

TEXTS = {
    "Cyrillic": "я иду на работу",
    "Greek": "ΚΑΛΗΜΕΡΑ ΚΟΣΜΕ",
    "Arabic": "مرحبا بالعالم",
    "Hebrew": "שלום עולם",
    "Hindi": "नमस्ते दुनिया",
    "Bengali": "ওহে বিশ্ব",
    "Tamil": "வணக்கம் உலகம்",
    "Thai": "สวัสดีชาวโลก",
    "Lao": "ສະບາຍດີ",
    "Khmer": "សួស្តី",
    "Burmese": "မင်္ဂလာပါ",
    "Korean": "안녕하세요 세계",
    "Georgian": "გამარჯობა მსოფლიო",
    "Armenian": "Բարեւ աշխարհ",
    "Amharic": "ሰላም ልዑል",
    "Tibetan": "བཀྲ་ཤིས་",
    "Cherokee": "ᎣᏏᏲ",
    "digits": "٣٤ ١٢",
    "emoji": "👍🏽 🇮🇹",
}


@pytest.mark.parametrize("variant", ["rouge1", "rougeL", "rougeLsum"])
@pytest.mark.parametrize("script", TEXTS)
def test_rouge_pays_equal_texts_and_not_others(script: str, variant: str) -> None:
    text, other = TEXTS[script], TEXTS["Greek" if script != "Greek" else "Hindi"]
    reward = load_reward("rouge", variant=variant)
    composed = unicodedata.normalize("NFD", text.upper())
    assert reward.score([""] * 3, [text, other, composed], [[text]] * 3).tolist() == [1, 0, 1]
    assert load_reward("rouge", variant=variant, lang="zh").score([""], [text], [[text]]) == [1]
    assert load_reward("rouge", variant=variant, lang="en").score([""], [text], [[text]]) == [0]
    assert load_reward("rouge", variant="rouge1").score([""], [text[: len(text) // 2]], [[text]])[0] < 1


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter", "fuzzy", "exact_match"])
def test_every_metric_pays_equal_texts(name: str) -> None:
    texts = list(TEXTS.values())
    assert load_reward(name).score([""] * len(texts), texts, [[text] for text in texts]) == pytest.approx(1)


def test_thai_is_compared_by_character_in_every_metric_of_words() -> None:
    for name in ("rouge", "bleu", "meteor", "ter"):
        [near] = load_reward(name).score([""], ["สวัสดีชาวโลกครับ"], [["สวัสดีชาวโลก"]])
        assert 0 < near < 1, name
        assert load_reward(name, lang="en").score([""], ["สวัสดีชาวโลกครับ"], [["สวัสดีชาวโลก"]])[0] < 0.1


def test_rouge_reads_every_letter_of_every_script_but_latin() -> None:
    letters = [
        chr(code) for code in range(0x370, 0x2FFFF) if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lo", "Lm", "Nd")
    ]
    mine = regex.compile(
        r"[^\p{Script=Latin}\p{Script=Common}\p{Script=Inherited}\p{Script=Han}\p{Hiragana}\p{Katakana}]"
    )
    letters = [letter for letter in letters if mine.match(letter)]
    assert len(letters) > 20_000
    assert [
        letter for letter in letters if not OTHER_SCRIPT.search(letter) and ord(letter) not in range(0xE00, 0x1A80)
    ] == []
    scores = load_reward("rouge").score([""] * len(letters), letters, [[letter] for letter in letters])
    assert [letter for letter, score in zip(letters, scores) if score != 1] == []


latin = st.text(st.characters(max_codepoint=0x24F), max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(latin, latin), min_size=1, max_size=5), st.sampled_from(["rouge1", "rouge2", "rougeLsum"]))
def test_latin_scores_as_the_reference_implementation(rows: list[tuple[str, str]], variant: str) -> None:
    responses, references = [row[0] for row in rows], [[row[1]] for row in rows]
    scores = [
        load_reward("rouge", variant=variant, lang=lang).score([""] * len(rows), responses, references)
        for lang in ("auto", "en")
    ]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't stop at 8.99, e.g. a-b", ["don't", "stop", "at", "8.99", "e.g", "a", "b"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("cafe\u0301 naïve", ["cafe\u0301", "naïve"]),
        ("м’ята п'ять", ["м’ята", "п'ять"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("2个pizza", ["2", "个", "pizza"]),
        ("กำลัง", ["ก", "ำ", "ลั", "ง"]),
        ("25 m² under_score 🍕 ...", ["25", "m²", "under_score"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.one_of(st.text(st.characters(max_codepoint=127)), st.text("aB1_.,;:'\"- \n")))
def test_both_ways_to_find_words_agree(text: str) -> None:
    assert _ASCII_WORD.findall(text) == _WORD.findall(text)


@given(st.text())
def test_a_word_holds_no_blank_and_stands_in_the_text(text: str) -> None:
    place = 0
    for word in words(text):
        assert word
        assert not any(char.isspace() for char in word)
        place = text.index(word, place) + len(word)


@pytest.mark.parametrize("options", [{"max_words": 2}, {"no_repetition": 1}, {"min_words": 2}])
def test_format_counts_words_of_any_script(options: dict[str, Any]) -> None:
    texts = ["नमस्ते दुनिया", "안녕하세요 세계", "don't stop", "cafe\u0301 noir"]
    assert load_reward("format", **options).score([""] * 4, texts, [[]] * 4).tolist() == [1] * 4


def test_a_vocabulary_of_other_words_is_refused() -> None:
    with pytest.raises(InputError, match=r"tfidf.json: words are counted by the rules \[1, 2\], not 3; learn it again"):
        word_rule({"idf": {}, "words": 3}, Path("tfidf.json"))
    assert [word_rule(about, Path("tfidf.json")) for about in ({"words": 2}, {"idf": {}})] == [2, 1]
    assert WORD_RULES[1]("don't eat 2 披萨") == ["don", "t", "eat", "2", "披", "萨"]
    assert WORD_RULES[2]("don't") == ["don't"]


@pytest.mark.parametrize(
    "piece", ["a", "_", "a'", "1.", "é", "e\u0301", "\u0301", "я'", "👍", "\u200d", "ก", "न्", "٣,", "' "]
)
def test_words_and_rouge_are_linear_in_the_text(piece: str) -> None:
    import time

    text = piece * (300_000 // len(piece))
    started = time.process_time()
    words(text)
    load_reward("rouge", variant="rouge1").score([""], [text], [["a"]])
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("texts", "reward", "options", "message"),
    [
        (("été", "ß", "œuf"), "rouge", {"lang": "en"}, None),  # "été" has a t
        (("é", "ß", "…"), "rouge", {}, r'row "train-0-.*", "[éß…]"\).*; choose reward=chrf, which reads characters'),
        (("мир", "дом", "лес"), "rouge", {"lang": "en"}, r"; choose reward.lang=auto, which reads every script, or"),
        (("мир", "дом", "лес"), "rouge", {}, None),
        (
            ("ham", "egg", "tea"),
            "rouge",
            {"variant": "rouge2"},
            r"choose reward.variant=rouge1, as rouge2 needs two words",
        ),
        (("é", "ß", "…"), "weighted", {"parts": {"rouge": 1, "exact_match": 1}}, r"reward rouge: no right answer"),
        (("é", "ß", "…"), "bleu", {}, None),
        (("é", "ß", "…"), "meteor", {}, None),
    ],
)
def test_a_reward_that_pays_no_right_answer_is_an_error_before_training(
    texts: tuple[str, ...], reward: str, options: dict[str, Any], message: str | None, echo: Any, tmp_path: Path
) -> None:
    echo()
    path = tmp_path / "envs" / "echo" / "items.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({**row, "text": texts[i % 3] + "…" * (i // 3)}) + "\n" for i, row in enumerate(rows))
    )
    spec = load_spec(EnvConfig(name="echo"))
    env = make_environment(spec, SimpleNamespace(dim=2), reward, options)  # type: ignore[arg-type]
    if message is None:
        assert env.reward.name == reward
    else:
        with pytest.raises(InputError, match=message) as raised:
            _ = env.reward
        assert str(spec.files[-1]) in str(raised.value)
