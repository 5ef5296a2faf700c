"""What `step` and `reset` of the Gymnasium environments take, and that everything else is an error that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_rl.core import InputError
from instructrec_rl.env.arguments import OutsideSpaceError, item_action, item_actions, one_seed, seeds_of
from instructrec_rl.env.gym import MAX_RESPONSE, InstructionEnv, InstructionVectorEnv

Toys = Callable[..., Path]
NOT_ITEMS = [-1, 12, 10**30, 0.5, 1.0, float("nan"), True, False, np.True_, None, "1", [1], (1,), np.array([1]), {}]
NOT_ITEMS += [np.float32(1), np.array(1.0), np.array(True), np.int64(-1), np.uint8(12), 1 + 0j, b"1"]
NOT_VECTORS = [
    3, [1, 2], [[1, 2, 3]], [1, 2, 12], [1, 2, -1], [1, 2, True], [0.0, 1.0, 2.0], [1, 2, float("nan")], "012", None,
    ["0", "1", "2"], [1, [2], 3], [1, 2, None], [1, 2, 10**30], np.array([True, False, True]), np.array([1, 2, 2.5]),
    np.array([[1], [2], [3]]), np.array([1, 2, 3], dtype=object), np.array(1), np.array([1, 2, 2**64 - 1], np.uint64),
    np.array([1, 2, -1], np.int8), np.array([1, 2, 3], "M8[s]"), {0: 1, 1: 2, 2: 3},
]  # fmt: skip


@pytest.mark.parametrize("action", NOT_ITEMS, ids=repr)
def test_an_action_outside_the_space_is_an_error_that_names_it(toys: Toys, action: Any) -> None:
    toys(turns=2)
    env = InstructionEnv("toys")
    _, before = env.reset(seed=0)
    with pytest.raises(OutsideSpaceError, match=r"^step: .*Discrete\(12\)$"):
        env.step(action)
    assert env.step(np.int64(3))[4]["row_id"] == before["row_id"]  # nothing had happened


@pytest.mark.parametrize("actions", NOT_VECTORS, ids=repr)
def test_vector_actions_outside_the_space_are_an_error_that_names_it(toys: Toys, actions: Any) -> None:
    toys()
    envs = InstructionVectorEnv("toys", 3)
    _, before = envs.reset(seed=0)
    with pytest.raises(gymnasium.error.InvalidAction, match=r"^step: .*Discrete\(12\)$"):
        envs.step(actions)
    after = envs.step([0, 11, np.int32(3)])[4]
    assert list(after["final_info"]["row_id"]) == list(before["row_id"])


@given(st.integers(-(2**40), 2**40) | st.floats() | st.booleans() | st.text() | st.none())
def test_what_the_space_holds_is_taken_and_nothing_else(action: Any) -> None:
    space = gymnasium.spaces.Discrete(12)
    inside = type(action) is int and action in space
    for given_, take in ((action, item_action), ([action], lambda a, s: item_actions(a, s, 1))):
        if inside:
            assert take(given_, space) == action
        else:
            with pytest.raises(OutsideSpaceError) as caught:
                take(given_, space)
            assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "action", [3, None, b"a", ["a"], "x" * (MAX_RESPONSE + 1), "a \N{SNOWMAN}", "\x1b[2J", np.array("a")]
)
def test_a_written_action_outside_the_space_is_an_error(toys: Toys, action: Any) -> None:
    toys()
    env, envs = InstructionEnv("toys", action="generate"), InstructionVectorEnv("toys", 2, action="generate")
    env.reset(seed=0), envs.reset(seed=0)
    with pytest.raises(OutsideSpaceError, match=r"^step: the action .*Text of at most 2,000 characters$"):
        env.step(action)
    with pytest.raises(OutsideSpaceError, match=r"^step: the action of environment 1 .*Text of at most 2,000"):
        envs.step(["a star", action])
    for wrong in ("ab", ["a"], None, {"a", "b"}):
        with pytest.raises(OutsideSpaceError, match="expected 2 texts"):
            envs.step(wrong)
    assert env.step("a star\npainted red")[3] is False


def test_a_reference_may_be_written_whatever_its_letters(toys: Toys) -> None:
    home = toys(action="generate")
    path = home / "instructions.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0][:-1] + ', "references": ["ein gr\u00fcner K\u00e4fer \u2603"]}', *lines[1:]]))
    env = InstructionEnv("toys", reward="exact_match")
    env.reset(options={"row_id": "r0"})
    assert env.step("ein gr\u00fcner K\u00e4fer \u2603")[1] == 1.0


def test_a_step_after_the_end_or_before_a_reset_is_an_error(toys: Toys) -> None:
    toys(turns=2)
    env = InstructionEnv("toys")
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"^call reset\(\) before step\(\)$"):
        env.step(0)
    env.reset(seed=0)
    while not any(env.step(0)[2:4]):
        pass
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"^the episode is over: call reset\(\) before step\(\)$"):
        env.step(0)
    env.reset()
    env.step(0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        InstructionVectorEnv("toys", 2).step([0, 0])


def test_the_vector_environment_asks_the_row_that_is_asked_for(toys: Toys) -> None:
    toys()
    envs = InstructionVectorEnv("toys", 3)
    assert list(envs.reset(options={"row_id": "r3"})[1]["row_id"]) == ["r3"] * 3
    seen, info = envs.reset(seed=1, options={"row_id": ["r5", "r3", "r5"]})
    assert list(info["row_id"]) == ["r5", "r3", "r5"]
    assert envs.observation_space.contains(seen)
    env = InstructionEnv("toys")
    np.testing.assert_array_equal(env.reset(options={"row_id": "r3"})[0], seen[1])
    following = envs.step([0, 0, 0])[4]["row_id"]  # what the seed draws, as if nothing had been asked
    assert list(following) == list(InstructionVectorEnv("toys", 3).reset(seed=1)[1]["row_id"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"row_id": "nope"}, 'split "train" has no row "nope"'),
        ({"row_id": ["r3"]}, "1 row_id for 2 environments"),
        ({"row_id": ["r3", "nope"]}, 'no row "nope"'),
        ({"rowid": "r3"}, 'unknown option "rowid". Did you mean "row_id"?'),
        ({"reset_mask": np.array([True, False])}, 'unknown option "reset_mask"'),
        (["row_id"], "expected a dict"),
    ],
)
def test_options_that_cannot_be_obeyed_are_refused(toys: Toys, options: Any, said: str) -> None:
    toys()
    with pytest.raises(InputError) as caught:
        InstructionVectorEnv("toys", 2).reset(options=options)
    assert said in str(caught.value)
    if not isinstance(options, dict) or not isinstance(options.get("row_id"), list):
        with pytest.raises(InputError) as caught:
            InstructionEnv("toys").reset(options=options)
        assert said in str(caught.value)


def test_seeds_of_numpy_are_seeds(toys: Toys) -> None:
    toys()
    envs, env = InstructionVectorEnv("toys", 3), InstructionEnv("toys")
    plain = envs.reset(seed=3)[1]["row_id"]
    for seed in (np.int64(3), np.uint8(3), np.array([3, 4, 5]), [3, np.int32(4), 5], (3, 4, 5), np.array(3)):
        assert list(envs.reset(seed=seed)[1]["row_id"]) == list(plain)
    assert env.reset(seed=np.int64(3))[1]["row_id"] == plain[0]
    again = envs.reset(seed=[None, 4, None])[1]["row_id"]
    assert again[1] == plain[1]


@pytest.mark.parametrize(
    "seed", [-1, True, 1.0, "1", [1, 2], [1, 2, 3, 4], [], [1, 2, -3], [1, 2, 0.5], np.ones(3), {}]
)
def test_other_seeds_are_refused(toys: Toys, seed: Any) -> None:
    toys()
    with pytest.raises(InputError, match=r"^reset: "):
        InstructionVectorEnv("toys", 3).reset(seed=seed)
    with pytest.raises(InputError, match=r"^reset: the seed .* is not an integer from 0 on$"):
        InstructionEnv("toys").reset(seed=seed)


@given(st.integers(0, 2**70), st.integers(1, 5))
def test_one_seed_stands_for_those_that_follow(seed: int, size: int) -> None:
    assert one_seed(seed) == seed
    assert seeds_of(seed, size) == list(range(seed, seed + size))


@pytest.mark.parametrize("num_envs", [0, -1, True, 1.5, "2"])
def test_a_vector_of_no_environments_is_refused(toys: Toys, num_envs: Any) -> None:
    toys()
    with pytest.raises(InputError, match="expected an integer from 1 on"):
        InstructionVectorEnv("toys", num_envs)
