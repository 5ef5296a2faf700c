"""What callers may give to `step` and `reset` of the Gymnasium environments; anything else is an error that says so."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from instructrec_rl.core import InputError, nearest

OPTIONS = ("row_id",)
MOST_SHOWN = 60  # characters of a wrong value


class OutsideSpaceError(InputError, gymnasium.error.InvalidAction):
    """An action that is not in the space: InputError as everywhere here, InvalidAction as Gymnasium has it."""


def item_action(action: Any, space: Any) -> int:
    """The index of an item. Takes integers, also NumPy's and arrays without a dimension; `True` is none."""
    if isinstance(action, np.ndarray) and action.shape == ():
        action = action[()]
    if isinstance(action, bool | np.bool_) or not isinstance(action, int | np.integer) or not 0 <= action < space.n:
        raise OutsideSpaceError(f"step: the action {_shown(action)} is not in {space}")
    return int(action)


def item_actions(actions: Any, space: Any, num_envs: int) -> np.ndarray:
    """The indices (N,) of N items, from an array or a list of integers. A hot path: all are looked at at once."""
    found = actions if isinstance(actions, np.ndarray) else _array(actions)
    if found is None or found.dtype.kind not in "iu" or found.shape != (num_envs,):
        raise OutsideSpaceError(f"step: {_kind(found, actions)}; expected {num_envs} integers, each in {space}")
    if num_envs and (found.min() < 0 or found.max() >= space.n):
        wrong = int(np.flatnonzero((found < 0) | (found >= space.n))[0])
        raise OutsideSpaceError(f"step: the action {found[wrong]} of environment {wrong} is not in {space}")
    return found


def text_action(action: Any, space: Any, which: str = "") -> str:
    """A text of the space: no longer than it allows, and of its characters."""
    words = f"step: the action{which}"
    about = f"Text of at most {space.max_length:,} characters"
    if not isinstance(action, str):
        raise OutsideSpaceError(f"{words} is {_shown(action)}; expected {about}")
    if len(action) > space.max_length:
        raise OutsideSpaceError(f"{words} has {len(action):,} characters; expected {about}")
    if not space.character_set.issuperset(action):
        others = "".join(sorted(set(action) - space.character_set))[:10]
        raise OutsideSpaceError(f"{words} has the characters {others!r}, which are not in the space; expected {about}")
    return action


def text_actions(actions: Any, space: Any, num_envs: int) -> list[str]:
    """N texts of the space, as a list, a tuple or an array."""
    several = isinstance(actions, list | tuple) or (isinstance(actions, np.ndarray) and actions.ndim > 0)
    if not several or len(actions) != num_envs:
        raise OutsideSpaceError(f"step: {_kind(None, actions)}; expected {num_envs} texts")
    return [text_action(action, space, f" of environment {place}") for place, action in enumerate(actions)]


def one_seed(seed: Any) -> int | None:
    """A seed as Python's integer, None where there is none. Raises InputError for anything else."""
    if seed is None:
        return None
    try:
        if isinstance(seed, bool | np.bool_):
            raise TypeError
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise InputError(f"reset: the seed {_shown(seed)} is not an integer from 0 on")
    return number


def seeds_of(seed: Any, num_envs: int) -> list[int | None]:
    """The seed of each of N environments: one integer stands for itself and those that follow."""
    if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes) and np.ndim(seed) > 0:
        if len(seed) != num_envs:
            raise InputError(f"reset: {len(seed)} seeds for {num_envs} environments; expected one each, or one integer")
        return [one_seed(each) for each in seed]
    first = one_seed(seed)
    return [None if first is None else first + place for place in range(num_envs)]


def asked_rows(options: Any, num_envs: int) -> list[str] | None:
    """The row that `options` asks of each environment, None where they ask none.

    One id stands for every environment, a list has one for each. Raises InputError for an option that is not known.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise InputError(f"reset: the options are {_shown(options)}; expected a dict such as {{'row_id': ...}}")
    for key in options:
        if key not in OPTIONS:
            raise InputError(f'reset: unknown option "{str(key)[:MOST_SHOWN]}".{nearest(str(key), OPTIONS)}')
    if "row_id" not in options:
        return None
    given = options["row_id"]
    if isinstance(given, list | tuple | np.ndarray):
        if len(given) != num_envs:
            raise InputError(f"reset: {len(given)} row_id for {num_envs} environments; expected one each, or one text")
        return [str(each) for each in given]
    return [str(given)] * num_envs


def _array(actions: Any) -> np.ndarray | None:
    """A sequence as an array, None where it is none; one of `True` among integers would become integers."""
    if isinstance(actions, list | tuple) and any(isinstance(each, bool | np.bool_) for each in actions):
        return None
    try:
        return np.asarray(actions)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return None


def _kind(found: np.ndarray | None, actions: Any) -> str:
    if found is None:
        return f"the actions are {_shown(actions)}"
    return f"the actions are {found.dtype} of the shape {found.shape}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}..."
