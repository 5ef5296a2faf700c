"""Every reward as a metric of `evaluate`, offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics import BLEU

from instructrec_rl import as_metric, load_reward
from instructrec_rl.core import InputError
from tests.run.test_run import environment

PREDICTIONS = ["mushrooms, thin crust", "ham 7", "olives"]
REFERENCES = [["thin crust, mushrooms", "pan"], ["ham 7"], ["capers"]]


@pytest.mark.parametrize(
    ("name", "options"), [("rouge", {"variant": "rouge1"}), ("exact_match", {}), ("format", {"max_words": 2})]
)
def test_a_metric_is_the_mean_of_its_reward(name: str, options: dict[str, Any]) -> None:
    expected = load_reward(name, **options).score([""] * 3, PREDICTIONS, REFERENCES).mean()
    metric = as_metric(name, **options)
    assert metric.name == name
    found = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert found[name] == expected
    assert type(found[name]) is float
    for prediction, references in zip(PREDICTIONS, REFERENCES):
        metric.add(prediction=prediction, reference=references)
    assert metric.compute()[name] == expected
    metric.add_batch(predictions=PREDICTIONS[:1], references=REFERENCES[:1])
    metric.add_batch(predictions=PREDICTIONS[1:], references=REFERENCES[1:])
    assert metric.compute()[name] == expected


def test_references_may_be_texts() -> None:
    metric = as_metric("rouge")
    assert metric.compute(predictions=["a b", "c"], references=["a b", "d"]) == {"rouge": 0.5}
    assert metric.compute(predictions=["a b"], references=[["c", "a b"]]) == {"rouge": 1.0}


def test_a_metric_of_corpora_gives_its_corpus_score_too() -> None:
    predictions, references = ["the pizza of the day", "a"], ["the pizza of a day", "a b"]
    found = as_metric("bleu").compute(predictions=predictions, references=references)
    assert found["bleu/corpus"] == pytest.approx(BLEU().corpus_score(predictions, [references]).score / 100, abs=1e-12)
    scores = load_reward("bleu").score([""] * 2, predictions, [[text] for text in references])
    assert found["bleu"] == scores.mean() != found["bleu/corpus"]


def test_parts_are_results_too() -> None:
    metric = as_metric("weighted", parts={"rouge": 1, "exact_match": 1})
    assert metric.compute(predictions=["a b", "a"], references=["a b", "a b"]) == {
        "weighted": pytest.approx(2 / 3 / 2 / 2 + 0.5),
        "weighted/rouge": pytest.approx((1 + 2 / 3) / 2),
        "weighted/exact_match": 0.5,
    }


def test_a_reward_that_reads_instructions_and_rows_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards").mkdir()
    body = "def score(batch, config):\n    return [r == i + row['end'] for r, i, row in "
    (tmp_path / "rewards" / "mine.py").write_text(body + "zip(batch.responses, batch.instructions, batch.rows)]\n")
    rows = [{"end": "!"}, {"end": "?"}]
    found = as_metric("mine").compute(predictions=["a!", "b!"], references=["", ""], instructions=["a", "b"], rows=rows)
    assert found == {"mine": 0.5}


def test_errors_are_the_rewards_own() -> None:
    with pytest.raises(InputError, match=r'unknown reward "rogue". Did you mean "rouge"\?'):
        as_metric("rogue")
    with pytest.raises(InputError, match='unknown option "varient" of reward=rouge'):
        as_metric("rouge", varient="rouge1")
    with pytest.raises(InputError, match="reward rouge: row 1 has no references"):
        as_metric("rouge").compute(predictions=["a", "b"], references=[["a"], []])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"predictions": [], "references": []}, "nothing to score"),
    ({}, "nothing to score"),
    ({"predictions": ["a"]}, "references: expected a list with an entry a row"),
    ({"references": ["a"]}, "predictions: expected a list"),
    ({"predictions": "a", "references": ["a"]}, "predictions: expected a list .* got a str"),
    ({"predictions": ["a"], "references": [None]}, "row 0: the reference is missing"),
    ({"predictions": ["a", "b"], "references": [["a"], ["b", None]]}, "row 1: a reference is None, expected text"),
    ({"predictions": ["a", None], "references": ["a", "b"]}, "row 1: the prediction is None, expected text"),
    ({"predictions": ["a", 3], "references": ["a", "b"]}, "row 1: the prediction is 3, expected text"),
    ({"predictions": ["a"], "references": [3.5]}, "row 0: the reference is 3.5, expected a text or a list"),
    ({"predictions": ["a"], "references": [{"text": "a"}]}, "row 0: the reference is {'text': 'a'}"),
    ({"predictions": ["a", "\ud800"], "references": ["a", "a"]}, "row 1: the prediction has half of a surrogate pair"),
    ({"predictions": ["a"], "references": [["a", "b\udfff"]]}, "row 0: a reference has half of a surrogate pair"),
    ({"predictions": ["a"], "references": ["a", "b"]}, "1 predictions but 2 references"),
    ({"predictions": ["a"], "references": ["a"], "instructions": ["x", "y"]}, "1 responses but 2 instructions"),
    ({"predictions": ["a"], "references": ["a"], "instruction": ["x"]}, 'no "instruction".* mean "instructions"'),
    ({"predictions": ["a", "b"], "references": ["a", []]}, "reward rouge: row 1 has no references"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_wrong_input_is_an_error_with_its_row_and_leaves_the_metric_usable(given: dict[str, Any], message: str) -> None:
    metric = as_metric("rouge")
    with pytest.raises(InputError, match=message):
        metric.compute(**given)
    assert metric.compute(predictions=["a b", "c"], references=["a b", ["d", "c"]]) == {"rouge": 1.0}


def test_rows_added_one_by_one_are_counted_in_errors() -> None:
    metric = as_metric("bleu")
    metric.add(prediction="a", reference="a")
    metric.add_batch(predictions=[], references=[])
    with pytest.raises(InputError, match="row 1: the prediction is None"):
        metric.add(prediction=None, reference="a")
    metric.add_batch(predictions=["b"], references=[["b", "c"]])
    assert metric.compute()["bleu"] == 1
    with pytest.raises(InputError, match="nothing to score"):
        metric.compute()


SCRIPT = """
import socket, sys
def refuse(*a, **k): raise AssertionError("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import instructrec_rl
assert "evaluate" not in sys.modules
rouge, exact = instructrec_rl.as_metric("rouge"), instructrec_rl.as_metric("exact_match")
first = instructrec_rl.as_metric("rouge", variant="rouge1")
import evaluate
both = evaluate.combine([rouge, exact])
result = both.compute(predictions=["a b", "b a"], references=[["a b"], ["a b"]])
twice = evaluate.combine([rouge, first]).compute(predictions=["b a"], references=["a b"])
named = evaluate.combine({"long": rouge, "short": first}, force_prefix=True)
named.add_batch(predictions=["b a"], references=["a b"])
evaluate.save("out/result.json", **result, **twice, **named.compute(), note="offline")
"""


def test_combine_and_save_work_offline_with_an_empty_cache(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=environment(HOME=str(home), HF_HOME=str(home / "hf"), HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "out" / "result.json").read_text())
    assert saved["rouge"] == 0.75
    assert saved["exact_match"] == 0.5
    assert (saved["rouge_0_rouge"], saved["rouge_1_rouge"]) == (0.5, 1.0)
    assert (saved["long_rouge"], saved["short_rouge"], saved["note"]) == (0.5, 1.0, "offline")
    assert not list(home.rglob("*.arrow"))
