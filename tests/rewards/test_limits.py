"""Long and odd responses end no reward and hang none; scores and weights beyond what floats hold are named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_rl import load_reward
from instructrec_rl.rewards import RewardError
from tests.rewards.test_rewards import reward_file

LENGTH = 100_000
PIECES = [
    "a",
    "y",
    "word ",
    "1",
    ",",
    " ",
    "line\n",
    "&amp;",
    "a.b.",
    "aé",
    "🍕",
    "ก",
    "披",
    "\u0301",
    "!",
    "-\n",
    "@ss ",
]
PIECES += ["not good ", "but good ", "'", "_", "я'", "\ud800", "\x00"]
REWARDS: list[tuple[str, dict[str, Any]]] = [
    ("rouge", {"variant": "mean"}),
    ("rouge", {"stemmer": True}),
    ("bleu", {}),
    ("chrf", {"word_order": 2}),
    ("meteor", {}),
    ("ter", {}),
    ("ter", {"normalized": True}),
    ("fuzzy", {"token_set": True}),
    ("exact_match", {"punctuation": True, "articles": True, "unicode": True}),
    ("numeric", {}),
    ("format", {"max_words": 3, "no_repetition": 3, "json": True, "pattern": "^Answer: .*[0-9]+$"}),
    ("profanity", {"variant": "share"}),
    ("sentiment", {}),
]


@pytest.mark.parametrize(("name", "options"), REWARDS, ids=lambda value: value if isinstance(value, str) else "")
def test_no_response_of_a_hundred_thousand_characters_hangs_a_reward(name: str, options: dict[str, Any]) -> None:
    if name in ("profanity", "sentiment"):
        pytest.importorskip({"profanity": "better_profanity", "sentiment": "vaderSentiment"}[name])
    reward = load_reward(name, **options)
    reward.score([""], ["warm"], [["the 5"]])
    for piece in PIECES:
        started = time.process_time()
        scores = reward.score([""], [piece * (LENGTH // len(piece))], [["the quick brown fox is 5"]])
        assert 0 <= scores[0] <= 1
        assert time.process_time() - started < 10, piece


def test_sentiment_of_any_words_is_vaders() -> None:
    vader = pytest.importorskip("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()
    reward = load_reward("sentiment")
    vocabulary = st.sampled_from(
        [
            "not",
            "good",
            "very",
            "never",
            "so",
            "this",
            "bad",
            "without",
            "doubt",
            "the",
            "shit",
            "bomb",
            "kiss",
            "of",
            "death",
            "no",
            "but",
            "at",
            "least",
            "BAD",
            "!",
        ]
    )

    @settings(max_examples=200, deadline=None)
    @given(st.lists(vocabulary, max_size=30).map(" ".join))
    def check(text: str) -> None:
        expected = (1 + vader.polarity_scores(text)["compound"]) / 2
        assert reward.score([""], [text], [[]])[0] == pytest.approx(expected, abs=1e-12)

    check()


@pytest.mark.parametrize(
    ("score", "shown"),
    [("10**400", "of more than 308 digits"), ("10**5000", "of more than 308 digits"), ("1e308", "1e.308"),
     ("-1e308", "-1e.308"),
     ("float('nan')", "nan"), ("float('inf')", "inf"), ("None", "None"), ("1j", r"1j"), ("'1'", "1")],
)  # fmt: skip
def test_a_score_that_is_none_is_named_with_its_row(
    score: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reward_file(tmp_path, "mine.py", f"def score(batch, config):\n    return [0.5, {score}]\n")
    with pytest.raises(RewardError, match=rf'reward mine: row [01] \(response ".*"\): the score {shown}.* is not'):
        load_reward("mine").score([""] * 2, ["a", "b"], [[], []])


def test_huge_weights_are_weights() -> None:
    huge = load_reward("weighted", parts={"rouge": 1e308, "exact_match": 1e308})
    assert huge.score([""], ["a b"], [["a c"]]) == [0.25]
    huge = load_reward("schedule", parts={"rouge": [[0, 1e308]], "exact_match": [[0, 1.5e308]]})
    np.testing.assert_allclose(huge.score([""], ["a b"], [["a c"]]), 0.5 * 0.4)


@pytest.mark.parametrize("variant", ["cosine", "greedy"])
def test_similarity_reads_emoji_by_their_names(variant: str) -> None:
    reward = load_reward("similarity", variant=variant)
    pairs = [("👍 great", "👎 great"), ("😀", "😭"), ("🐶", "🚀"), ("🇮🇹", "🇫🇷")]
    scores = reward.score([""] * 4, [left for left, _ in pairs], [[right] for _, right in pairs])
    assert (scores < 0.99).all()
    assert reward.score([""], ["🐶"], [["dog face"]])[0] > 0.9
    assert reward.score([""] * 4, [left for left, _ in pairs], [[left] for left, _ in pairs]).tolist() == [1] * 4
