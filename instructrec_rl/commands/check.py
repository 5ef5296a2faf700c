"""`instructrec-rl check [env NAME | reward NAME]`: load and validate what a run would use, and say what is wrong."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instructrec_rl.config.env_yaml import FILE, read_env_yaml
from instructrec_rl.config.schema import DEFAULT_ENV
from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.command_line import DONE, WRONG_INPUT, Parser
from instructrec_rl.core.files import find_envs, find_rewards

SAMPLE = 16  # instructions that a reward is tried on
BLOCK = 8_192  # rows scored at once


def main(argv: list[str]) -> int:
    """Print a line for each thing checked; what is broken goes to stderr, and the exit code is 2."""
    # read the command line
    parser = Parser(prog="instructrec-rl check", description="Validate environments and rewards (default: all found).")
    parser.add_argument("kind", nargs="?", help="env or reward")
    parser.add_argument("name", nargs="?", help="its name (default: all of the kind)")
    parser.add_argument("--env", default="", help="the environment whose instructions a reward is tried on")
    arguments = parser.parse_args(argv)
    checks: dict[str, tuple[dict[str, Path], Callable[[str], str]]] = {
        "env": (find_envs(), check_env),
        "reward": (find_rewards(), lambda name: check_reward(name, arguments.env)),
    }
    if arguments.kind is not None and arguments.kind not in checks:
        raise InputError(f'check: there is no kind "{arguments.kind}".{nearest(arguments.kind, checks)}')
    if arguments.name is not None:
        known = checks[arguments.kind][0]
        if arguments.name not in known:
            raise InputError(f'check: there is no {arguments.kind} "{arguments.name}".{nearest(arguments.name, known)}')
    # choose what is checked
    wanted = [
        (f"{kind} {name}", check, name)
        for kind, (files, check) in checks.items()
        for name in files
        if arguments.kind in (None, kind) and arguments.name in (None, name)
    ]
    # check it
    broken: dict[str, None] = {}
    for title, check, name in wanted:
        try:
            print(f"{title}: {check(name)}", flush=True)
        except InputError as error:
            if error.path is None and len(wanted) > 1:  # no file is at fault: it only needs options of its own
                print(f"{title}: not checked: {error}", flush=True)
            elif str(error) not in broken:  # an environment's fault shows once, not again for every reward tried on it
                broken[str(error)] = None
                print(error, file=sys.stderr, flush=True)
    return WRONG_INPUT if broken else DONE


def check_env(name: str) -> str:
    """Do with an environment's data what a run does before and after it learns, and sum it up.

    Every row's right answer is scored by the reward that a run takes and by every metric. Raises InputError where the
    data is broken, or where one of them cannot score it.
    """
    header = read_env_yaml(find_envs()[name] / FILE)
    if header.format == "intents" and not header.path:
        return "needs env.path=FILE, so there is no data to check"
    env = _load_env(name)
    from instructrec_rl.run.evaluate import Scorer

    rewards = [env.reward, *Scorer(env).metrics.values()]
    for rows in env.splits.values():
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            batch = env.batch(part, [env.items[env.examples[row].best[0]].text for row in part])
            for reward in rewards:
                reward.score_batch(batch)
    splits = ", ".join(f"{split} {len(rows)}" for split, rows in env.splits.items())
    return f"ok, {len(env.items)} items, {len(env.examples)} instructions ({splits}); reward {env.reward_name}"


def check_reward(name: str, env_name: str = "") -> str:
    """Score a right and an empty response to some instructions of an environment, and sum it up.

    Raises InputError where the reward cannot be loaded or used there, or where a score is not in [0, 1].
    """
    from instructrec_rl.rewards import load_reward, refuse_unpaid

    env = _load_env(env_name or _env_beside(find_rewards()[name]))
    examples = [env.examples[row] for row in env.splits["train"][:SAMPLE]]
    reward = load_reward(name, env=env)
    refuse_unpaid(reward, env.examples, env.splits["train"].tolist(), env.spec.files[-1])
    means = []
    for responses in ([example.references[0] for example in examples], [""] * len(examples)):
        scores = reward.score(  # it checks the shape, that scores are finite and that they are in [0, 1]
            [example.instruction for example in examples],
            responses,
            [list(example.references) for example in examples],
            [example.row for example in examples],
        )
        means.append(float(scores.mean()))
    return f"ok on {env.spec.name}: a right response scores {means[0]:.3f}, an empty one {means[1]:.3f}"


@functools.lru_cache(maxsize=4)
def _load_env(name: str) -> Any:
    from instructrec_rl import load_env

    return load_env(name)


def _env_beside(reward: Path) -> str:
    """An environment from the folder that the reward is from, as it was likely written for that one."""
    beside = [name for name, folder in find_envs().items() if folder.parent.parent == reward.parent.parent]
    return DEFAULT_ENV if DEFAULT_ENV in beside or not beside else beside[0]
