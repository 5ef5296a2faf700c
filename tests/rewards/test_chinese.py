"""Chinese, Japanese and mixed texts: every metric of texts gives identical, near and different answers their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from instructrec_rl import load_reward

ASKED = "请给我推荐一款好吃的披萨。"
NEAR = "给我推荐一款好吃的披萨吧。"
DIFFERENT = "明天天气怎么样？"

# Scores of ASKED, NEAR and DIFFERENT against ASKED, worked out by hand where a formula is short.
# 12 characters and a full stop each; NEAR lacks 请 and adds 吧 (so 11 of 12 are shared, 10 of 11 neighbours).
TABLE: dict[str, tuple[dict[str, Any], tuple[float, float, float]]] = {
    "rougeL": ({}, (1.0, 11 / 12, 0.0)),
    "rouge1": ({"variant": "rouge1"}, (1.0, 11 / 12, 0.0)),
    "rouge2": ({"variant": "rouge2"}, (1.0, 10 / 11, 0.0)),
    "rougeLsum": ({"variant": "rougeLsum"}, (1.0, 11 / 12, 0.0)),
    "rouge stemmed": ({"stemmer": True}, (1.0, 11 / 12, 0.0)),
    # 12/13, 10/12, 9/11 and 8/10 of the n-grams are shared, the lengths are equal
    "bleu": ({}, (1.0, (12 / 13 * 10 / 12 * 9 / 11 * 8 / 10) ** 0.25, 0.0)),
    # 13 in 1 chunk; 12 of 13 in 2 chunks; nothing
    "meteor": ({}, (1 - 0.5 / 13**3, (1 - 0.5 * (2 / 12) ** 3) * 12 / 13, 0.0)),
    "ter": ({}, (1.0, 1 - 2 / 13, 0.0)),
    "fuzzy": ({}, (1.0, 1 - 2 / 13, 0.0)),
    "exact_match": ({}, (1.0, 0.0, 0.0)),
}


@pytest.mark.parametrize("lang", ["auto", "zh"])
@pytest.mark.parametrize("metric", TABLE)
def test_identical_near_and_different_answers(metric: str, lang: str) -> None:
    options, expected = TABLE[metric]
    name = "rouge" if metric.startswith("rouge") else metric
    if name not in ("fuzzy", "exact_match"):
        options = {**options, "lang": lang}
    scores = load_reward(name, **options).score(["?"] * 3, [ASKED, NEAR, DIFFERENT], [[ASKED]] * 3)
    assert scores == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("word_order", [0, 2])
def test_chrf_needs_no_language(word_order: int) -> None:
    same, near, different = load_reward("chrf", word_order=word_order).score(
        ["?"] * 3, [ASKED, NEAR, DIFFERENT], [[ASKED]] * 3
    )
    assert same == pytest.approx(1, abs=1e-12)
    assert 0.5 < near < 0.9
    assert different == 0


def test_english_rules_see_no_chinese_words() -> None:
    """What the reference implementations do: rouge_score finds no token, BLEU and METEOR one or two long ones."""
    for name, expected in (("rouge", [0, 0]), ("bleu", [1, 0]), ("ter", [1, 0])):
        scores = load_reward(name, lang="en").score(["?"] * 2, [ASKED, NEAR], [[ASKED]] * 2)
        assert scores == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("response", "reference", "rouge1", "rouge2"),
    [
        ("2个pizza和可乐", "2个pizza和可乐", 1.0, 1.0),  # 2 个 pizza 和 可 乐
        ("2 个 PIZZA 和可乐。", "2个pizza和可乐", 1.0, 1.0),
        ("3个pizza和可乐", "2个pizza和可乐", 5 / 6, 4 / 5),
        ("pizza", "2个pizza和可乐", 2 / 7, 0.0),
        ("2个比萨和可乐", "2个pizza和可乐", 2 * 5 / (7 + 6), 2 * 3 / (6 + 5)),
        ("ピザとコーラ", "ピザとコーヒー", 10 / 13, 8 / 11),
        ("披萨", "萨披", 1.0, 0.0),
        ("pizza", "披萨", 0.0, 0.0),
    ],
)
def test_mixed_texts(response: str, reference: str, rouge1: float, rouge2: float) -> None:
    for variant, expected in (("rouge1", rouge1), ("rouge2", rouge2)):
        [score] = load_reward("rouge", variant=variant).score(["?"], [response], [[reference]])
        assert score == pytest.approx(expected)
    [same] = load_reward("bleu").score(["?"], [reference], [[reference]])
    assert same == pytest.approx(1, abs=1e-12)


def test_mixed_texts_in_meteor_and_bleu() -> None:
    """METEOR: 2 个 pizzas 和 可 乐 meets 2 个 pizza 和 可 乐 by its stem; BLEU: five of six tokens, 3, 1 and none."""
    [stem] = load_reward("meteor").score(["?"], ["2个pizzas和可乐"], [["2个pizza和可乐"]])
    assert stem == pytest.approx(1 - 0.5 / 6**3)
    [bleu] = load_reward("bleu").score(["?"], ["2个pizzas和可乐"], [["2个pizza和可乐"]])
    assert bleu == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * (1 / 2) / 3) ** 0.25)


@pytest.mark.parametrize("name", ["rouge", "bleu", "meteor", "ter"])
def test_languages_agree_on_latin_texts(name: str) -> None:
    responses = ["Two pizzas, please.", "où est la pizza?", "🍕 pizza ½ €", "a-b 3.5", ""]
    references = [["Two large pizzas."], ["la pizza est où?"], ["pizza 🍕"], ["a b 3.5"], ["x"]]
    scores = [load_reward(name, lang=lang).score([""] * 5, responses, references) for lang in ("en", "zh", "auto")]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])
