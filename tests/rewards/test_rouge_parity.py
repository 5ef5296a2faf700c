"""rouge equals Google's rouge_score to 1e-9, on random texts and on those chosen to break a tokeniser."""

from __future__ import annotations

import random
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from instructrec_rl import load_reward
from instructrec_rl.core import InputError
from instructrec_rl.rewards import Reward, ngrams, tokens

TYPES = ["rouge1", "rouge2", "rougeL"]
SCORER = RougeScorer(TYPES, use_stemmer=False)
REWARDS = {variant: load_reward("rouge", variant=variant, lang="en") for variant in (*TYPES, "mean")}

ADVERSARIAL = [
    "",
    " ",
    "...",
    "\n\t",
    "🍕🍕 pizza 🍕",
    "披萨好吃",
    "2个pizza和可乐 pizza",
    "Ｐｉｚｚａ full-width pizza",
    "ﬁsh ﬀ ligature fish",
    "İstanbul ISTANBUL ı K K",  # letters whose lower case is ASCII, or longer than they are
    "ΟΔΟΣ Σ",
    "٣ pizzas ٢ 3",
    "under_score under score",
    "mar-gherita mar gherita margherita",
    "&lt;b&gt; &amp; pizza",
    "e\u0301clair éclair e clair",
    "\ud800 lone surrogate \udfff",
    "\x00 null\x00byte \x01",
    "a a a a b b",
    "b b a a a a",
    "abcdefgh abcdefghi abcdefghij",
    "abcdefghabcdefgh abcdefghabcdefghi abcdefghabcdefghijklmnopq",
    "abcdefgh abcdefgh1 abcdefghabcdefgh2",
    "zzzzzzzz zzzzzzzzz 99999999 999999999999999999",
    "x" * 10_000,
    "word " * 2_000,
    " ".join(str(k % 700) for k in range(2_000)),
    " ".join(str(k * 7 % 900) for k in range(2_000)),
]


def expected(response: str, references: list[str]) -> dict[str, float]:
    """rouge_score's F1 of each type, the maximum over the references, and their mean."""
    found = [SCORER.score(reference, response) for reference in references]
    best = {kind: max(scores[kind].fmeasure for scores in found) for kind in TYPES}
    return {**best, "mean": float(np.mean([best[kind] for kind in TYPES]))}


def compare(responses: list[str], references: list[list[str]], rewards: dict[str, Reward] = REWARDS) -> None:
    theirs = [expected(*pair) for pair in zip(responses, references)]
    for variant, reward in rewards.items():
        ours = reward.score([""] * len(responses), responses, references)
        np.testing.assert_allclose(ours, [scores[variant] for scores in theirs], rtol=0, atol=1e-9, err_msg=variant)


words = st.lists(
    st.sampled_from(["a", "b", "Pizza", "pizza", "no", "42", "mushrooms", "quattroformaggi", "é", "-"]), max_size=12
)
sentences = words.map(" ".join)
anything = st.one_of(sentences, st.text(max_size=40), st.text(alphabet="aB1_ -é的İſ\n", max_size=30))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(anything, st.lists(anything, min_size=1, max_size=3)), min_size=1, max_size=8))
def test_equals_rouge_score_on_random_texts(rows: list[tuple[str, list[str]]]) -> None:
    compare([response for response, _ in rows], [references for _, references in rows])


def test_equals_rouge_score_on_adversarial_texts() -> None:
    short = [text for text in ADVERSARIAL if len(text) < 5_000]
    compare([a for a in short for _ in short], [[b] for _ in short for b in short])
    compare(short, [short[::-1]] * len(short))


def test_equals_rouge_score_on_two_thousand_tokens() -> None:
    long = [text for text in ADVERSARIAL if len(text) >= 5_000]
    compare(long, [[long[-1]] for _ in long])


@pytest.fixture
def module() -> ModuleType:
    return tokens


def sample(count: int, vocabulary: int, rng: random.Random) -> list[str]:
    known = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(1, 20))) for _ in range(vocabulary)
    ]
    return [" ".join(rng.choices(known, k=rng.randint(0, 20))) for _ in range(count)]


def test_equals_rouge_score_in_many_chunks_and_with_a_crowded_vocabulary(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small bounds send the same texts through every path: many chunks, slot collisions, stragglers, dropped memos."""
    monkeypatch.setattr(module, "CHUNK_CHARS", 700)
    monkeypatch.setattr(module, "SLICE_CHARS", 200)
    monkeypatch.setattr(ngrams, "SLICE_TOKENS", 30)
    monkeypatch.setattr(module, "SLOT_BITS", 4)
    monkeypatch.setattr(module, "MAX_VOCABULARY", 20)
    rng = random.Random(3)
    texts = sample(400, 60, rng)
    references = [rng.sample(texts, rng.randint(1, 3)) for _ in texts]
    compare(texts, references, {variant: load_reward("rouge", variant=variant) for variant in REWARDS})


def test_more_distinct_words_than_unicode_has_characters_is_an_error_not_a_score(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOT_BITS", 2)
    monkeypatch.setattr(module, "VOCABULARY", module.FIRST_TOKEN + (module.LEVELS << 2) + 9)
    reward = load_reward("rouge")
    text = " ".join(f"w{k}" for k in range(100))
    with pytest.raises(InputError, match="more distinct words than can be told apart"):
        reward.score([""], [text], [["w1"]])
    assert reward.score([""], ["w1"], [["w1"]]).tolist() == [1.0]


def test_sixty_thousand_distinct_words_are_characters_of_their_own() -> None:
    text = " ".join(f"w{k}" for k in range(60_000))
    scores = load_reward("rouge", variant="rouge1").score(["?"] * 2, [text, text], [[text], ["w1 w59999"]])
    assert scores[0] == 1.0
    assert scores[1] == pytest.approx(2 * 2 / 60_002)


def test_many_distinct_texts_keep_the_memo_bounded(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXTS", 50)
    reward = load_reward("rouge")
    for start in range(0, 1_000, 10):
        texts = [f"text number {start + k}" for k in range(10)]
        assert reward.score([""] * 10, texts, [[text] for text in texts]).tolist() == [1.0] * 10
    assert len(reward.scorer.texts._known) <= 60
