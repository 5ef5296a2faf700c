"""`instructrec-rl audit env=NAME reward=NAME`: what does a reward pay for answers that should earn little?

Before training, a reward is asked about degenerate answers on a sample of the training instructions, beside the
oracle's. One that pays such an answer nearly as well as a right one would teach it.
docs/how_to/audit_a_reward.md says how to read it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from instructrec_rl.core import InputError
from instructrec_rl.core.command_line import DONE, FAULT, Parser
from instructrec_rl.core.inert import printable
from instructrec_rl.core.tables import console
from instructrec_rl.env.environment import Environment, make_environment
from instructrec_rl.rewards import RewardError, load_reward
from instructrec_rl.rewards.tokens import words
from instructrec_rl.run.evaluate import DRAWS

if TYPE_CHECKING:
    from rich.table import Table

ROWS = 300  # instructions sampled
THRESHOLD = 0.5  # of the oracle's raw reward
REPEATS = 50  # times a word is repeated
LONG_ROWS = (
    30  # instructions that the longest texts answer: rewards with a cost quadratic in length need seconds for each
)
LONG_WORDS = 512  # words of the longest text
MAX_CATALOG_CHARS = 100_000  # of the whole catalog joined
FILLER = "yes"  # the word where the catalog has none, only emoji say
TOO_HIGH = " too high"


@dataclass(frozen=True)
class Probe:
    """One kind of answer: responses to rows (B,), positions in the environment's examples."""

    name: str
    rows: np.ndarray
    responses: list[str]
    note: str = ""
    is_item: bool = False


@dataclass(frozen=True)
class Earned:
    """What a probe earned: the mean reward `raw`, and `share`, that by the oracle's mean on the same rows.

    Both are None where the reward refused (`note` says why) or no row has such an answer. `judged`: whether it counts
    for the verdict.
    """

    name: str
    raw: float | None
    share: float | None
    note: str
    judged: bool


@dataclass(frozen=True)
class Audit:
    """What was found. `oracle`: its mean reward; `correlation`: Spearman's, None where reward or metric is constant;
    `writes`: whether the policy writes text, so that all the answers are in its reach.
    """

    env: str
    reward: str
    metric: str
    num_rows: int
    num_pairs: int
    threshold: float
    oracle: float
    earned: list[Earned]
    correlation: float | None
    writes: bool

    @property
    def failures(self) -> list[str]:
        """Why the reward fails, in words; empty where it passes."""
        if self.oracle <= 0:
            return ["the oracle's answers earn nothing, so there is nothing to learn"]
        found = [
            f"{each.name} earns {_percent(each.share)} of what the oracle earns (at most {_percent(self.threshold)})"
            for each in self.earned
            if self.is_too_high(each)
        ]
        if self.correlation is not None and self.correlation < 0:
            found.append(f"it ranks answers against {self.metric}: their rank correlation is {self.correlation:.2f}")
        return found

    def is_too_high(self, each: Earned) -> bool:
        """Whether a degenerate answer beats the threshold."""
        return each.judged and each.share is not None and each.share > self.threshold

    @property
    def verdict(self) -> str:
        """One line."""
        if self.failures:
            return f"fail: {'; '.join(self.failures)}"
        return f"pass: no degenerate answer earns more than {_percent(self.threshold)} of what the oracle earns"


def audit(
    env: Environment, threshold: float = THRESHOLD, num_rows: int = ROWS, seed: int = 0, reachable: bool = False
) -> Audit:
    """Probe the environment's reward on a seeded sample of its training instructions.

    threshold: the share of the oracle's mean reward that no degenerate answer may exceed; reachable: judge only the
    answers that the policy can give (items, where the action is to choose one). Raises InputError where the reward
    cannot score an item at all; a text that it refuses is shown as refused.
    """
    from instructrec_rl.algorithms.oracle import OraclePolicy

    # see what the oracle earns on a sample
    rng = np.random.default_rng(seed)
    train, menu = env.spec.rows("train"), env.spec.menu("train")
    rows = np.sort(rng.choice(train, size=min(num_rows, len(train)), replace=False))
    oracle = dict(
        zip(rows.tolist(), _score(env, rows, _texts(env, OraclePolicy(env.examples).act(env.asked(rows), menu))))
    )
    # draw answers at random
    many = np.tile(rows, DRAWS)
    drawn = _texts(env, rng.choice(menu, size=len(many)))
    at_random = _score(env, many, drawn)
    # see what degenerate answers earn
    probes = [
        *_text_probes(env, rows, menu, rng),
        Probe("the most popular item", rows, _popular(env, rows, menu), is_item=True),
    ]
    all_judged = env.spec.action == "generate" or not reachable
    earned = [_earned(env, probe, oracle, all_judged or probe.is_item) for probe in probes]
    mean = float(np.mean(list(oracle.values())))
    luck = float(at_random.mean())
    earned.append(Earned("a random item", luck, luck / mean if mean > 0 else None, f"mean of {DRAWS} draws", True))
    # compare the reward with the task's metric
    metric = load_reward(env.spec.metrics[0], env=env)
    judged = metric.score_batch(env.batch(many, drawn))
    return Audit(env.spec.name, env.reward_name, metric.name, len(rows), len(many), threshold, mean, earned,
                 _rank_correlation(at_random, judged), env.spec.action == "generate")  # fmt: skip


def _text_probes(env: Environment, rows: np.ndarray, menu: np.ndarray, rng: np.random.Generator) -> Iterator[Probe]:
    """The degenerate texts that no catalog holds."""
    examples, catalog = [env.examples[row] for row in rows], _texts(env, menu)
    vocabulary, counts = np.unique(words(" ".join(catalog)) or [FILLER], return_counts=True)
    common = str(vocabulary[counts.argmax()])
    first = [next(iter(words(" ".join(example.references[:1]))), common) for example in examples]
    stuffed = np.array([len(set(example.references)) > 1 for example in examples])
    several = [" ".join(example.references) for example in np.array(examples, dtype=object)[stuffed]]
    few = np.sort(rng.choice(rows, size=min(LONG_ROWS, len(rows)), replace=False))
    note = f"on {len(few)} rows" if len(few) < len(rows) else ""
    whole, mixed = "\n".join(catalog)[:MAX_CATALOG_CHARS], " ".join(rng.choice(vocabulary, LONG_WORDS))
    yield Probe("an empty text", rows, [""] * len(rows))
    yield Probe("the instruction copied", rows, [example.instruction for example in examples])
    yield Probe(f'one word {REPEATS} times ("{common}")', rows, [" ".join([common] * REPEATS)] * len(rows))
    yield Probe(f"the reference's first word {REPEATS} times", rows, [" ".join([word] * REPEATS) for word in first])
    yield Probe(f"{LONG_WORDS} words of the catalog", few, [mixed] * len(few), note)
    asked = "" if stuffed.all() else f"on the {len(several)} rows with several references"
    yield Probe("all references joined", rows[stuffed], several, asked)
    yield Probe("the whole catalog joined", few, [whole] * len(few), note)


def _popular(env: Environment, rows: np.ndarray, menu: np.ndarray) -> list[str]:
    best = np.concatenate([env.examples[row].best for row in env.spec.rows("train")])
    counts = np.bincount(best, minlength=len(env.items))
    return _texts(env, np.full(len(rows), menu[counts[menu].argmax()]))


def _texts(env: Environment, items: np.ndarray) -> list[str]:
    return list(env.item_texts[items])


def _score(env: Environment, rows: np.ndarray, responses: list[str]) -> np.ndarray:
    return env.reward.score_batch(env.batch(rows, responses))


def _earned(env: Environment, probe: Probe, oracle: dict[int, float], judged: bool) -> Earned:
    if not len(probe.rows):
        return Earned(probe.name, None, None, "no instruction has several references", judged)
    try:
        raw = float(_score(env, probe.rows, probe.responses).mean())
    except RewardError as error:
        if probe.is_item:
            raise
        return Earned(probe.name, None, None, f"refused: {error.reason}", judged)
    right = float(np.mean([oracle[row] for row in probe.rows.tolist()]))
    return Earned(probe.name, raw, raw / right if right > 0 else None, probe.note, judged)


def _rank_correlation(reward: np.ndarray, metric: np.ndarray) -> float | None:
    """Spearman's rank correlation of two (P,) arrays; None where one is constant, as it has none then."""
    if np.ptp(reward) == 0 or np.ptp(metric) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(reward, metric).statistic)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{round(100 * share)} %"


def _cells(found: Audit) -> list[list[str]]:
    """The table: a header, the oracle, then every probe."""
    cells = [["answer", "reward", "of the oracle", ""], ["the oracle's", f"{found.oracle:.3f}", "100 %", ""]]
    for each in found.earned:
        raw = "–" if each.raw is None else f"{each.raw:.3f}"
        notes = [each.note, "" if each.judged else "not judged"]
        share = _percent(each.share) + (TOO_HIGH if found.is_too_high(each) else "")
        cells.append([each.name, raw, share, printable("; ".join(filter(None, notes)))])
    return cells


def lines(found: Audit) -> list[str]:
    """What is printed, as plain lines, aligned by spaces and never wrapped."""
    cells = _cells(found)
    widths = [max(len(row[column].removesuffix(TOO_HIGH)) for row in cells) for column in range(3)]
    body = []
    for name, raw, share, note in cells:
        high = share.endswith(TOO_HIGH)
        tail = "; ".join(filter(None, [TOO_HIGH.strip() if high else "", note]))
        shown = share.removesuffix(TOO_HIGH)
        body.append(f"{name.ljust(widths[0])}  {raw.rjust(widths[1])}  {shown.rjust(widths[2])}  {tail}".rstrip())
    return [title(found), *body, *remarks(found)]


def title(found: Audit) -> str:
    """What was audited."""
    return printable(f"audit of reward {found.reward} on {found.env}: {found.num_rows} instructions of the train split")


def remarks(found: Audit) -> list[str]:
    """What stands below the table: what is in the policy's reach, the rank correlation, and last the verdict."""
    reach = "the policy here chooses items, so it can give the last two answers only; the others it would have to write"
    return [*([] if found.writes else [reach]), _correlated(found), found.verdict]


def _correlated(found: Audit) -> str:
    """How the reward ranks answers beside the task metric."""
    if found.correlation is None:
        return f"rank correlation with {found.metric}: none, as one of them is the same for all {found.num_pairs} pairs"
    rho = f"{found.correlation:.2f}"
    same = ", the metric of the reward's name" if found.metric == found.reward else ""
    return f"rank correlation with {found.metric}{same}: {rho} (Spearman, {found.num_pairs:,} random answers)"


def table(found: Audit) -> Table:
    """The same for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(title(found)), title_justify="left", title_style="", box=SIMPLE_HEAD, header_style="dim")
    head, *body = _cells(found)
    for position, name in enumerate(head):
        shown.add_column(name, justify="right" if position in (1, 2) else "left", overflow="fold")
    for row in body:
        shown.add_row(*map(Text, row), style="bold red" if row[2].endswith(TOO_HIGH) else "")
    return shown


def print_audit(found: Audit) -> None:
    """To stdout: a table on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        print("\n".join(lines(found)))
        return
    screen = console()
    screen.print(table(found))
    for line in remarks(found):
        screen.print(line, markup=False, highlight=False)


def main(argv: list[str]) -> int:
    """Print the audit. Returns 0 where the reward passes and 1 where it fails; raises InputError for wrong input."""
    parser = Parser(
        prog="instructrec-rl audit",
        description="Probe a reward before training. Exit code 0: it passes; 1: it fails; 2: wrong input.",
        epilog="An example: instructrec-rl audit env=pizza_rec reward=rouge env.text=chatty",
    )
    parser.add_argument("overrides", nargs="*", metavar="group=name or group.option=value", help="as for `run`")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, metavar="SHARE",
                        help="of the oracle's reward that no degenerate answer may exceed (%(default)s)")  # fmt: skip
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help="instructions to sample (%(default)s)")
    parser.add_argument("--reachable", action="store_true",
                        help="judge only what the policy can answer: items, where its action is to choose")  # fmt: skip
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.threshold > 0:
        raise InputError(f"--threshold {arguments.threshold:g}: expected more than 0")
    if arguments.rows < 1:
        raise InputError(f"--rows {arguments.rows}: expected at least 1")
    env, seed = _environment(arguments.overrides)
    found = audit(env, arguments.threshold, arguments.rows, seed, arguments.reachable)
    print_audit(found)
    return FAULT if found.failures else DONE


def _environment(overrides: list[str]) -> tuple[Environment, int]:
    """The environment with its reward, as a run with these overrides would have it, and the seed."""
    from instructrec_rl.config.compose import compose
    from instructrec_rl.config.schema import reward_options
    from instructrec_rl.encoders.loading import load_encoder
    from instructrec_rl.env.spec import load_spec

    config: Any = compose(overrides)
    spec = load_spec(config.env)
    return make_environment(spec, load_encoder(config.encoder), config.reward.name, reward_options(config)), config.seed
