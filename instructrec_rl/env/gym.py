"""Gymnasium's `Env` and `VectorEnv` over the batched dynamics. The world's rules are not here: see `environment.py`."""

from __future__ import annotations

import functools
import string
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.files import find_envs
from instructrec_rl.encoders.states import MAX_CLAUSES, MAX_TOKENS
from instructrec_rl.env.arguments import (
    asked_rows,
    item_action,
    item_actions,
    one_seed,
    seeds_of,
    text_action,
    text_actions,
)
from instructrec_rl.env.environment import Environment, Turn, load_env

BLOCK = 1024  # rows each instance draws at a time: the generator's call costs more than the numbers
MAX_RESPONSE = 2_000  # characters
WRITTEN = frozenset(string.ascii_letters + string.digits + string.punctuation + " \n")  # beside those of the data

MAX_SPARES = 4  # observations kept for use again: the newest, the one before in `final_obs`, and a caller's
_PROBE = [np.empty(0)]
ALONE = sys.getrefcount(_PROBE[0])  # what an array counts that a list alone holds

Stamp = tuple[tuple[str, int], ...]
Observation = np.ndarray | dict[str, np.ndarray]


@functools.lru_cache(maxsize=4)
def _shared_environment(name: str, reward: str, options: tuple[tuple[str, Any], ...], stamp: Stamp) -> Environment:
    """Sub-environments of one vector share data, states and rewards: they are read-only or memo tables."""
    return load_env(name, reward=reward, **dict(options))


def _stamp(name: str) -> Stamp:
    """What changes when an environment's files do, so that a shared one is never stale."""
    folder = find_envs().get(name)
    files = sorted(folder.iterdir()) if folder else []
    return tuple((str(file), file.stat().st_mtime_ns) for file in files)


class _Shell:
    """What the single and the vectorised environment share: spaces, observations, and the drawing of rows."""

    def __init__(self, env: Environment | str, split: str, reward: str, options: dict[str, Any]):
        if isinstance(env, str):
            chosen = {"state": "sentence", **options}
            env = _shared_environment(env, reward, tuple(sorted(chosen.items())), _stamp(env))
        elif options or reward:
            raise InputError("options go with an environment's name; a loaded environment has its own")
        self.environment, self.split = env, split
        self.dynamics = env.dynamics(split)
        self.states = env.states()
        self._sentences = self.states.index[:, 0].astype(np.intp)
        self._spares: list[np.ndarray] = []
        self.text_action = env.spec.action == "generate"
        self.observation_space, self.action_space = self._spaces()

    def _spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        dim, with_turns = self.environment.encoder.dim, self.dynamics.turns > 1
        unit = functools.partial(spaces.Box, -1.0, 1.0, dtype=np.float32)
        seen: spaces.Space[Any]
        if self.states.kind == "sentence":
            seen = unit((2 * dim + 1 if with_turns else dim,))
        else:
            width = MAX_CLAUSES if self.states.kind == "clauses" else MAX_TOKENS
            members = {self.states.kind: unit((width, dim)), "mask": spaces.MultiBinary(width)}
            turns = {"context": unit((dim,)), "last_reward": unit((1,))} if with_turns else {}
            seen = spaces.Dict({**members, **turns})
        if not self.text_action:
            return seen, spaces.Discrete(len(self.dynamics.menu))
        # Text accepts only alphanumerics unless told otherwise, and would reject "margherita pizza"
        charset = WRITTEN | self.environment.characters
        return seen, spaces.Text(max_length=MAX_RESPONSE, min_length=0, charset=charset)

    def find_rows(self, row_ids: Sequence[str]) -> np.ndarray:
        """Where rows of this split stand in the examples. Raises InputError for one that is not there."""
        missing, found = set(row_ids), {}
        for row in self.dynamics.rows:
            if self.environment.row_ids[row] in missing:
                found[self.environment.row_ids[row]] = row
                missing.remove(self.environment.row_ids[row])
                if not missing:
                    break
        for row_id in row_ids:
            if row_id in missing:
                raise InputError(f'split "{self.split}" has no row "{row_id}"')
        return np.array([found[row_id] for row_id in row_ids], dtype=np.int64)

    def _spare(self, size: int, like: np.ndarray) -> np.ndarray:
        """An array (size, D) that nobody holds any more, or a new one: fresh memory costs more than what is copied."""
        if not self._spares or len(self._spares[0]) != size:
            self._spares = []
        for i in range(len(self._spares)):
            if sys.getrefcount(self._spares[i]) == ALONE:
                return self._spares[i]
        fresh = np.empty((size, like.shape[1]), like.dtype)
        self._spares = [*self._spares[1 - MAX_SPARES :], fresh]
        return fresh

    def observe(self, turn: Turn) -> Observation:
        """The observations of B episodes, batched: see `_spaces` for the shapes."""
        context = self.dynamics.context(turn.tried, turn.last_score)
        if self.states.kind == "sentence":
            chosen = self._sentences[turn.rows]
            out = self._spare(len(chosen), self.states.vectors)
            sentence = self.states.vectors.take(chosen, axis=0, mode="clip", out=out)  # clip: no bounds twice
            if context is None:
                return sentence
            return np.concatenate([sentence, context], axis=1)
        members, mask = self.states.dense(turn.rows)
        seen = {self.states.kind: members, "mask": mask}
        return seen if context is None else seen | {"context": context[:, :-1], "last_reward": context[:, -1:]}


class InstructionEnv(gymnasium.Env[Any, Any]):
    """One conversation at a time: an instruction is the observation, an item (or a text) is the action.

    env: a name or a loaded `Environment`; split: whose instructions are asked; reward: a reward's name; options: the
    fields of `EnvConfig`. `info` has the instruction's text, its row id, and after a step the response and its score.
    `reset(options={"row_id": ...})` asks a given instruction.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 (Gymnasium's own contract)

    def __init__(
        self,
        env: Environment | str,
        *,
        split: str = "train",
        reward: str = "",
        render_mode: str | None = None,
        **options: Any,
    ):
        self.shell = _Shell(env, split, reward, options)
        self.observation_space, self.action_space = self.shell.observation_space, self.shell.action_space
        self.render_mode = render_mode
        self._drawn = np.empty(0, dtype=np.int64)
        self._turn: Turn | None = None
        self._over = False
        self._response, self._score = "", 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw the next instruction."""
        seed, asked = one_seed(seed), asked_rows(options, 1)
        rows = None if asked is None else self.shell.find_rows(asked)
        super().reset(seed=seed)
        if seed is not None:
            self._drawn = np.empty(0, dtype=np.int64)
        if rows is None:
            if not len(self._drawn):
                self._drawn = self.np_random.integers(len(self.shell.dynamics.rows), size=BLOCK)
            rows, self._drawn = self.shell.dynamics.rows[self._drawn[:1]], self._drawn[1:]
        self._turn, self._over = self.shell.dynamics.start(rows), False
        self._response, self._score = "", 0.0
        return self._observation(self._turn), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer: with the index of an item on offer, or with a text.

        Raises OutsideSpaceError for an action that is not in the space, ResetNeeded after the end of an episode.
        """
        if self._turn is None or self._over:
            when = "the episode is over: " if self._over else ""
            raise gymnasium.error.ResetNeeded(f"{when}call reset() before step()")
        dynamics = self.shell.dynamics
        if self.shell.text_action:
            response = text_action(action, self.action_space)
            outcome = dynamics.step_texts(self._turn, [response])
            self._response = response
        else:
            items = dynamics.menu[np.array([item_action(action, self.action_space)])]
            self._response = str(self.shell.environment.item_texts[items[0]])
            outcome = dynamics.step(self._turn, items)
        self._turn, self._score = outcome.turn, float(outcome.scores[0])
        self._over = bool(outcome.terminated[0] or outcome.truncated[0])
        seen, info = self._observation(outcome.turn), self._info() | {"response": self._response, "score": self._score}
        return seen, float(outcome.rewards[0]), bool(outcome.terminated[0]), bool(outcome.truncated[0]), info

    def _observation(self, turn: Turn) -> Any:
        seen = self.shell.observe(turn)
        return seen[0] if isinstance(seen, np.ndarray) else {key: value[0] for key, value in seen.items()}

    def _info(self) -> dict[str, Any]:
        assert self._turn is not None
        env, row = self.shell.environment, self._turn.rows[0]
        return {"instruction": env.instructions[row], "row_id": env.row_ids[row]}

    def render(self) -> str | None:
        """The conversation so far as text (render_mode="ansi")."""
        if self.render_mode != "ansi" or self._turn is None:
            return None
        asked = f"instruction: {self._info()['instruction']}"
        return asked if not self._response else f"{asked}\nresponse: {self._response}\nscore: {self._score:.3f}"


class InstructionVectorEnv(VectorEnv[Any, Any, Any]):
    """N conversations in step, with same-step autoreset; instance i equals an `InstructionEnv` seeded with seed + i.

    Next-step autoreset, Gymnasium's other mode, would waste every other step of one-turn episodes. Where episodes have
    one turn, `final_obs` shares memory with the observation of the step before: who writes into that, writes into both.

    infos: `texts`, as Gymnasium has them (an object for each instance); or `arrays`, for who needs the speed: of an
    instruction `row` alone (N,), its position in the environment's examples, `score` (N,), and of the ended episodes
    `final_obs` as one observation of all N and `final_row` (N,), to be read where `_final_obs` (N,) is true.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["ansi"]}  # noqa: RUF012

    def __init__(
        self,
        env: Environment | str,
        num_envs: int = 1,
        *,
        split: str = "train",
        reward: str = "",
        render_mode: str | None = None,
        infos: str = "texts",
        **options: Any,
    ):
        if infos not in ("texts", "arrays"):
            raise InputError(f'infos="{infos}": expected texts or arrays.{nearest(infos, ("texts", "arrays"))}')
        if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise InputError(f"num_envs={num_envs!r}: expected an integer from 1 on")
        self.shell = _Shell(env, split, reward, options)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space, self.single_action_space = self.shell.observation_space, self.shell.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] = []
        self._drawn = np.zeros((num_envs, BLOCK), dtype=np.int64)
        self._used = np.full(num_envs, BLOCK)
        self._everyone = np.ones(num_envs, dtype=bool)
        self._turn: Turn | None = None
        self._seen: Observation = np.empty(0)  # what was last given to the caller
        self._infos = self._texts if infos == "texts" else self._arrays
        self._final_infos = self._final_texts if infos == "texts" else self._final_arrays
        self._asked: dict[str, Any] = {}  # the infos of the instructions now asked

    def reset(
        self, *, seed: int | Sequence[int | None] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start every instance anew; an int seeds instance i with seed + i, as Gymnasium's own vector envs do.

        options: `row_id`, as for one environment: the id of the row that all are asked, or a list with one for each.
        """
        given, asked = seeds_of(seed, self.num_envs), asked_rows(options, self.num_envs)
        rows = None if asked is None else self.shell.find_rows(asked)
        old = self._generators or [np.random.default_rng() for _ in given]
        self._generators = [generator if s is None else np.random.default_rng(s) for generator, s in zip(old, given)]
        self._used[[s is not None for s in given]] = BLOCK
        self._turn = self.shell.dynamics.start(self._draw(np.arange(self.num_envs)) if rows is None else rows)
        self._asked, self._seen = self._infos(self._turn.rows), self.shell.observe(self._turn)
        return self._seen, self._asked.copy()

    def _draw(self, which: np.ndarray) -> np.ndarray:
        """The next instruction of some instances, as positions in the environment's examples."""
        for i in which[self._used[which] == BLOCK]:
            self._drawn[i] = self._generators[i].integers(len(self.shell.dynamics.rows), size=BLOCK)
            self._used[i] = 0
        rows = self._drawn[which, self._used[which]]
        self._used[which] += 1
        return self.shell.dynamics.rows[rows]

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Answer in every instance; the ended ones are reset at once and their last observation is in `info`.

        Raises OutsideSpaceError where an action is not in the space; nothing has happened then.
        """
        if self._turn is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        dynamics = self.shell.dynamics
        if self.shell.text_action:
            texts = text_actions(actions, self.single_action_space, self.num_envs)
            outcome = dynamics.step_texts(self._turn, texts)
        else:
            items = item_actions(actions, self.single_action_space, self.num_envs)
            outcome = dynamics.step(self._turn, dynamics.menu[items])
        ended = outcome.terminated | outcome.truncated
        infos: dict[str, Any] = {}
        turn = outcome.turn
        if ended.any():
            # with one turn, what is seen after the answer is what was seen before it
            last = self._seen if dynamics.turns == 1 else self.shell.observe(turn)
            infos = self._final_infos(last, outcome.scores, ended)
            turn = turn.replace(ended, dynamics.start(self._draw(np.flatnonzero(ended))))
            self._asked = self._infos(turn.rows)
        self._turn, self._seen = turn, self.shell.observe(turn)
        infos |= self._asked
        return self._seen, outcome.rewards.copy(), outcome.terminated, outcome.truncated, infos

    def _texts(self, rows: np.ndarray) -> dict[str, Any]:
        return {
            "instruction": self.shell.environment.instructions[rows],
            "_instruction": self._everyone.copy(),
            "row_id": self.shell.environment.row_ids[rows],
            "_row_id": self._everyone.copy(),
        }

    def _final_texts(self, seen: Observation, scores: np.ndarray, ended: np.ndarray) -> dict[str, Any]:
        final = np.empty(self.num_envs, dtype=object)  # all None; it takes a list of arrays as objects, not as a matrix
        which = np.flatnonzero(ended)
        if isinstance(seen, np.ndarray):
            final[which] = list(seen[which] if len(which) < self.num_envs else seen)
        else:
            final[which] = [{key: members[i] for key, members in seen.items()} for i in which]
        info = self._asked | {"score": scores, "_score": ended}  # still the answered instructions
        return {"final_obs": final, "_final_obs": ended, "final_info": info, "_final_info": ended}

    def _arrays(self, rows: np.ndarray) -> dict[str, Any]:
        return {"row": rows, "_row": self._everyone}

    def _final_arrays(self, seen: Observation, scores: np.ndarray, ended: np.ndarray) -> dict[str, Any]:
        of_all = {"final_obs": seen, "_final_obs": ended, "final_row": self._asked["row"], "_final_row": ended}
        return of_all | {"score": scores, "_score": ended}

    def render(self) -> tuple[str, ...] | None:
        """The instructions being asked, as text (render_mode="ansi")."""
        if self.render_mode != "ansi" or self._turn is None:
            return None
        return tuple(f"instruction: {text}" for text in self.shell.environment.instructions[self._turn.rows])
