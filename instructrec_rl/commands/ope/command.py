"""`instructrec-rl ope logs=PATH policy=RUN_DIR`: what a policy would have earned, from what another one logged.

estimators.py (IPS, SNIPS, DM, DR, SWITCH-DR), regression.py (the model of the reward), logs.py (what was logged),
judge.py (a trained policy beside it). docs/how_to/judge_from_logs.md says what each figure is and when not to trust it.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.command_line import DONE, Parser
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.core.inert import printable
from instructrec_rl.core.tables import console

if TYPE_CHECKING:
    import numpy as np

    from instructrec_rl.commands.ope.estimators import Estimate, Evaluation
    from instructrec_rl.commands.ope.logs import Logs
    from instructrec_rl.env.environment import Environment

OWN = ("logs", "policy", "temperature", "json")
GROUPS = ("env", "reward", "encoder")
DESCRIPTION = """\
Off-policy evaluation: what a policy would have earned, estimated from answers that another policy logged.

  logs=PATH        a run's folder or its rollouts.jsonl; JSONL with instruction, response, reward and propensity; or
                   feedback with ratings or thumbs (without propensities only the model's estimate is given)
  policy=RUN_DIR   the policy to judge: a run's folder
  temperature=T    judge softmax(Q / T) of a policy that has values (dqn), not its greedy choice
  env=NAME         where ids are looked up (default: the environment of the run that logged)
  reward=NAME      score the answers anew by this reward; options are reward.NAME=VALUE
  json=FILE        also write the figures there"""
EPILOG = """\
An example, two runs and one judged by the other's answers:
  instructrec-rl run algo.interactions=4000 seed=1 out=one baselines=none
  instructrec-rl run algo.interactions=4000 seed=2 out=two baselines=none
  instructrec-rl ope logs=one policy=two temperature=0.1"""


def main(argv: list[str]) -> int:
    """Print the table and write the figures where asked. Raises InputError for wrong input."""
    # read the command line
    parser = Parser(prog="instructrec-rl ope", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options, overrides = _split(parser.parse_args(argv).overrides)
    temperature = _temperature(options.get("temperature", "0"))
    from instructrec_rl.commands.ope.logs import find_logs, read_logs

    # read the logs, the policy and, where needed, the environment
    path = find_logs(Path(options["logs"]))
    rescored = any(text.partition("=")[0] == "reward" for text in overrides)
    logs = read_logs(path, need_rewards=not rescored)
    from instructrec_rl.commands.ope.estimators import figure
    from instructrec_rl.commands.ope.judge import judge
    from instructrec_rl.commands.ope.regression import mean_of
    from instructrec_rl.policies.saved import load_policy

    target = load_policy(options["policy"])
    env = _environment(path, overrides, target.encoder) if logs.by_id or rescored else None
    rows = None if env is None else _rows(env, logs)
    texts = logs.asked if rows is None or env is None else env.instructions[rows].tolist()
    rewards = _rescored(env, rows, logs) if rescored and env is not None and rows is not None else logs.rewards
    assert rewards is not None
    # judge the policy
    evaluation = judge(logs, texts, rewards, target, temperature)
    warnings = [*evaluation.warnings, *(f"left out: {reason}" for reason in logs.left_out)]
    if path.parent.resolve() == Path(options["policy"]).resolve():
        warnings.append("the policy learned from these very answers, which flatters it; judge it by another run's")
    evaluation = dataclasses.replace(evaluation, warnings=tuple(warnings))
    # print the table and write the figures
    how = f"softmax at temperature {temperature:g}" if temperature else "greedy"
    title = (f"{options['policy']} ({how}) judged by {evaluation.num_rounds:,} rounds of {options['logs']}, "
             f"{len(set(texts)):,} instructions; their mean reward was {figure(mean_of(rewards), 4)}")  # fmt: skip
    _print(printable(title), evaluation)
    if options.get("json"):
        header = {
            "logs": options["logs"],
            "policy": options["policy"],
            "temperature": temperature,
            "logged": mean_of(rewards),
        }
        write_json_atomic(Path(options["json"]), header | dataclasses.asdict(evaluation))
    return DONE


def _split(overrides: list[str]) -> tuple[dict[str, str], list[str]]:
    """The command's own settings by key, and the overrides of env and reward as they are."""
    own: dict[str, str] = {}
    rest = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f'malformed "{text}": expected key=value, such as logs=runs/first')
        if key in OWN:
            own[key] = value
        elif key.partition(".")[0] in GROUPS:
            rest.append(text)
        else:
            raise InputError(f'{text}: unknown option "{key}".{nearest(key, (*OWN, "env", "reward"))}')
    for key, example in (("logs", "logs=runs/first"), ("policy", "policy=runs/second")):
        if not own.get(key):
            raise InputError(f"ope needs {key}=PATH, such as {example}")
    return own, rest


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"temperature={text}: expected a number of at least 0 (0 is greedy)")
    return value


def _environment(path: Path, overrides: list[str], encoder: Any) -> Environment:
    """The environment where instructions are looked up, with the reward asked for."""
    from instructrec_rl.commands.ope.logs import env_of
    from instructrec_rl.config.compose import compose
    from instructrec_rl.config.schema import reward_options
    from instructrec_rl.env.environment import make_environment
    from instructrec_rl.env.spec import load_spec

    of_run = None if any(text.startswith("env=") for text in overrides) else env_of(path)
    if of_run is None and not any(text.startswith("env=") for text in overrides):
        raise InputError("no config.yaml beside it says which environment this is; give env=NAME", path)
    named = [] if of_run is None else [f"env={of_run.name}"]
    config = compose([*named, *overrides])
    spec = load_spec(config.env if of_run is None else of_run)
    return make_environment(spec, encoder, config.reward.name, reward_options(config))


def _rows(env: Environment, logs: Logs) -> np.ndarray:
    """The rows (N,) of the environment's examples that were asked."""
    import numpy as np

    names = env.row_ids if logs.by_id else env.instructions
    known = {name: row for row, name in reversed(list(enumerate(names.tolist())))}
    for place, name in enumerate(logs.asked):
        if name not in known:
            raise logs.error(f'environment "{env.spec.name}" has no instruction "{name[:60]}"', place)
    return np.array([known[name] for name in logs.asked])


def _rescored(env: Environment, rows: np.ndarray, logs: Logs) -> np.ndarray:
    """What the environment's reward says of the answers logged, (N,)."""
    by_id = {item.id: item.text for item in env.items}
    for place, answer in enumerate(logs.answers if logs.kind == "item" else ()):
        if answer not in by_id:
            raise logs.error(f'environment "{env.spec.name}" has no item "{answer}"', place)
    texts = [by_id[answer] for answer in logs.answers] if logs.kind == "item" else logs.answers
    return env.reward.score_batch(env.batch(rows, texts))


def _cells(each: Estimate) -> list[str]:
    from instructrec_rl.commands.ope.estimators import figure

    if each.value is None or each.low is None or each.high is None:
        return [each.name, "–", "–", printable(each.note)]
    span = f"{figure(each.low, 4)} to {figure(each.high, 4)}"
    return [each.name, figure(each.value, 4), span, printable(each.note)]


def _remarks(found: Evaluation) -> list[str]:
    """What stands below the table: the weights, and every warning."""
    said = []
    if found.effective is not None:
        said.append(f"effective sample size {found.effective:,.1f}; largest weight {found.largest_weight:,.3g}; out of "
                    f"the logs' reach {100 * found.out_of_reach:.1f} % of what the policy does")  # fmt: skip
    if found.reason:
        said.append(f"not identified: {found.reason}")
    return [printable(line) for line in (*said, *(f"warning: {warning}" for warning in found.warnings))]


def _print(title: str, found: Evaluation) -> None:
    """To stdout: a table on a terminal, plain lines elsewhere."""
    cells = [["estimate", "reward", "95 % interval", ""], *map(_cells, found.estimates.values())]
    if not sys.stdout.isatty():
        widths = [max(len(row[column]) for row in cells) for column in range(3)]
        body = [
            f"{a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.rjust(widths[2])}  {d}".rstrip() for a, b, c, d in cells
        ]
        print("\n".join([title, *body, *_remarks(found)]))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", title_style="", box=SIMPLE_HEAD, header_style="dim")
    for place, name in enumerate(cells[0]):
        table.add_column(name, justify="right" if place in (1, 2) else "left", overflow="fold")
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    screen = console()
    screen.print(table)
    for line in _remarks(found):
        screen.print(line, markup=False, highlight=False, style="bold red" if line.startswith("not") else "")
