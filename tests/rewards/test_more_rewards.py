"""similarity, numeric, format, evaluate, and the composed rewards: their contract, their cases, their error texts."""

from __future__ import annotations

import functools
import itertools
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from instructrec_rl import load_reward
from instructrec_rl.core import Batch, InputError
from instructrec_rl.encoders.bert import EncoderConfig, TokenStates
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.rewards import RewardError
from instructrec_rl.rewards.json_schema import check_schema, fits
from tests.conftest import SHARED
from tests.rewards.test_rewards import reward_file

METRIC = """
import datasets
import evaluate

class Overlap(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        references = {references}
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({{"predictions": text, "references": references}}),
        )

    def _compute(self, predictions, references, weight=1.0):
        print("chatter")
        {body}
"""
SHARE = """right = [r if isinstance(r, list) else [r] for r in references]
        share = lambda p, one: weight * len(set(p) & set(one)) / max(len(set(p)), 1)
        values = [max(share(p, one) for one in held) for p, held in zip(predictions, right)]
        return {"overlap": 100 * values[0], "rows": len(predictions)}"""


def metric_file(folder: Path, name: str = "overlap", references: str = "text", body: str = SHARE) -> Path:
    path = folder / f"{name}.py"
    path.write_text(METRIC.format(references=references, body=body))
    return path


def score(name: str, responses: list[str], references: list[list[str]], **options: Any) -> list[float]:
    return load_reward(name, **options).score(["?"] * len(responses), responses, references).tolist()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    return tmp_path


@functools.cache
def minilm() -> Any:
    return load_encoder()


WITH_ENCODER = SimpleNamespace(items=[], encoder=minilm)
MIX: dict[str, Any] = {"rouge": 2, "exact_match": 1}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("similarity", {"unreadable": "zero"}),
    ("similarity", {"unreadable": "zero", "variant": "greedy"}),
    ("similarity", {"unreadable": "zero", "variant": "greedy", "multi": "mean"}),
    ("numeric", {}),
    ("numeric", {"tolerance": 0.5, "relative": 0.1}),
    ("format", {"max_words": 30, "pattern": "[0-9]", "no_repetition": 2}),
    ("weighted", {"parts": MIX}),
    ("weighted", {"parts": MIX, "on_error": "mask"}),
    ("gated", {"gate": "numeric", "then": "rouge", "floor": 0.1}),
    ("gated", {"gate": "numeric", "then": "rouge", "on_error": "mask"}),
    ("schedule", {"parts": {"rouge": [[0, 1], [100, 0]], "exact_match": [[0, 0], [100, 1]]}}),
    ("evaluate", {"key": "overlap", "scale": 100}),
]


@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_contract(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    if name == "evaluate":
        options = options | {"path": str(metric_file(tmp_path))}
    env = SimpleNamespace(items=[], encoder=minilm())
    reward = load_reward(name, env=env, **options)
    references = [["tomato, basil, 9"], ["it is 11 dollars", "11"], ["-3.5 degrees", "-3.5 degrees"]]
    right = [held[0] for held in references]
    if options.get("multi") != "mean":
        assert reward.score(["?"] * 3, right, references) == pytest.approx(1, abs=1e-12)
    responses = ["", "tomato", "the price is 11", "🍕 比萨", "x " * 3000, "-3.5 degrees", " \n", "11", "٣"]
    rows = [references[place % 3] for place in range(len(responses))]
    scores = reward.score(["?"] * len(rows), responses, rows)
    assert scores.shape == (len(rows),)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= 1)).all()
    fresh = load_reward(name, env=env, **options)
    assert [fresh.score(["?"], [r], [held])[0] for r, held in zip(responses, rows)] == scores.tolist()
    batch = Batch(["?"] * len(rows), responses, rows)
    assert reward.score_with_parts(batch)[0].tolist() == scores.tolist()
    assert reward.score([], [], []).shape == (0,)


# numeric


@pytest.mark.parametrize(
    ("response", "reference", "expected"),
    [
        ("She makes 9 * 2 = $18 every day.", "#### 18", 1),
        ("so 1,234,567 in all", "1234567", 1),
        ("$1,000.50", "1000.5", 1),
        ("#### 7\nI checked it 3 times", "7", 0),  # what follows the mark: "7\nI checked it 3 times" ends in 3
        ("I tried 3 ways.\n#### 7", "7", 1),
        ("#### none, but 7 before", "7", 1),
        ("-5", "5", 0),
        ("−5", "-5", 1),
        ("-$5", "-5", 1),
        ("$-5", "-5", 1),
        ("16-3", "3", 1),
        ("16 - 3", "-3", 0),
        ("it is (-3)", "-3", 1),
        ("0.10", ".1", 1),
        ("1e3", "1000", 1),
        ("٣٤", "34", 1),
        ("一共12元", "12", 1),
        ("12,34,567", "1234567", 1),
        ("1, 2, 3", "3", 1),
        ("9007199254740993", "9007199254740992", 0),  # equal as floats
        ("-" + "9" * 40, "-" + "9" * 39 + "8", 0),
        ("-" + "9" * 40, "-" + "9" * 40, 1),
        ("no number", "3", 0),
        ("", "3", 0),
    ],
)
def test_numeric(response: str, reference: str, expected: int) -> None:
    assert score("numeric", [response], [[reference]]) == [expected]


def test_numeric_tolerance_and_references() -> None:
    assert score(
        "numeric", ["3.14", "3.2", "103", "104"], [["3.1416"], ["3.1416"], ["100"], ["100"]], tolerance=0.01
    ) == [
        1,
        0,
        0,
        0,
    ]
    assert score("numeric", ["103", "104", "-103"], [["100"], ["100"], ["-100"]], relative=0.03) == [1, 0, 1]
    assert score("numeric", ["4", "5"], [["3", "4"], ["3", "4"]]) == [1, 0]


def test_numeric_refuses_a_reference_without_a_number() -> None:
    with pytest.raises(RewardError, match=r'reward numeric: row 1: the reference "none at all" has no number'):
        score("numeric", ["1", "2"], [["1"], ["2", "none at all"]])


@pytest.mark.shared
def test_numeric_reads_every_answer_of_gsm8k_as_its_authors_do() -> None:
    records = [json.loads(line) for line in (SHARED / "gsm8k" / "test.jsonl").open()]
    answers = [record["answer"].split("####")[1].strip() for record in records]
    plain = [answer.replace(",", "") for answer in answers]
    assert score("numeric", [record["answer"] for record in records], [[answer] for answer in plain]) == [1] * len(
        records
    )
    said = [f"First 3 and 4. So the answer is ${answer}." for answer in answers]
    assert score("numeric", said, [[answer] for answer in plain]) == [1] * len(records)


# format


def test_format_is_the_share_of_rules_kept() -> None:
    reward = load_reward("format", pattern="^Answer:", max_words=4, no_repetition=2)
    responses = ["Answer: thin crust", "thin crust", "Answer: a b a b", "a b, A B a b", ""]
    batch = Batch(["?"] * 5, responses, [[]] * 5)
    scores, parts = reward.score_with_parts(batch)
    assert scores == pytest.approx([1, 2 / 3, 1 / 3, 0, 2 / 3])
    assert {name: values.tolist() for name, values in parts.items()} == {
        "pattern": [1, 0, 1, 0, 0],
        "max_words": [1, 1, 0, 0, 1],
        "no_repetition": [1, 1, 0, 0, 1],
    }


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        ({"min_chars": 2}, "ab", "a"),
        ({"max_chars": 2}, "ab", "abc"),
        ({"min_words": 2}, "a b", "ab!"),
        ({"max_words": 4}, "请给我一", "请给我一个"),
        ({"forbid": "(?i)sorry"}, "here", "Sorry, no"),
        ({"json": True}, '{"a": 1}', "{'a': 1}"),
        ({"json": True}, "null", "NaN"),
        ({"json": True}, "[]", "[" * 100_000),
        ({"schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', '{"b": 1}'),
        ({"schema": {"type": "array"}}, "[1]", "not json"),
        ({"no_repetition": 1}, "a b c", "a b A"),
    ],
)
def test_each_format_rule(options: dict[str, Any], good: str, bad: str) -> None:
    assert score("format", [good, bad], [[], []], **options) == [1, 0]


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, [1, 2.0, -3, 10**400], [1.5, True, "1", None]),
        ({"type": ["number", "null"]}, [1.5, None], [True, "1", []]),
        ({"type": "boolean"}, [True], [1]),
        ({"enum": ["a", 1, [1]]}, ["a", 1, 1.0, [1]], [True, "b", [True]]),
        ({"const": {"a": 0}}, [{"a": 0.0}], [{"a": False}, {}]),
        ({"required": ["a"]}, [{"a": None}, "not an object"], [{}]),
        ({"properties": {"a": {"type": "string"}}}, [{"a": "x"}, {"b": 1}, {}], [{"a": 1}]),
        ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}, {}], [{"b": 1}]),
        (
            {"items": {"minimum": 2, "maximum": 3}, "minItems": 1, "maxItems": 2},
            [[2], [2, 3]],
            [[], [1], [4], [2, 2, 2]],
        ),
        ({"minLength": 1, "maxLength": 2, "pattern": "^a"}, ["a", "ab", 7], ["", "b", "abc"]),
        ({"title": "says nothing", "description": "either"}, [None], []),
    ],
)
def test_json_schema(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    check_schema(schema)
    assert [value for value in good if not fits(value, schema)] == []
    assert [value for value in bad if fits(value, schema)] == []


# similarity


def test_similarity_follows_meaning_and_agrees_with_the_encoder() -> None:
    texts = ["a pizza with mushrooms", "mushroom pizza", "the train to London leaves at nine"]
    scores = score("similarity", texts[1:], [[texts[0]]] * 2)
    vectors = minilm().encode(texts)
    assert scores == pytest.approx((vectors[1:] @ vectors[0]).clip(0, 1).tolist(), abs=1e-6)
    assert scores[0] > 0.7 > 0.3 > scores[1]
    greedy = score("similarity", texts[1:], [[texts[0]]] * 2, variant="greedy")
    assert greedy[0] > greedy[1] + 0.2


def test_greedy_is_bertscores_formula() -> None:
    texts = [
        "thin crust with ham",
        "a thin, crispy crust",
        "no",
        "mushrooms and olives, please, and not too much cheese",
    ]
    read: TokenStates = minilm().encode_tokens(texts)
    states = read.states.astype(np.float64)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    pieces = [states[start:end] for start, end in itertools.pairwise(read.offsets)]
    expected = []
    for x, y in itertools.product(pieces, pieces):
        cosines = x @ y.T
        precision, recall = max(cosines.max(1).mean(), 0), max(cosines.max(0).mean(), 0)
        expected.append(2 * precision * recall / max(precision + recall, 1e-12))
    pairs = list(itertools.product(texts, texts))
    found = score("similarity", [x for x, _ in pairs], [[y] for _, y in pairs], variant="greedy")
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("variant", ["cosine", "greedy"])
def test_similarity_over_references_and_blanks(variant: str) -> None:
    one, other = score("similarity", ["ham", "ham"], [["ham"], ["a train"]], variant=variant)
    assert one == 1
    assert score("similarity", ["ham"], [["a train", "ham"]], variant=variant) == [1]
    assert score("similarity", ["ham"], [["a train", "ham"]], variant=variant, multi="mean") == [(one + other) / 2]
    assert score("similarity", ["", " ", "ham"], [["ham"], ["ham"], [""]], variant=variant) == [0, 0, 0]


@pytest.mark.parametrize("variant", ["cosine", "greedy"])
def test_similarity_names_the_row_that_it_cannot_read(variant: str) -> None:
    reward = load_reward("similarity", variant=variant)
    chinese = "请给我推荐一款好吃的披萨。"
    with pytest.raises(
        RewardError, match=r'reward similarity: row 2: the response: encoder minilm cannot read "请给我'
    ):
        reward.score(["?"] * 3, ["ham", "olives", chinese], [["ham"]] * 3)
    with pytest.raises(RewardError, match=r"row 1: the reference: encoder minilm cannot read"):
        reward.score(["?"] * 2, ["ham", "ham"], [["ham"], ["ham", chinese]])
    lenient = load_reward("similarity", variant=variant, unreadable="zero")
    assert lenient.score(["?"] * 3, ["ham", chinese, "ham"], [["ham"]] * 3).tolist() == [1, 0, 1]
    with pytest.raises(RewardError, match=r"row 0: the reference: encoder minilm cannot read"):
        lenient.score(["?"], [chinese], [[chinese]])


def sentences(count: int) -> list[str]:
    """Texts of 1 to 40 words, some of them twice."""
    rng = random.Random(6)
    words = ["a", "thin", "pizza", "with", "mushrooms", "ham", "no", "cheese", "not", "too", "hot", "twelve"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 40 if k % 9 else 3))) for k in range(count)]


@pytest.mark.parametrize("variant", ["cosine", "greedy"])
def test_similarity_in_small_batches_changes_nothing(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sentences(40)
    whole = score("similarity", texts[:20], [[text, texts[0]] for text in texts[20:]], variant=variant)
    module = sys.modules[type(load_reward("similarity").scorer).__module__]
    monkeypatch.setattr(module, "CHUNK_PAIRS", 7)
    monkeypatch.setattr(module, "CELLS", 3 * 384 * 16)  # one to three pairs a multiplication
    assert score("similarity", texts[:20], [[text, texts[0]] for text in texts[20:]], variant=variant) == whole


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["cosine", "greedy"])
def test_similarity_on_a_gpu_is_that_on_the_cpu(variant: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    texts = sentences(400)
    found = {}
    for device in ("cpu", "cuda"):
        encoder = load_encoder(EncoderConfig(device=device, dtype="fp32", cache=str(tmp_path / device)))
        env = SimpleNamespace(items=[], encoder=encoder)
        torch.cuda.reset_peak_memory_stats()
        reward = load_reward("similarity", env=env, variant=variant)
        found[device] = reward.score(["?"] * 200, texts[:200], [[text] for text in texts[200:]])
        assert (torch.cuda.max_memory_allocated() > 1 << 20) == (device == "cuda")
    assert found["cuda"] == pytest.approx(found["cpu"], abs=2e-3)


def test_similarity_takes_the_environments_encoder_and_reads_each_text_once() -> None:
    class Counted:
        dim, config, read = 2, SimpleNamespace(device="cpu"), 0

        def encode(self, texts: list[str], progress: bool | None = None) -> np.ndarray:
            self.read = max(self.read, len(texts))
            return np.array([[len(text), 1.0] for text in texts])

    encoder = Counted()
    reward = load_reward("similarity", env=SimpleNamespace(items=[], encoder=encoder))
    found = reward.score(["?"] * 100, ["aa", "aaaa"] * 50, [["b"]] * 100)
    assert encoder.read == 3
    assert found[:2].tolist() == pytest.approx([3 / np.sqrt(10), 5 / np.sqrt(34)])


# evaluate


@pytest.mark.parametrize("folder", [False, True])
def test_evaluate_scores_by_a_local_script(tmp_path: Path, folder: bool, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "overlap" if folder else tmp_path
    home.mkdir(exist_ok=True)
    script = metric_file(home)
    options = {"path": str(home if folder else script), "key": "overlap", "scale": 100}
    assert score("evaluate", ["ab", "ab", ""], [["a"], ["c", "ab"], ["a"]], **options) == [0.5, 1, 0]
    assert score("evaluate", ["ab"], [["c", "ab"]], **options, multi="mean") == [0.5]
    assert score("evaluate", ["ab"], [["ab"]], **options, arguments={"weight": 0.25}) == [0.25]
    assert "chatter" not in capsys.readouterr().out


def test_evaluate_gives_several_references_to_a_metric_that_takes_them(tmp_path: Path) -> None:
    body = 'return {"count": [len(references[0]) / 4]}'
    path = str(metric_file(tmp_path, references="datasets.Sequence(text)", body=body))
    assert score("evaluate", ["x", "y"], [["a", "b"], ["a"]], path=path) == [0.5, 0.25]
    with pytest.raises(RewardError, match="row 1 has no references"):
        score("evaluate", ["x", "y"], [["a"], []], path=path)


@pytest.mark.parametrize(
    ("body", "options", "message"),
    [
        (SHARE, {}, "the metric has several results; set reward.key. Known: overlap, rows."),
        (SHARE, {"key": "overlaps"}, 'the metric has no result "overlaps". Did you mean "overlap"?'),
        (SHARE, {"key": "overlap"}, 'row 0 (response "ab"): the score 100.0 is not in [0, 1]'),
        ('return {"x": "high"}', {}, "row 0: the metric's \"x\" is 'high', expected a number"),
        ('return {"x": float("nan")}', {}, 'row 0: the metric\'s "x" is nan'),
        ("1 / 0", {}, "reward evaluate: ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_metric_gets_wrong_is_named(tmp_path: Path, body: str, options: dict[str, Any], message: str) -> None:
    path = str(metric_file(tmp_path, body=body))
    with pytest.raises(RewardError) as raised:
        score("evaluate", ["ab"], [["ab"]], path=path, **options)
    assert message in str(raised.value)


# weighted, gated, schedule


def test_gated_pays_only_behind_the_gate() -> None:
    reward = load_reward("gated", gate="numeric", then="rouge", floor=0.2, options={"rouge": {"variant": "rouge1"}})
    batch = Batch(["?"] * 3, ["it is 7", "it is 8", "7"], [["it is 7"]] * 3)
    scores, parts = reward.score_with_parts(batch)
    assert scores.tolist() == [1, 0.2, 0.5]
    assert {name: values.round(3).tolist() for name, values in parts.items()} == {
        "numeric": [1, 0, 1],
        "rouge": [1, 0.667, 0.5],
    }
    assert score("gated", ["a b", "a c"], [["a b"]] * 2, gate="rouge", then="rouge", threshold=0.5) == [1, 0.5]
    assert score("gated", ["a c"], [["a b"]], gate="rouge", then="rouge", threshold=0.51) == [0]


def test_schedule_moves_its_weights_linearly() -> None:
    points = {"rouge": [[0, 1], [100, 0]], "exact_match": [[0, 0], [50, 0], [100, 3]]}
    reward = load_reward("schedule", parts=points, options={"rouge": {"variant": "rouge1"}})
    batch = Batch(["?"], ["a b c"], [["a b"]])
    overlap = 0.8
    seen, versions = [], []
    for step in (0, 25, 50, 75, 100, 10_000, 50):
        reward.scorer.at(step)
        seen.append(float(reward.score_batch(batch)[0]))
        versions.append(reward.version)
    late = overlap * 0.25 / (0.25 + 1.5)
    assert seen == pytest.approx([overlap, overlap, overlap, late, 0, 0, overlap], abs=1e-12)
    assert versions[0] == versions[1] == versions[2] == versions[6] == "rouge:1,exact_match:0"
    assert len({versions[0], versions[3], versions[4]}) == 3
    assert versions[4] == versions[5]


def test_a_schedule_changes_its_version_at_most_a_hundred_times() -> None:
    reward = load_reward("schedule", parts={"rouge": [[0, 1], [1e6, 0]], "exact_match": [[0, 0.5]]})
    versions = []
    for step in range(0, 1_000_001, 256):
        reward.scorer.at(step)
        versions.append(reward.version)
    assert 90 < len(set(versions)) <= 101
    assert versions == sorted(versions, key=versions.index)


def test_the_step_and_the_version_reach_nested_parts(empty: Path) -> None:
    reward_file(
        empty, "later.yaml", "reward: schedule\nparts: {rouge: [[0, 1], [10, 0]], exact_match: [[0, 0], [10, 1]]}\n"
    )
    outer = load_reward("weighted", parts={"later": 1, "rouge": 0})
    behind = load_reward("gated", gate="rouge", then="later", threshold=0)
    batch = Batch(["?"], ["a b c"], [["a b"]])
    before = [outer.version, outer.score_batch(batch)[0], behind.score_batch(batch)[0]]
    for reward in (outer, behind):
        reward.scorer.at(10)
    after = [outer.version, outer.score_batch(batch)[0], behind.score_batch(batch)[0]]
    assert before == ["later=rouge:1,exact_match:0", pytest.approx(0.8), pytest.approx(0.8)]
    assert after == ["later=rouge:0,exact_match:1", 0, 0]


MASKED = Batch(["?"] * 3, ["it is 7", "seven", "it is 9"], [["it is 7"], ["seven"], ["it is 7"]])


def test_a_part_that_cannot_score_a_row_raises_with_the_row() -> None:
    for name, options in (
        ("weighted", {"parts": {"rouge": 1, "numeric": 1}}),
        ("gated", {"gate": "numeric", "then": "rouge"}),
        ("schedule", {"parts": {"numeric": [[0, 1]], "rouge": [[0, 1]]}}),
    ):
        with pytest.raises(RewardError, match=r'^reward numeric: row 1: the reference "seven" has no number$'):
            load_reward(name, **options).score_batch(MASKED)


def test_a_masked_part_is_left_out_of_its_row_and_counted() -> None:
    reward = load_reward("weighted", parts={"rouge": 1, "numeric": 3}, on_error="mask")
    scores, parts = reward.score_with_parts(MASKED)
    assert scores == pytest.approx([1, 1, 0.25 * 2 / 3], abs=1e-12)
    assert parts["numeric.masked"].tolist() == [0, 1, 0]
    assert parts["rouge.masked"].tolist() == [0, 0, 0]
    assert parts["numeric"].tolist() == [1, 1, 0]  # masked: the mean of the row's other parts
    assert reward.scorer.masked == {"rouge": 0, "numeric": 1}
    reward.score_batch(MASKED)
    assert reward.scorer.masked == {"rouge": 0, "numeric": 2}
    alone = [reward.score([""], [response], [held])[0] for response, held in zip(MASKED.responses, MASKED.references)]
    assert alone == reward.score_batch(MASKED).tolist()


def test_masked_weights_are_scaled_to_sum_to_one() -> None:
    parts = {"rouge": 1, "exact_match": 2, "numeric": 5}
    batch = Batch(["?"], ["seven or eight"], [["seven"]])
    masked = load_reward("weighted", parts=parts, on_error="mask").score_batch(batch)
    without = load_reward("weighted", parts={"rouge": 1, "exact_match": 2}).score_batch(batch)
    assert masked == pytest.approx(without, abs=1e-12)
    assert 0 < without[0] < 1


def test_a_masked_gate_stands_open_and_a_masked_then_leaves_the_gate() -> None:
    reward = load_reward("gated", gate="numeric", then="rouge", floor=0.1, on_error="mask")
    assert reward.score_batch(MASKED).tolist() == [1, 1, 0.1]
    assert reward.scorer.masked == {"numeric": 1, "rouge": 0}
    turned = load_reward("gated", gate="rouge", then="numeric", floor=0.1, threshold=0.9, on_error="mask")
    scores, parts = turned.score_with_parts(MASKED)
    assert scores.tolist() == [1, 1, 0.1]
    assert parts["numeric.masked"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("weighted", {"parts": {"numeric": 1, "rouge": 0}}),
        ("gated", {"gate": "numeric", "then": "numeric"}),
        ("schedule", {"parts": {"numeric": [[0, 1]], "rouge": [[0, 0]]}}),
    ],
)
def test_a_row_that_no_part_can_score_still_raises(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(RewardError) as raised:
        load_reward(name, **options, on_error="mask").score_batch(MASKED)
    said = f'reward {name}: row 1: no part that counts can score it: reward numeric: row 1: the reference "seven" has'
    assert said in str(raised.value)


def test_a_fault_in_a_part_is_never_masked(empty: Path) -> None:
    reward_file(
        empty, "buggy.py", "def score(batch, config):\n    return [1 / (len(r) - 5) for r in batch.responses]\n"
    )
    reward_file(empty, "nan.py", "def score(batch, config):\n    return [float('nan')] * len(batch)\n")
    for part, message in (("buggy", "ZeroDivisionError"), ("nan", r"is not in \[0, 1\]")):
        with pytest.raises(RewardError, match=message):
            load_reward("weighted", parts={"rouge": 1, part: 1}, on_error="mask").score_batch(MASKED)


def test_masking_finds_many_rows_in_a_large_batch() -> None:
    rng = np.random.default_rng(0)
    bad = rng.random(3000) < 0.05
    references = [["seven"] if worse else ["it is 7"] for worse in bad]
    reward = load_reward("weighted", parts={"exact_match": 1, "numeric": 1}, on_error="mask")
    _, parts = reward.score_with_parts(Batch(["?"] * 3000, ["it is 7"] * 3000, references))
    assert parts["numeric.masked"].tolist() == bad.tolist()
    assert reward.scorer.masked["numeric"] == bad.sum()


def test_composed_rewards_from_yaml_without_code(empty: Path) -> None:
    reward_file(empty, "short.yaml", "reward: format\nmax_words: 3\n")
    reward_file(empty, "strict.yaml", "reward: gated\ngate: short\nthen: rouge\nthreshold: 1\nfloor: 0.05\n")
    reward_file(empty, "deep.yaml", "reward: weighted\nparts: {strict: 1, short: 1}\non_error: mask\n")
    assert score("strict", ["a b", "a b c d"], [["a b"]] * 2) == [1, 0.05]
    assert score("deep", ["a b", "a b c d"], [["a b"]] * 2) == [1, 0.025]
    reward_file(empty, "loop.yaml", "reward: gated\ngate: loop\nthen: rouge\n")
    with pytest.raises(InputError, match="reward loop contains itself: loop > loop"):
        load_reward("loop")


# What is wrong with options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("format", {}, "reward format: needs a rule, such as reward.max_words=30"),
        ("format", {"pattern": "("}, "pattern: not a regular expression: missing ), unterminated subpattern"),
        ("format", {"min_words": 5, "max_words": 3}, "min_words=5 is more than max_words=3"),
        ("format", {"max_word": 3}, 'unknown option "max_word" of reward=format. Did you mean "max_words"?'),
        ("format", {"schema": {"typ": "object"}}, 'schema: the keyword "typ" is not supported. Did you mean "type"?'),
        ("format", {"schema": {"type": "text"}}, 'schema.type: "text" is not a type.'),
        ("format", {"schema": {"properties": {"a": {"oneOf": []}}}}, 'schema.properties.a: the keyword "oneOf"'),
        ("format", {"schema": {"items": []}}, "schema.items: expected a dict, got []"),
        ("format", {"schema": {"pattern": "["}}, "schema.pattern: not a regular expression"),
        ("format", {"schema": {"minItems": "1"}}, "schema.minItems: expected a number, got '1'"),
        ("numeric", {"tolerance": -1}, "reward.tolerance=-1: expected at least 0"),
        ("similarity", {"variant": "cosin"}, 'reward.variant=cosin: not one of its values. Did you mean "cosine"?'),
        ("gated", {"gate": "rouge"}, "reward gated: needs two rewards, such as reward.gate=constraints"),
        ("gated", {"gate": "rouge", "then": "rogue"}, 'unknown reward "rogue". Did you mean "rouge"?'),
        ("gated", {"gate": "rouge", "then": "rouge", "threshold": 2}, "reward.threshold=2: expected at least 0"),
        (
            "gated",
            {"gate": "rouge", "then": "rouge", "options": {"rogue": {}}},
            'options for "rogue", which is not among the parts',
        ),
        ("weighted", {"parts": {"rouge": 1}, "on_error": "zero"}, "reward.on_error=zero: not one of its values"),
        ("schedule", {}, "reward schedule: at step 0 every weight is 0; an example"),
        ("schedule", {"parts": {"rouge": [[0, 1], [9, 0]]}}, "reward schedule: at step 9 every weight is 0"),
        ("schedule", {"parts": {"rouge": [[5, 1], [5, 0]]}}, "parts.rouge: steps must rise, got [5.0, 5.0]"),
        ("schedule", {"parts": {"rouge": [[5]]}}, "parts.rouge: a point is [step, weight], both at least 0, got [5.0]"),
        ("schedule", {"parts": {"rouge": []}}, "parts.rouge: expected points such as"),
        ("schedule", {"parts": {"rouge": 1}}, "reward.parts.rouge: expected a list of a list of a number, got 1"),
        ("evaluate", {}, "reward evaluate: needs the script of a metric: reward.path="),
        ("evaluate", {"path": "rouge"}, "reward.path=rouge: there is no such script"),
        ("evaluate", {"path": "lvwerra/test"}, "names on the hub are not downloaded"),
    ],
)
def test_wrong_options_are_explained(name: str, options: dict[str, Any], message: str, empty: Path) -> None:
    with pytest.raises(InputError) as raised:
        load_reward(name, **options)
    assert message in str(raised.value)


def test_a_broken_metric_script_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import nowhere_at_all\n")
    with pytest.raises(InputError, match=r"broken.py: reward evaluate: cannot load the metric: ImportError"):
        load_reward("evaluate", path=str(path))


def test_a_schedule_can_be_set_on_the_command_line() -> None:
    from instructrec_rl.config.compose import compose

    config = compose(["reward=schedule", "reward.parts.rouge=[[0,1],[5000,0]]", "reward.parts.constraints=[[0,1]]"])
    assert config.reward.parts == {"rouge": [[0, 1], [5000, 0]], "constraints": [[0, 1]]}
    gated = compose(["reward=gated", "reward.gate=constraints", "reward.then=rouge", "reward.threshold=1"]).reward
    assert (gated.gate, gated.then, gated.threshold) == ("constraints", "rouge", 1)


def test_training_never_reads_a_score_cached_under_other_weights(toys: Any) -> None:
    from instructrec_rl.config.schema import EnvConfig
    from instructrec_rl.env.environment import make_environment
    from instructrec_rl.env.spec import load_spec

    toys()
    parts = {"constraints": [[0, 1], [1000, 0]], "exact_match": [[0, 0], [1000, 1]]}
    env = make_environment(load_spec(EnvConfig(name="toys")), reward="schedule", reward_options={"parts": parts})
    rows, items = np.divmod(np.arange(40), len(env.items))
    batch = env.batch(rows, list(env.item_texts[items]))
    by_part = {name: load_reward(name, env=env).score_batch(batch) for name in parts}
    for step, weight in ((0, 1.0), (300, 0.7), (1000, 0.0)):
        env.reward.scorer.at(step)
        expected = weight * by_part["constraints"] + (1 - weight) * by_part["exact_match"]
        for _ in range(2):  # computed, then from the table
            assert env.reward_table(rows, items) == pytest.approx(expected, abs=1e-12)
    assert not np.allclose(by_part["constraints"], by_part["exact_match"])
