"""bleu, chrf, ter, meteor, fuzzy and rouge equal their reference implementations, one reference or several."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import wordpunct_tokenize
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER

from instructrec_rl import load_reward
from instructrec_rl.core import Batch, InputError
from instructrec_rl.rewards import Reward, ngrams, tokens

logging.getLogger("sacrebleu").setLevel(logging.ERROR)  # it advises effective order in every call

Row = tuple[str, list[str]]
Reference = Callable[[str, list[str]], float]

ADVERSARIAL = [
    "",
    " ",
    "a",
    "...",
    "a..b, c,d.5 5.5-3 5-a a-5 $5.",
    " 1.a.2,,3 . , .",
    "1,000.50 -5 --5 5-- 5.-",
    "x&amp;y &lt;b&gt; &quot;q&quot; &amp;lt; &apos; & ;",
    "<skipped> foo-\nbar foo-\n",
    "one line\nanother line\r\nthe last line one\n",
    "the last line\none another line",
    "🍕🍕 pizza 🍕 👨‍👩‍👧",
    "披萨好吃 披萨",
    "2个pizza和可乐 pizza",
    "ピザ とコーラ、ﾋﾟｻﾞ",
    "Ｐｉｚｚａ ｆｕｌｌ 12",
    "ﬁsh ﬀ fish ligature",
    "İstanbul ISTANBUL ı ΟΔΟΣ Σ straße",
    "٣ pizzas ٢ 3 ۴",
    "under_score's don't -- e\u0301clair éclair e clair",
    "हिन्दी में पिज़्ज़ा",
    "\ud800 lone \udfff",
    "\x00 null\x00byte \x01\x1c\x1d a\x1eb\x1fc \x85 \xa0 \u2028",
    "a a\x00 a\x00\x00 \x00 \x00\x00 b\x00\x00\x00\x00\x00\x00\x00 \x00\x00\x00\x00\x00\x00\x00\x00b",
    "a \x00 a b b\x00 \x00b",
    "running runs ran runner flies fly happily happy",
    "abcdefgh abcdefgé abcdefghé abcdefghabcdefgé abcdefghabcdefghé",
    "a b a b b a a b",
    "b b a a a a b c",
    "где пицца где абв, Где",
    "word " * 60,
    "\"quoted\" (word) [x] {y} ~ ` ^ word! ?word 'it's'",
    "🏳️‍🌈 🇨🇳🇺🇸 1️⃣ 👍🏽👍 pizza🍕",
    "اطلب ٢ بيتزا، ٣٫٥ و ١٬٠٠٠",
    "بيتزا 2 ۲ २",
    "ﬃ ﬄ ﬆ ĳ œuvre ffi ffl",
    "&nbsp;a&#39;b &#x1F355; &copy &amp;amp;quot; &LT;",
    '&quot;a&quot; "a" &amp &amp; &',
    "e\u0301 é ẹ\u0301 Z\u0351\u036b\u0343a\u0325\u0363l\u0327g\u0301o",
    "o\u0308ffnen öffnen O\u0308FFNEN",
    "한국어 피자 \u1112\u1161\u11ab\u1100\u116e\u11a8",
    "พิซซ่า อร่อย พิซซ่า",
    "עברית \u200fפיצה\u200e pizza",
    "zero\u200bwidth\u200djoin\ufeff soft\u00adhyphen zerowidth",
    "ａ，ｂ。「披萨」、！？ 披萨！",
    "𝒫𝒾𝓏𝓏𝒶 𠮷野家 𠮷",
    "C++ c# .NET e-mail@x.org http://a.b/c?d=e&f=g 10:30",
    "a\tb\u3000c  d \u2003e\r\nf",
    "-1 +2 1e5 1/2 50% ½ ² ①",
]
LONG = ["x" * 10_000, "word " * 2_000, "披萨" * 1_000, " ".join(str(k * 7 % 700) for k in range(2_000))]
WORDS = [
    *("a", "the", "pizza", "Pizza", "pizzas", "no-one", "3.5", "$12,", "running", "runs", "happily", "x_y", "don't"),
    *("end.", "é", "пицца", "披萨", "ピザ", "🍕", "&amp;", "...", "\n"),
]


class NoSynonyms:
    def synsets(self, word: str) -> list[str]:
        return []


def bleu(**options: Any) -> Reference:
    metric = BLEU(**{"effective_order": True, **options})
    return lambda response, references: metric.sentence_score(response, references).score / 100


def chrf(**options: Any) -> Reference:
    metric = CHRF(**options)
    return lambda response, references: metric.sentence_score(response, references).score / 100


def ter(**options: Any) -> Reference:
    metric = TER(**options)
    return lambda response, references: max(0.0, 1 - metric.sentence_score(response, references).score / 100)


def meteor(**options: Any) -> Reference:
    return lambda response, references: meteor_score(
        [wordpunct_tokenize(text) for text in references],
        wordpunct_tokenize(response),
        wordnet=NoSynonyms(),
        **options,
    )


def rouge(kind: str, stemmer: bool) -> Reference:
    scorer = RougeScorer([kind], use_stemmer=stemmer)
    return lambda response, references: scorer.score_multi(references, response)[kind].fmeasure


def levenshtein(response: str, references: list[str]) -> float:
    """Plain dynamic programming over the distances of prefixes."""

    def ratio(a: str, b: str) -> float:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            above, row[0] = row[0], i
            for j, y in enumerate(b, 1):
                above, row[j] = row[j], min(above + (x != y), row[j] + 1, row[j - 1] + 1)
        return 1 - row[-1] / max(len(a), len(b)) if a or b else 1.0

    return max(ratio(response, text) for text in references)


CASES: dict[str, tuple[str, dict[str, Any], Reference, float]] = {
    "bleu": ("bleu", {}, bleu(), 1e-12),
    "bleu floor": ("bleu", {"smooth": "floor"}, bleu(smooth_method="floor"), 1e-12),
    "bleu add-k": (
        "bleu",
        {"smooth": "add-k", "smooth_value": 0.5},
        bleu(smooth_method="add-k", smooth_value=0.5),
        1e-12,
    ),
    "bleu none": ("bleu", {"smooth": "none", "lowercase": True}, bleu(smooth_method="none", lowercase=True), 1e-12),
    "bleu-2": (
        "bleu",
        {"max_order": 2, "effective_order": False},
        bleu(max_ngram_order=2, effective_order=False),
        1e-12,
    ),
    "chrF": ("chrf", {}, chrf(), 1e-12),
    "chrF++": ("chrf", {"word_order": 2}, chrf(word_order=2), 1e-12),
    "chrF3": (
        "chrf",
        {"char_order": 4, "beta": 3, "lowercase": True, "whitespace": True},
        chrf(char_order=4, beta=3, lowercase=True, whitespace=True),
        1e-12,
    ),
    "meteor": ("meteor", {}, meteor(), 1e-9),
    "meteor tuned": ("meteor", {"alpha": 0.5, "beta": 1.5, "gamma": 0.3}, meteor(alpha=0.5, beta=1.5, gamma=0.3), 1e-9),
    "ter": ("ter", {}, ter(), 1e-9),
    "ter normalized": (
        "ter",
        {"normalized": True, "no_punct": True, "case_sensitive": True},
        ter(normalized=True, no_punct=True, case_sensitive=True),
        1e-9,
    ),
    "fuzzy": ("fuzzy", {"casefold": False}, levenshtein, 1e-9),
    **{
        f"{kind}{' stemmed' * stemmer}": ("rouge", {"variant": kind, "stemmer": stemmer}, rouge(kind, stemmer), 1e-9)
        for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")
        for stemmer in (False, True)
    },
}


def loaded(name: str, options: dict[str, Any]) -> Reward:
    in_english = {} if name in ("chrf", "fuzzy") else {"lang": "en"}
    return load_reward(name, **options, **in_english)


def compare(case: str, rows: Sequence[Row]) -> None:
    name, options, reference, tolerance = CASES[case]
    reward = loaded(name, options)
    ours = reward.score([""] * len(rows), [row[0] for row in rows], [row[1] for row in rows])
    theirs = np.array([reference(*row) for row in rows])
    worst = int(np.abs(ours - theirs).argmax())
    assert abs(ours[worst] - theirs[worst]) <= tolerance, (case, rows[worst], ours[worst], theirs[worst])


def random_rows(count: int, seed: int, longest: int = 14) -> list[Row]:
    rng = random.Random(seed)
    vocabulary = WORDS + ["".join(rng.choices("abcdeginorst", k=rng.randint(1, 12))) for _ in range(60)]

    def text() -> str:
        return " ".join(rng.choices(vocabulary, k=rng.randint(0, longest)))

    def near(other: str) -> str:
        words = other.split(" ")
        rng.shuffle(words)
        return " ".join(words[: rng.randint(1, len(words))] + rng.choices(vocabulary, k=rng.randint(0, 3)))

    rows = []
    for _ in range(count):
        references = [text() for _ in range(rng.randint(1, 3))]
        rows.append((near(references[0]) if rng.random() < 0.7 else text(), references))
    return rows


def adversarial_rows() -> list[Row]:
    """Every text against every other, then each against several."""
    rng = random.Random(1)
    rows = [(a, [b]) for a in ADVERSARIAL for b in ADVERSARIAL]
    return rows + [(a, rng.choices(ADVERSARIAL, k=rng.randint(2, 6))) for a in ADVERSARIAL for _ in range(5)]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_on_two_thousand_adversarial_pairs(case: str) -> None:
    rows = adversarial_rows()
    assert len(rows) > 2000
    compare(case, rows)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_on_ten_thousand_characters(case: str) -> None:
    short = ADVERSARIAL[2:30:4]
    compare(case, [(a, [b]) for a in LONG for b in short] + [(b, [a, b[::-1]]) for a in LONG for b in short])
    if case not in ("ter", "ter normalized", "fuzzy") and "rouge" not in case:  # there the references take minutes
        compare(case, [(a, [b, ADVERSARIAL[4]]) for a in LONG for b in LONG])


CORPORA: dict[str, tuple[Any, float]] = {
    "bleu": (BLEU(), 1e-12),
    "bleu floor": (BLEU(smooth_method="floor"), 1e-12),
    "bleu add-k": (BLEU(smooth_method="add-k", smooth_value=0.5), 1e-12),
    "bleu none": (BLEU(smooth_method="none", lowercase=True), 1e-12),
    "bleu-2": (BLEU(max_ngram_order=2), 1e-12),
    "chrF": (CHRF(), 1e-12),
    "chrF++": (CHRF(word_order=2), 1e-12),
    "chrF3": (CHRF(char_order=4, beta=3, lowercase=True, whitespace=True), 1e-12),
    "ter": (TER(), 1e-9),
    "ter normalized": (TER(normalized=True, no_punct=True, case_sensitive=True), 1e-9),
}


def compare_corpus(case: str, rows: Sequence[Row]) -> None:
    """In two chunks, as `instructrec-rl score` reads them; sacrebleu takes the k-th references of all rows together."""
    (name, options, _, _), (metric, tolerance) = CASES[case], CORPORA[case]
    streams = [[row[1][k] if k < len(row[1]) else None for row in rows] for k in range(max(len(r[1]) for r in rows))]
    theirs = metric.corpus_score([row[0] for row in rows], streams).score / 100
    theirs = max(0.0, 1 - theirs) if name == "ter" else theirs
    reward, half = loaded(name, options), len(rows) // 2
    sums = 0.0
    for part in filter(None, (rows[:half], rows[half:])):
        batch = Batch([""] * len(part), [row[0] for row in part], [row[1] for row in part])
        scores, statistics = reward.score_with_statistics(batch)
        assert scores.tolist() == reward.score_batch(batch).tolist()
        sums = sums + statistics.sum(axis=0)
    assert abs(reward.corpus_score(sums) - theirs) <= tolerance, (case, theirs)


@pytest.mark.parametrize("case", CORPORA)
def test_corpus_score_equals_sacrebleus(case: str) -> None:
    compare_corpus(case, adversarial_rows())
    compare_corpus(case, random_rows(500, seed=8))
    for seed in range(20):  # corpora of a row or two, where smoothing and lengths matter
        compare_corpus(case, random_rows(1 + seed % 2, seed=seed, longest=8))


@pytest.mark.slow
@pytest.mark.parametrize("case", CORPORA)
def test_corpus_score_equals_sacrebleus_on_fifty_thousand_pairs(case: str) -> None:
    compare_corpus(case, random_rows(26_000, seed=11, longest=10))


def test_ter_finds_sacrebleus_edits_with_shifts_and_beyond_its_beam() -> None:
    rng = random.Random(4)
    rows: list[Row] = []
    for _ in range(80):
        longest, vocabulary = rng.choice([(6, 3), (12, 5), (12, 40), (40, 12), (60, 200)])
        reference = [str(rng.randrange(vocabulary)) for _ in range(rng.randint(0, longest))]
        at, to = sorted(rng.randrange(len(reference) + 1) for _ in range(2))
        response = reference[to:] + reference[:at] + [word for word in reference[at:to] if rng.random() < 0.8]
        other = [str(rng.randrange(vocabulary)) for _ in range(rng.randint(0, longest))]
        rows += [(" ".join(response), [" ".join(reference)]), (" ".join(other), [" ".join(reference)])]
    compare("ter", rows)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_on_random_pairs(case: str) -> None:
    compare(case, random_rows(300, seed=5))


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case != "fuzzy"])
def test_equals_the_reference_on_fifty_thousand_pairs(case: str) -> None:
    rows = random_rows(26_000, seed=11, longest=10)
    assert sum(len(references) for _, references in rows) > 50_000
    compare(case, rows)


@pytest.mark.slow
def test_fuzzy_equals_plain_dynamic_programming_on_fifty_thousand_pairs() -> None:
    compare("fuzzy", random_rows(26_000, seed=11, longest=3))


texts = st.one_of(st.text(max_size=30), st.text(alphabet="aB1 .,-$&;\né披ナ", max_size=30))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=6))
def test_equals_the_references_on_any_text(rows: list[Row]) -> None:
    for case in ("bleu", "chrF", "chrF++", "meteor", "fuzzy", "ter", "rougeLsum stemmed"):
        compare(case, rows)
    for case in ("bleu", "chrF", "chrF++", "ter"):
        compare_corpus(case, rows)


@pytest.mark.parametrize("case", ["bleu", "chrF++", "meteor", "rouge2 stemmed"])
def test_small_bounds_change_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same texts through many slices, chunks, a crowded vocabulary and dropped memos."""
    monkeypatch.setattr(ngrams, "SLICE_TOKENS", 30)
    monkeypatch.setattr(tokens, "SLICE_CHARS", 100)
    monkeypatch.setattr(tokens, "CHUNK_CHARS", 700)
    monkeypatch.setattr(tokens, "SLOT_BITS", 3)
    monkeypatch.setattr(tokens, "MAX_VOCABULARY", 10)
    compare(case, random_rows(150, seed=7))


def test_the_mean_over_references_by_option() -> None:
    responses, references = ["the pizza here", "a"], [["the pizza", "pasta", "the pizza here"], ["a"]]
    for name in ("rouge", "meteor", "chrf", "fuzzy"):
        best, mean = load_reward(name), load_reward(name, multi="mean")
        single = [best.score([""], responses[:1], [[text]])[0] for text in references[0]]
        assert best.score([""] * 2, responses, references)[0] == max(single)
        assert mean.score([""] * 2, responses, references)[0] == pytest.approx(np.mean(single), abs=1e-15)
        assert mean.score([""] * 2, responses, references)[1] == best.score([""], ["a"], [["a"]])[0]


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter", "meteor", "fuzzy", "rouge"])
def test_a_row_without_references_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match="row 1 has no references to compare with"):
        load_reward(name).score(["?"] * 2, ["a", "b"], [["a"], []])


def test_token_set_counts_words_in_any_order() -> None:
    reward = load_reward("fuzzy", token_set=True)
    responses = ["basil tomato", "tomato tomato basil", "ham", "", "Basil  Tomato", ""]
    references = [["tomato basil"], ["tomato basil"], ["tomato"], [""], ["tomato basil"], ["ham"]]
    scores = reward.score([""] * 6, responses, references)
    assert scores[[0, 1, 3, 4]].tolist() == [1, 1, 1, 1]
    assert scores[2] < 0.5
    assert scores[5] == 0


def test_ter_is_never_below_zero() -> None:
    assert load_reward("ter").score([""], ["many words that are not in it at all"], [["one"]]).tolist() == [0.0]


def test_wrong_smoothing_is_named() -> None:
    with pytest.raises(InputError, match=r"smooth_value=2\.0: smooth=floor takes at most 1"):
        load_reward("bleu", smooth="floor", smooth_value=2)


def test_meteor_names_the_folder_without_a_wordnet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no WordNet can be read here"):
        load_reward("meteor", wordnet=str(tmp_path))


def test_meteor_aligns_synonyms_where_a_wordnet_is_given(tmp_path: Path) -> None:
    """A WordNet of one set of synonyms, in its file format."""
    names = ("noun", "verb", "adj", "adv")
    for name in names:
        for file in (f"index.{name}", f"data.{name}", f"{name}.exc"):
            (tmp_path / file).write_text("")
    (tmp_path / "lexnames").write_text("".join(f"{k:02}\tname{k}\t1\n" for k in range(7)))
    (tmp_path / "data.noun").write_text("00000000 06 n 02 van 0 truck 0 000 | a vehicle  \n")
    (tmp_path / "index.noun").write_text("van n 1 0 1 0 00000000  \ntruck n 1 0 1 0 00000000  \n")
    texts = (["?"] * 2, ["a red van", "a red ship"], [["a red truck"], ["a red truck"]])
    plain, with_synonyms = load_reward("meteor"), load_reward("meteor", wordnet=str(tmp_path))
    scores = with_synonyms.score(*texts)
    assert scores[0] == pytest.approx(1 - 0.5 / 27)
    assert scores[1] == plain.score(*texts)[1] == plain.score(*texts)[0] < 0.7
