"""Rewards: one contract over every file found, the machinery's checks, and each reward's own cases."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from instructrec_rl import load_reward
from instructrec_rl.core import Batch, InputError, Item
from instructrec_rl.core.files import find_rewards
from instructrec_rl.env.constraints import OPS, constraint_matrix, satisfies
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.rewards import RewardError, reward_config_class

ITEMS = [
    Item(
        "p1", "Margherita", "tomato, basil | mild | $9", {"toppings": ["tomato", "basil"], "spice": "mild", "price": 9}
    ),
    Item(
        "p2", "Diavola", "tomato, salami | hot | $11", {"toppings": ["tomato", "salami"], "spice": "hot", "price": 11}
    ),
    Item("p3", "Bianca", "ricotta, basil | mild", {"toppings": ["ricotta", "basil"], "spice": "mild"}),
]
ENV = SimpleNamespace(items=ITEMS, encoder=None)
OPTIONS: dict[str, dict[str, Any]] = {
    "weighted": {"parts": {"rouge": 2, "exact_match": 1}},
    "gated": {"gate": "exact_match", "then": "rouge", "floor": 0.1},
    "schedule": {"parts": {"rouge": [[0, 2], [9, 1]], "exact_match": [[0, 1]]}},
    "format": {"max_words": 30},
    "similarity": {"unreadable": "zero"},
}
# They need references or a file of their own, or read none: test_more_rewards.py, test_language_rewards.py
ELSEWHERE = {"numeric", "evaluate", "sentiment", "human_feedback"}

FORMULA_OFF = {"meteor": 0.05}  # 1 - 0.5 / words^3


def asks(attribute: str, op: str, value: Any) -> dict[str, Any]:
    return {"kind": "test", "attribute": attribute, "op": op, "value": value}


ROWS = [
    {"id": "a", "best": ["p1"], "constraints": [asks("toppings", "has", "tomato"), asks("price", "at_most", 10)]},
    {"id": "b", "best": ["p3"], "constraints": [asks("toppings", "any_of", ["ricotta", "ham"])]},
    {"id": "c", "best": ["p2"], "constraints": [asks("spice", "is", "hot"), asks("toppings", "lacks", "basil")]},
    {"id": "d", "best": ["p1", "p3"], "constraints": []},
]


def batch_of(responses: list[str], rows: list[dict[str, Any]]) -> Batch:
    texts = {item.id: item.text for item in ITEMS}
    return Batch(["?"] * len(rows), responses, [[texts[best] for best in row["best"]] for row in rows], rows)


def reward_file(folder: Path, name: str, text: str) -> Path:
    path = folder / "rewards" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", sorted(set(find_rewards()) - ELSEWHERE))
def test_contract_of_every_reward(name: str) -> None:
    reward = load_reward(name, env=ENV, **OPTIONS.get(name, {}))
    right = batch_of([ITEMS[0].text, ITEMS[2].text, ITEMS[1].text, ITEMS[2].text], ROWS)
    off = FORMULA_OFF.get(name, 1e-12)
    assert reward.score_batch(right) == pytest.approx(1, abs=off)  # a reference scores the documented maximum

    responses = ["", "tomato", ITEMS[1].text, ITEMS[0].name, "🍕 比萨", "tomato, basil | mild", "p3", "x " * 3000]
    rows = ROWS * 2
    scores = reward.score_batch(batch_of(responses, rows))
    assert scores.shape == (8,)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= 1)).all()
    fresh = load_reward(name, env=ENV, **OPTIONS.get(name, {}))
    one_by_one = [fresh.score_batch(batch_of([r], [row]))[0] for r, row in zip(responses, rows)]
    assert scores.tolist() == one_by_one
    assert reward.score([], [], []).shape == (0,)
    assert isinstance(reward.version, str)


@pytest.mark.parametrize("name", sorted(find_rewards()))
def test_configs_are_types_that_hydra_can_check(name: str) -> None:
    from omegaconf import OmegaConf

    config = reward_config_class(name)
    if config is not None:
        assert OmegaConf.structured(config) is not None


# The machinery


def test_a_users_reward_in_the_current_directory_needs_nothing_else(empty: Path) -> None:
    reward_file(
        empty,
        "mine.py",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass, field\n"
        "@dataclass\nclass Config:\n    most: float = 10.0\n    words: list[str] = field(default_factory=list)\n"
        "def score(batch, config):\n    return [min(len(r) / config.most, 1) for r in batch.responses]\n",
    )
    before = list(sys.path)
    reward = load_reward("mine", most=4)
    assert reward.options == {"most": 4.0, "words": []}
    assert reward.score(["?", "?"], ["ab", "abcdef"], [[], []]).tolist() == [0.5, 1.0]
    assert sys.path == before
    assert "rewards.mine" not in sys.modules
    assert not (empty / "rewards" / "__pycache__").exists()


def test_an_edited_reward_is_read_again(empty: Path) -> None:
    path = reward_file(empty, "mine.py", "def score(batch, config):\n    return [0.25] * len(batch)\n")
    assert load_reward("mine").score(["?"], ["x"], [[]]).tolist() == [0.25]
    path.write_text("def score(batch, config):\n    return [0.125] * len(batch)\n")
    assert load_reward("mine").score(["?"], ["x"], [[]]).tolist() == [0.125]


def test_a_class_gets_its_config_and_the_context(empty: Path) -> None:
    reward_file(
        empty,
        "mine.py",
        "class Reward:\n"
        "    version = 'v2'\n"
        "    def __init__(self, config, context):\n"
        "        self.names = {item.name for item in context.items}\n"
        "        self.exact = context.load('exact_match')\n"
        "        self.encoder = context.encoder\n"
        "    def score(self, batch):\n"
        "        return self.exact.score_batch(batch) * [r in self.names for r in batch.responses]\n",
    )
    encoder = object()
    reward = load_reward("mine", env=SimpleNamespace(items=ITEMS, encoder=encoder))
    assert reward.score_batch(batch_of(["Margherita", ITEMS[0].text], ROWS[:1] * 2)).tolist() == [1.0, 0.0]
    assert reward.version == "v2"
    assert reward.scorer.encoder is encoder


def test_the_encoder_is_not_loaded_for_a_reward_that_does_not_ask() -> None:
    class Lazy:
        items = ITEMS

        @property
        def encoder(self) -> Any:
            raise AssertionError("loaded")

    assert load_reward("exact_match", env=Lazy()).score(["?"], ["p1"], [[ITEMS[0].text]]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 0.5", r"returned shape \(\), expected \(3,\)"),
        ("return [0.5]", r"returned shape \(1,\), expected \(3,\)"),
        ("return [[0.5]] * 3", r"returned shape \(3, 1\)"),
        ("return [1, float('nan'), 2]", r'row 1 \(response "two"\): the score nan is not in \[0, 1\]'),
        ("return [1, 1, 1.001]", r'row 2 \(response "three"\): the score 1.001 is not in \[0, 1\]'),
        ("return [-1e-6, 1, 1]", r'row 0 \(response "one"\): the score -1e-06 is not in \[0, 1\]'),
        ("return [1, None, 1]", r'row 1 \(response "two"\): the score None is not a real number'),
        ("return [1, 1j, 1]", r"row 0 .*is not a real number|row 1 .*is not a real number"),
        ("return [1, [2, 3], 1]", "cannot read its scores as an array: ValueError"),
        (
            "return [len(r) / 0 for r in batch.responses]",
            r"mine.py:2: reward mine: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_what_a_users_reward_gets_wrong_is_named(empty: Path, body: str, message: str) -> None:
    reward_file(empty, "mine.py", f"def score(batch, config):\n    {body}\n")
    with pytest.raises(RewardError, match=message) as raised:
        load_reward("mine").score(["?"] * 3, ["one", "two", "three"], [[]] * 3)
    assert "reward mine: " in str(raised.value)
    assert "mine.py" in str(raised.value)


def test_scores_outside_by_rounding_are_clipped(empty: Path) -> None:
    reward_file(empty, "mine.py", "def score(batch, config):\n    return [1 + 1e-10, -1e-10]\n")
    assert load_reward("mine").score(["?"] * 2, ["a", "b"], [[], []]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_at_all\n", r"mine.py:1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = 1\ndef score(batch:\n", r"mine.py:2: SyntaxError"),
        ("x = 1\n", r"mine.py: a reward defines either score\(batch, config\) or class Reward"),
        ("class Reward:\n    pass\ndef score(b, c):\n    pass\n", "a reward defines either"),
        ("class Config:\n    a = 1\ndef score(b, c):\n    pass\n", "mine.py: Config is not a dataclass"),
        ("class Reward:\n    def __init__(self, config, context):\n        pass\n", "has no method score"),
        (
            "class Reward:\n    def __init__(self, config, context):\n        1 / 0\n    def score(self, b): ...\n",
            "py:3: reward mine: Zero",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line(empty: Path, text: str, message: str) -> None:
    reward_file(empty, "mine.py", text)
    with pytest.raises(InputError, match=message):
        load_reward("mine")
    assert load_reward("exact_match").score(["?"], ["a"], [["a"]]).tolist() == [1.0]  # the others go on


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rogue", {}, 'unknown reward "rogue". Did you mean "rouge"?'),
        ("rouge", {"varient": "rouge1"}, 'unknown option "varient" of reward=rouge. Did you mean "variant"?'),
        ("rouge", {"variant": "rougel"}, 'reward.variant=rougel: not one of its values. Did you mean "rougeL"?'),
        ("rouge", {"variant": 1}, "reward.variant: expected text, got 1"),
        ("exact_match", {"articles": 1}, "reward.articles: expected true or false, got 1"),
        ("constraints", {"strict": True}, 'unknown option "strict" of reward=constraints. It takes none.'),
        ("constraints", {}, "reward constraints: needs an environment with items"),
        ("weighted", {}, "needs parts with a weight above 0"),
        ("weighted", {"parts": {"rouge": -1}}, "parts.rouge: a weight is a number of at least 0, got -1.0"),
        ("weighted", {"parts": {"rouge": "much"}}, "reward.parts.rouge: expected a number, got 'much'"),
        ("weighted", {"parts": {"rogue": 1}}, 'unknown reward "rogue". Did you mean "rouge"?'),
        (
            "weighted",
            {"parts": {"rouge": 1}, "options": {"bleu": {}}},
            'options for "bleu", which is not among the parts',
        ),
        (
            "weighted",
            {"parts": {"rouge": 1}, "options": {"rouge": {"long": "en"}}},
            'unknown option "long" of reward=rouge',
        ),
        ("weighted", {"parts": {"weighted": 1}}, "reward weighted contains itself: weighted > weighted"),
    ],
)
def test_wrong_options_say_what_was_expected(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        load_reward(name, **options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["?"], ["a", "b"], [["a"], ["b"]]), "2 responses but 1 instructions"),
        ((["?"] * 2, ["a", "b"], [["a"]]), "2 responses but 1 references"),
        ((["?"], ["a"], [["a"]], []), "1 responses but 0 rows"),
        ((["?"] * 2, ["a", True], [["a"]] * 2), "row 1: the response is True, expected text"),
        (([None], ["a"], [["a"]]), "row 0: the instruction is None, expected text"),
        ((["?"] * 2, ["a", "b"], [["a"], "b"]), "row 1: references is a text, expected a list of texts"),
        ((["?"] * 2, ["a", "b"], [["a"], ["b", 3]]), "row 1: references are ['b', 3], expected texts"),
        ((["?"] * 2, ["a", "b"], [["a"], []]), "row 1 has no references to compare with"),
    ],
)
def test_a_ragged_or_odd_batch_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        load_reward("rouge").score(*arguments)
    assert message in str(raised.value)


# YAML


def test_yaml_gives_a_reward_other_defaults(empty: Path) -> None:
    reward_file(empty, "short.yaml", "reward: rouge\nvariant: rouge1\n")
    reward_file(empty, "mix.yaml", "reward: weighted\nparts: {short: 1, exact_match: 3}\n")
    assert load_reward("short").options["variant"] == "rouge1"
    assert load_reward("short", variant="rouge2").options["variant"] == "rouge2"
    mix = load_reward("mix")
    batch = Batch(["?"], ["a b"], [["b a"]])
    assert mix.score_batch(batch).tolist() == [0.25]
    assert {part: float(scores[0]) for part, scores in mix.parts(batch).items()} == {"short": 1.0, "exact_match": 0.0}
    config = reward_config_class("mix")
    assert config is not None
    assert config.__name__ == "Config"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reward: rogue\n", 'mine.yaml: "reward: rogue" is not the name of a reward'),
        ("parts: {}\n", 'mine.yaml: "reward: " is not the name'),
        ("reward: [\n", "mine.yaml:2: broken YAML"),
        (
            "reward: rouge\nvarient: rouge1\n",
            'mine.yaml: unknown option "varient" of reward=mine. Did you mean "variant"?',
        ),
        ("reward: weighted\nparts: {mine: 1}\n", "reward mine contains itself: mine > mine"),
    ],
)
def test_a_broken_yaml_is_named(empty: Path, text: str, message: str) -> None:
    reward_file(empty, "mine.yaml", text)
    with pytest.raises(InputError) as raised:
        load_reward("mine")
    assert message in str(raised.value)


def test_weighted_is_the_mean_of_its_parts_and_their_versions(empty: Path) -> None:
    reward_file(
        empty,
        "live.py",
        "class Reward:\n    version = '7'\n    def __init__(self, config, context): ...\n"
        "    def score(self, batch):\n        return [0.5] * len(batch)\n",
    )
    reward = load_reward(
        "weighted", parts={"rouge": 3, "live": 1, "exact_match": 0}, options={"rouge": {"variant": "rouge1"}}
    )
    batch = Batch(["?"] * 2, ["a b", "c"], [["b a"], ["c"]])
    scores, parts = reward.score_with_parts(batch)
    assert scores.tolist() == [0.75 + 0.125, 0.75 + 0.125]
    assert parts["exact_match"].tolist() == [0.0, 1.0]
    assert reward.score_batch(batch).tolist() == scores.tolist()
    assert reward.version == "live=7"
    plain = load_reward("rouge").score_with_parts(batch)
    assert plain[0].tolist() == [0.5, 1.0]
    assert plain[1] == {}


def test_an_error_in_a_part_names_the_part(empty: Path) -> None:
    reward_file(empty, "mine.py", "def score(batch, config):\n    return [2] * len(batch)\n")
    with pytest.raises(RewardError, match=r"mine.py: reward mine: row 0 .* the score 2.0 is not in"):
        load_reward("weighted", parts={"mine": 1}).score(["?"], ["a"], [["a"]])


# exact_match


@pytest.mark.parametrize(
    ("response", "references", "options", "expected"),
    [
        ("Order  Status\n", ["order status"], {}, 1.0),
        ("STRASSE", ["straße"], {}, 1.0),
        ("order status", ["other", "Order status"], {}, 1.0),
        ("order status.", ["order status"], {}, 0.0),
        ("order status.", ["order status"], {"punctuation": True}, 1.0),
        ("the order", ["order"], {}, 0.0),
        ("the order", ["order"], {"articles": True}, 1.0),
        ("theorder", ["order"], {"articles": True}, 0.0),
        ("", [""], {}, 1.0),
        ("", ["x"], {}, 0.0),
        ("हिन्दी!", ["हिन्दी"], {"punctuation": True}, 1.0),
        ("披萨。", ["披萨"], {"punctuation": True}, 1.0),
        ("e\u0301clair", ["éclair"], {}, 1.0),
        ("e\u0301clair\u200b", ["\ufeffe\u0301clair"], {}, 1.0),
        ("e\u0301clair ＡＢ ﬁsh", ["éclair ab fish"], {"unicode": True}, 1.0),
    ],
)
def test_exact_match(response: str, references: list[str], options: dict[str, bool], expected: float) -> None:
    assert load_reward("exact_match", **options).score(["?"], [response], [references]).tolist() == [expected]


def test_exact_match_takes_an_items_name_or_id_as_its_text() -> None:
    reward = load_reward("exact_match", env=ENV)
    responses = ["margherita.", "p1", ITEMS[0].text.upper(), "Diavola", "a Margherita"]
    assert reward.score_batch(batch_of(responses, ROWS[:1] * 5)).tolist() == [1, 1, 1, 0, 0]
    freely_worded = Batch(
        ["?"] * 2, ["Margherita", "Bianca"], [["try the tomato one"]] * 2, [{"id": "x", "best": ["p1"]}] * 2
    )
    assert reward.score_batch(freely_worded).tolist() == [1, 0]


# constraints


def test_constraints_is_the_share_satisfied_by_the_item_named() -> None:
    reward = load_reward("constraints", env=ENV)
    responses = ["p1", "Diavola", "Bianca", "nothing of ours", "p2", "p2", "Pizza", ITEMS[2].text]
    rows = [ROWS[0], ROWS[0], ROWS[0], ROWS[0], ROWS[1], ROWS[2], ROWS[3], ROWS[3]]
    expected = [1.0, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert reward.score_batch(batch_of(responses, rows)).tolist() == expected
    order = np.random.default_rng(0).permutation(8)
    shuffled = batch_of([responses[k] for k in order], [rows[k] for k in order])
    assert reward.score_batch(shuffled).tolist() == [expected[k] for k in order]


def test_constraints_names_the_row_at_fault_and_recovers() -> None:
    reward = load_reward("constraints", env=ENV)
    with pytest.raises(InputError, match=r'row 1 \(id "z"\) has no "constraints"'):
        reward.score(["?"] * 2, ["p1", "p1"], [[], []], [ROWS[0], {"id": "z"}])
    with pytest.raises(InputError, match="needs rows"):
        reward.score(["?"], ["p1"], [[]])
    with pytest.raises(InputError, match=r'row 0 \(id "z"\): "constraints" is \'hot\', expected a list'):
        reward.score(["?"], ["p1"], [[]], [{"id": "z", "constraints": "hot"}])
    broken = {"id": "z", "constraints": [asks("spice", "is", "hot"), asks("spicy", "is", "hot")]}
    with pytest.raises(InputError, match=r'row 1 \(id "z"\): no item has the attribute "spicy". Did you mean "spice"?'):
        reward.score(["?"] * 2, ["p1", "p1"], [[], []], [ROWS[0], broken])
    assert reward.score_batch(batch_of(["p2"], ROWS[2:3])).tolist() == [1.0]


@pytest.mark.parametrize(
    ("attribute", "op", "value", "expected"),
    [
        ("toppings", "has", "basil", [True, False, True]),
        ("toppings", "lacks", "basil", [False, True, False]),
        ("toppings", "any_of", ["salami", "ricotta"], [False, True, True]),
        ("toppings", "none_of", ["salami", "ricotta"], [True, False, False]),
        ("spice", "is", "mild", [True, False, True]),
        ("spice", "is_not", "mild", [False, True, False]),
        ("spice", "any_of", ["hot", "medium"], [False, True, False]),
        ("spice", "none_of", ["hot", "medium"], [True, False, True]),
        ("price", "at_most", 9, [True, False, False]),  # the third has no price
        ("price", "at_least", 9.5, [False, True, False]),
        ("price", "is", 11, [False, True, False]),
        ("price", "is_not", 11, [True, False, True]),
        ("price", "any_of", [9, 10], [True, False, False]),
        ("price", "none_of", [9, 10], [False, True, True]),
    ],
)
def test_satisfies(attribute: str, op: str, value: Any, expected: list[bool]) -> None:
    found = satisfies(asks(attribute, op, value), ITEMS)
    assert found.dtype == bool
    assert found.tolist() == expected
    assert op in OPS


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (asks("toppings", "contains", "x"), 'unknown op "contains" in a constraint.'),
        (asks("topings", "has", "x"), 'no item has the attribute "topings". Did you mean "toppings"?'),
        (asks("spice", "has", "hot"), 'item "p1": spice is \'mild\', but op "has" needs a list'),
        (asks("toppings", "is", "basil"), "needs one value, not a list"),
        (asks("spice", "at_most", 3), 'item "p1": spice is \'mild\', but op "at_most" needs a number'),
        (asks("price", "at_most", "9"), "op \"at_most\" needs a number as value, got '9'"),
        (asks("price", "any_of", 9), "needs a list as value, got 9"),
        (asks("spice", "is", ["hot"]), "needs one value, got ['hot']"),
        ({"attribute": "spice", "op": "is"}, 'a constraint lacks "value"'),
        ("hot", "a constraint is a record with attribute, op and value, got 'hot'"),
    ],
)
def test_a_wrong_constraint_is_explained(constraint: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        satisfies(constraint, ITEMS)
    assert message in str(raised.value)


def test_constraint_matrix() -> None:
    assert constraint_matrix(ROWS[0]["constraints"], ITEMS).tolist() == [[True, True, False], [True, False, False]]
    assert constraint_matrix([], ITEMS).shape == (0, 3)


# Items


def test_item_finder() -> None:
    finder = ItemFinder(ITEMS)
    responses = [
        "Margherita",
        "  diavola!",
        "P3",
        ITEMS[1].text + ".",
        "",
        "...",
        "pizza",
        "the Margherita",
        "Margherita",
    ]
    assert finder(responses).tolist() == [0, 1, 2, 1, -1, -1, -1, -1, 0]
    assert finder([]).shape == (0,)


def test_a_name_that_two_items_share_names_none() -> None:
    twins = [Item("1", "Special", "ham", {}), Item("2", "special", "olives", {}), Item("3", "ham", "tuna", {})]
    assert ItemFinder(twins)(["SPECIAL", "ham", "olives", "2", "3"]).tolist() == [-1, 0, 1, 1, 2]
    assert ItemFinder(twins)(["special", "Special!"]).tolist() == [1, 0]  # as it is written, one item's alone
