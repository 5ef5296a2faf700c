"""One run from its config to its report: load, learn, evaluate on every held-out split, compare, write."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.algorithms.loop.checkpoints import MADE
from instructrec_rl.algorithms.loop.monitor import Monitor
from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.config.overrides import override
from instructrec_rl.config.schema import LANGUAGE_ALGORITHMS, reward_options
from instructrec_rl.core import DivergedError, InputError, Stopped
from instructrec_rl.core.command_line import ENDING
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.core.inert import printable
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.env.environment import Environment, make_environment
from instructrec_rl.env.spec import load_spec
from instructrec_rl.policies.saved import save_policy
from instructrec_rl.run import screen
from instructrec_rl.run.answers import Scored, write_answers, write_samples
from instructrec_rl.run.evaluate import Scorer, Summary, chance, normalise, play, summarise, watched
from instructrec_rl.run.folder import forget_if_nothing_was_learned, open_folder

if TYPE_CHECKING:
    from instructrec_rl.config.schema import PolicyConfig, RunConfig
    from instructrec_rl.policies.contracts import Policy, Writer

DEFAULT_BASELINES = ("random", "popularity", "neighbour", "tfidf", "oracle")
DEARER_BASELINES = ("centroid", "linucb", "linear_q", "supervised", "ngrams")
MAX_TRAIN = 1_000  # training instructions that are answered, to see beside the others how well they are known
NEEDED = ("random", "oracle")  # what normalises; computed in every run


@dataclass
class Result:
    """result.json. metric: the environment's first; interactions: how many there were; train: the scores on
    instructions that were learned from, at most `MAX_TRAIN` of them; splits: scores by split.
    """

    env: str
    reward: str
    algo: str
    policy: str
    metric: str
    seed: int
    interactions: int
    best_step: int | None
    monitor: dict[str, Any] | None
    wall_s: float
    cpu_s: float
    train: Summary
    splits: dict[str, Summary]
    stages: dict[str, Any]
    baselines: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Without what there is none of; the last stage before learning also as `warm_start`."""
        plain = {name: getattr(self, name) for name in (field.name for field in dataclasses.fields(self))}
        for name in ("best_step", "monitor"):
            if plain[name] is None:
                del plain[name]
        if not self.stages:
            del plain["stages"]
        return plain | ({"warm_start": list(self.stages.values())[-1]} if self.stages else {})


def run(config: RunConfig, command: str) -> Path:
    """Do a run and return its folder. command: the command line that does it again, for the manifest.

    Raises InputError for wrong input, DivergedError where learning went astray, KeyboardInterrupt after saving where it
    was asked to stop.
    """
    first = _first_of_several(config)
    env = _load(config)
    scorer = Scorer(env)
    if not first:
        return _learn_along(config, env, scorer)
    with open_folder(config, env, command) as claimed:
        folder = claimed.folder
        try:
            # encode and learn
            _encode(env)
            policy, recorder = _learn(config, env, scorer, folder)
            save_policy(folder / "policy", config.algo.name, policy, env)
            # answer what is held out, and judge the answers
            scored = _answer(policy, env, scorer)
            result = _judge(config, env, scorer, recorder, policy, scored)
            # write and show
            _write(folder, env, scorer, scored, result)
            _show(folder, result)
            if config.keep_checkpoints == "none":
                recorder.saved.forget()
        except DivergedError:  # what it answered up to there is kept
            raise
        except KeyboardInterrupt:
            _say_how_to_go_on(folder)
            raise
        except Exception:
            forget_if_nothing_was_learned(claimed)
            raise
    return folder


def _say_how_to_go_on(folder: Path) -> None:
    """After Ctrl-C, where there is something to go on from."""
    if any(True for pattern in MADE for _ in (folder / "checkpoints").glob(pattern)):
        place = f"out={folder}" if re.fullmatch(r"[\w./ -]+", str(folder)) else override("out", str(folder))
        print(f"to go on: python -m instructrec_rl.run {shlex.join([place, 'resume=true'])}", file=sys.stderr)


def _load(config: RunConfig) -> Environment:
    """The environment with its data, its encoder and the training reward."""
    options = reward_options(config)
    return make_environment(load_spec(config.env), load_encoder(config.encoder), config.reward.name, options)


def _encode(env: Environment) -> None:
    """Say what there is to learn from, and make the states of all instructions."""
    names = ", ".join(["train", "validation", *env.spec.test_splits])
    sizes = f"{len(env.examples):,} instructions, {len(env.items)} items"
    print(printable(f"{env.spec.name}: {sizes}, splits {names}"))
    before = env.encoder.num_encoded
    env.states()
    print(f"encoder: {env.encoder.num_encoded - before:,} texts encoded, the rest from the cache")


def _learn(config: RunConfig, env: Environment, scorer: Scorer, folder: Path) -> tuple[Policy | Writer, Recorder]:
    """Train, from the newest checkpoint where there is one."""
    with screen.progress(f"{config.algo.name} on {config.reward.name}", config.algo.interactions) as update:
        validate, score = _validator(env, scorer), _scorer_of_splits(env, scorer)
        recorder = Recorder(
            folder, config.seed, validate, update, _tracker(config, folder), score=score, rollouts=config.rollouts
        )
        env.reward.attach(recorder)  # before anything is scored: a resumed run begins with the feedback it began with
        recorder.monitor = _monitor(config, scorer)
        policy = learn(env, config.algo, recorder, config.policy)
    env.reward.at(config.algo.interactions)
    return policy, recorder


def _answer(policy: Policy | Writer, env: Environment, scorer: Scorer) -> Scored:
    """Answer the instructions of every split that is reported, and score the answers."""
    answers = {split: play(policy, env, split) for split in _reported(env)}
    return {split: (answer, scorer.per_row(answer)) for split, answer in answers.items()}


def _judge(
    config: RunConfig, env: Environment, scorer: Scorer, recorder: Recorder, policy: Policy | Writer, scored: Scored
) -> Result:
    """The scores of every split beside those of the simple policies, normalised by random and oracle."""
    spent = recorder.spent  # of learning, without the baselines and the report
    splits = {split: summarise(scorer, *answered) for split, answered in scored.items()}
    baselines = _baselines(env, scorer, config, recorder.folder)
    others = (*baselines.values(), *recorder.stages.values())
    for summaries in (splits, *(other["splits"] for other in others)):
        normalise(summaries, baselines["random"]["splits"], baselines["oracle"]["splits"])
    parted = recorder.monitor.found() if recorder.monitor else {}
    learned_from = summarise(scorer, play(policy, env, "train", watched(env, "train", MAX_TRAIN)))
    return Result(
        env=env.spec.name,
        reward=config.reward.name,
        algo=config.algo.name,
        policy=_policy_name(config),
        metric=env.spec.metrics[0],
        seed=config.seed,
        interactions=parted.get("interactions", config.algo.interactions),
        best_step=recorder.best_step,
        monitor=parted.get("monitor"),
        wall_s=round(spent["wall_s"], 3),
        cpu_s=round(spent["cpu_s"], 3),
        train=learned_from,
        splits=splits,
        stages=recorder.stages,
        baselines=baselines,
    )


def _write(folder: Path, env: Environment, scorer: Scorer, scored: Scored, result: Result) -> None:
    """Write the answers and the result; what is written last says that all is there."""
    write_samples(folder / "samples.jsonl", scorer, scored)
    write_answers(folder / "answers.jsonl", env, scored)
    write_json_atomic(folder / "result.json", result.as_json())


def _show(folder: Path, result: Result) -> None:
    """Write the report, and print the table."""
    from instructrec_rl.report.command import write_report  # matplotlib is imported when there is something to draw

    write_report(folder)
    screen.print_result(result.as_json(), folder)


def _first_of_several(config: RunConfig) -> bool:
    """Whether this process writes the run's folder: the first of those that torchrun or accelerate started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    if config.algo.name not in LANGUAGE_ALGORITHMS:
        raise InputError(f"algo={config.algo.name} learns in one process; start it without torchrun or accelerate")
    if not config.out:
        raise InputError("a run of several processes needs out=DIR, so that they agree on the folder")
    return int(os.environ.get("RANK", "0")) == 0


def _learn_along(config: RunConfig, env: Environment, scorer: Scorer) -> Path:
    """What the second and further processes of a run do: all of the learning, and nothing to the folder."""
    folder = Path(config.out or "")
    monitor = _monitor(config, scorer)
    if monitor is not None:
        monitor.say = lambda words: None
    recorder = Recorder(folder, config.seed, _validator(env, scorer), monitor=monitor, writes=False)
    learn(env, config.algo, recorder, config.policy)
    return folder


def learn(
    env: Environment, config: Any, recorder: Recorder, policy_config: PolicyConfig | None = None
) -> Policy | Writer:
    """Run the algorithm that `config.name` names; Ctrl-C, SIGTERM and SIGHUP stop it where its checkpoint is whole.

    Raises DivergedError, after writing all that was logged.
    """
    algorithm = importlib.import_module(f"instructrec_rl.algorithms.{config.name}")
    further = [policy_config] if config.name in LANGUAGE_ALGORITHMS else []
    with _stop_at_signals(recorder):
        try:
            policy = algorithm.learn(env, config, recorder, *further)
        except DivergedError:
            recorder.rollouts.flush()
            raise
        if recorder.stopping:  # asked after the last moment at which the loop looks
            raise KeyboardInterrupt
    return policy


@contextmanager
def _stop_at_signals(recorder: Recorder) -> Iterator[None]:
    """The first signal asks the loop to stop at its next step; a second one stops it at once."""
    asked = [signal.SIGINT]

    def ask(signum: int, frame: object) -> None:
        asked[:] = [signal.Signals(signum)]
        if recorder.stopping:
            raise KeyboardInterrupt
        recorder.stopping = True

    before: dict[int, Any] = {}
    try:
        for name in ("SIGINT", *ENDING):
            signum = getattr(signal, name, None)
            if signum is not None and signal.getsignal(signum) is not signal.SIG_IGN:
                before[signum] = signal.signal(signum, ask)
    except ValueError:  # not the main thread (a parallel sweep): Ctrl-C is the parent's
        pass
    try:
        yield
    except KeyboardInterrupt as error:
        if asked[0] == signal.SIGINT:
            raise
        raise Stopped(asked[0]) from error
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _reported(env: Environment) -> list[str]:
    return [name for name in env.splits if name != "train"]


def _scorer_of_splits(env: Environment, scorer: Scorer) -> Callable[[Policy | Writer], dict[str, Summary]]:
    """Scores a policy on every split that is reported."""
    return lambda policy: {split: summarise(scorer, play(policy, env, split)) for split in _reported(env)}


def _policy_name(config: RunConfig) -> str:
    """The policy by name: what `default` stands for where it is a language model."""
    made_here = config.policy.name == "default" and config.algo.name in LANGUAGE_ALGORITHMS
    return "tiny" if made_here else config.policy.name


def _validator(env: Environment, scorer: Scorer) -> Callable[[Policy | Writer], dict[str, float]]:
    """Scores a policy on validation, greedily: the metrics and the training reward."""

    rows = watched(env)

    def validate(policy: Policy | Writer) -> dict[str, float]:
        scores = scorer.per_row(play(policy, env, "validation", rows))
        return {name: float(values.mean()) for name, values in scores.items() if name != "valid"}

    return validate


def _monitor(config: RunConfig, scorer: Scorer) -> Monitor | None:
    """What watches the training reward against the environment's first metric, from random answers on."""
    if config.monitor == "off":
        return None

    def say(words: str) -> None:
        print(printable(words), file=sys.stderr, flush=True)

    env = scorer.env
    metric, at_random = env.spec.metrics[0], chance(scorer, "validation", config.seed, watched(env))
    start = (at_random["reward"], at_random["metrics"][metric])
    return Monitor(metric, at_random["n"], start, stops=config.monitor == "stop", say=say)


def _baselines(env: Environment, scorer: Scorer, config: RunConfig, folder: Path) -> dict[str, Any]:
    """The simple policies on the same splits."""
    from instructrec_rl.config.schema import ALGORITHM_CONFIGS

    names = {"none": NEEDED, "default": DEFAULT_BASELINES, "all": DEFAULT_BASELINES + DEARER_BASELINES}[
        config.baselines
    ]
    found: dict[str, Any] = {}
    for name in names:
        if name == "random":
            found[name] = {"splits": {split: chance(scorer, split, config.seed) for split in _reported(env)}}
            continue
        recorder = Recorder(folder / "baselines" / name, config.seed, _validator(env, scorer), rollouts=config.rollouts)
        policy = learn(env, ALGORITHM_CONFIGS[name](name=name, interactions=config.algo.interactions), recorder)
        found[name] = {"splits": {split: summarise(scorer, play(policy, env, split)) for split in _reported(env)}}
    return found


def _tracker(config: RunConfig, folder: Path) -> Callable[[int, dict[str, float]], None]:
    if config.tracking == "none":
        return lambda step, metrics: None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("tracking=tensorboard needs: pip install 'instructrec-rl[tracking]'") from error
    writer = SummaryWriter(folder / "tensorboard")

    def track(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(printable(name), value, step)
        writer.flush()

    return track
