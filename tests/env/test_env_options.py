"""Options of an environment that the data alone does not decide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from instructrec_rl.config.schema import EnvConfig
from instructrec_rl.core import InputError
from instructrec_rl.env.environment import make_environment
from instructrec_rl.env.spec import load_spec

DATA = {
    "train": [["turn on the light", "lights"], ["play a song", "music"], ["lamp on", "lights"], ["sing", "music"]],
    "val": [["light please", "lights"], ["what is love", "oos"]],
    "test": [["some music", "music"], ["how old are you", "oos"], ["why", "oos"]],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "intents.json"
    file.write_text(json.dumps(DATA))
    return file


def test_oos_keep_makes_actions_that_training_never_rewards(path: Path) -> None:
    spec = load_spec(EnvConfig(name="intents", path=str(path), oos="keep"))
    assert [item.id for item in spec.items] == ["lights", "music", "oos"]
    assert {name: len(rows) for name, rows in spec.splits.items()} == {"train": 4, "validation": 2, "test": 3}
    assert spec.left_out == {}
    env = make_environment(spec, encoder=None, reward="exact_match")  # type: ignore[arg-type]  # no text is encoded
    every = np.arange(len(spec.examples))
    rewards = env.reward_table(every, np.full(len(every), 2))
    assert rewards[spec.rows("train")].tolist() == [0, 0, 0, 0]
    assert rewards[spec.rows("test")].tolist() == [0, 1, 1]


def test_oos_drop_is_the_default(path: Path) -> None:
    spec = load_spec(EnvConfig(name="intents", path=str(path)))
    assert [item.id for item in spec.items] == ["lights", "music"]
    assert sum(spec.left_out.values()) == 3


def test_oos_keep_still_needs_training_rows(path: Path) -> None:
    path.write_text(json.dumps({"test": DATA["test"]}))
    with pytest.raises(InputError, match=r'no row is in split "train" \(found: test\)'):
        load_spec(EnvConfig(name="intents", path=str(path), oos="keep"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"oos": "kept"}, 'env.oos=kept: not one of its values. Did you mean "keep"?'),
        ({"lang": "fr"}, "env.lang=fr: not one of its values."),
        ({"turns": 0}, "env.turns=0: expected at least 1"),
    ],
)
def test_values_are_checked_from_python_too(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_spec(EnvConfig(name="pizza_rec", **options))  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
