"""profanity and sentiment: the numbers of the packages they stand on, and what they say where one is missing."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
from better_profanity import Profanity
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from instructrec_rl import load_reward
from instructrec_rl.core import InputError
from instructrec_rl.core.command_line import dispatch, run_command

MILD = ["damn", "crap", "hell", "sh1t", "Cr@p", "D4MN"]
PLAIN = ["the", "pizza", "Hello", "shellfish", "scrap", "披萨", "a-b", "$5", "it's", "naïve", "x", "4ss"]


def score(name: str, responses: list[str], **options: Any) -> list[float]:
    reward = load_reward(name, **options)
    return reward.score([""] * len(responses), responses, [[]] * len(responses)).tolist()


def mixtures(count: int) -> list[str]:
    """Texts of plain words with words of the list in all their spellings, joined in several ways."""
    package, rng = Profanity(), random.Random(2)
    listed = [str(word) for word in package.CENSOR_WORDSET]
    texts = []
    for _ in range(count):
        words = rng.choices(PLAIN, k=rng.randint(0, 7))
        for word in rng.choices(listed, k=rng.randint(0, 2)):
            spelling = "".join(rng.choice(package.CHARS_MAPPING.get(char, (char, char.upper()))) for char in word)
            words.insert(rng.randint(0, len(words)), spelling)
        texts.append(rng.choice([" ", ", ", "-", "_"]).join(words) + rng.choice(["", ".", "!"]))
    return texts


def test_profanity_finds_what_better_profanity_finds() -> None:
    texts = mixtures(150)
    package = Profanity()
    expected = [not package.contains_profanity(text) for text in texts]
    assert score("profanity", texts) == expected
    assert 20 < sum(expected) < 130


def test_profanity_by_share_counts_words() -> None:
    responses = ["a damn good pizza", "damn, what a crap", "a pizza", "", "damn", "🍕 \ue000\ue000\ue000\ue000 pizza"]
    assert score("profanity", responses, variant="share") == [0.75, 0.5, 1, 1, 0, 1]
    assert score("profanity", responses) == [0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("word", MILD)
def test_profanity_sees_through_look_alike_characters(word: str) -> None:
    assert score("profanity", [f"this {word} pizza"]) == [0]


def test_profanity_takes_words_and_leaves_words_out() -> None:
    responses = ["chicken breasts", "pineapple pizza", "p1neapple", "a deep dish, please"]
    assert score("profanity", responses) == [0, 1, 1, 1]
    options = {"allow": ["Breasts"], "words": ["Pineapple", "deep dish"]}
    assert score("profanity", responses, **options) == [1, 0, 0, 0]
    assert score("profanity", responses) == [0, 1, 1, 1]  # the package's own list is as it was
    with pytest.raises(InputError, match=r'allow: "brests" is not on the list\. Did you mean "breasts"\?'):
        load_reward("profanity", allow=["brests"])


def test_sentiment_is_vaders_compound() -> None:
    responses = [
        "I love it!",
        "I HATE it",
        "mushrooms",
        "",
        "not bad at all",
        "🙂 good",
        "披萨",
        "the worst pizza ever",
    ]
    analyzer = SentimentIntensityAnalyzer()
    compound = np.array([analyzer.polarity_scores(text)["compound"] for text in responses])
    assert compound.max() > 0.5
    assert compound.min() < -0.5
    assert score("sentiment", responses) == ((1 + compound) / 2).tolist()
    assert score("sentiment", responses, target="negative") == ((1 - compound) / 2).tolist()
    assert score("sentiment", responses, target="neutral") == (1 - abs(compound)).tolist()
    assert score("sentiment", responses * 3) == ((1 + compound) / 2).tolist() * 3


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("profanity", "better_profanity", "better-profanity"),
        ("sentiment", "vaderSentiment.vaderSentiment", "vaderSentiment"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(
    name: str,
    module: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    (tmp_path / "p.jsonl").write_text('"a"\n')
    assert run_command(dispatch, ["score", "--reward", name, "--predictions", str(tmp_path / "p.jsonl")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith(f"reward {name}: needs {package}: pip install 'instructrec-rl[language]'")
    assert "\n" not in said
