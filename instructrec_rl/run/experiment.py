"""One run from its config to its report: load, learn, evaluate on every held-out split, compare, write."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.algorithms.loop.monitor import Monitor
from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.config.schema import LANGUAGE_ALGORITHMS
from instructrec_rl.core import InputError
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.core.inert import printable
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.env.environment import Environment, make_environment
from instructrec_rl.env.spec import load_spec
from instructrec_rl.policies.saved import save_policy
from instructrec_rl.run import screen
from instructrec_rl.run.answers import write_answers, write_samples
from instructrec_rl.run.evaluate import Scorer, Summary, chance, normalise, play, summarise, watched
from instructrec_rl.run.folder import forget_if_nothing_was_learned, open_folder

if TYPE_CHECKING:
    from instructrec_rl.config.schema import PolicyConfig, RunConfig
    from instructrec_rl.policies.contracts import Policy, Writer

DEFAULT_BASELINES = ("random", "popularity", "neighbour", "tfidf", "oracle")
DEARER_BASELINES = ("centroid", "linucb", "linear_q", "supervised", "ngrams")
NEEDED = ("random", "oracle")  # what normalises; computed in every run


def run(config: RunConfig) -> Path:
    """Do a run and return its folder. Raises InputError for wrong input, KeyboardInterrupt after saving at Ctrl-C."""
    first = _first_of_several(config)
    spec = load_spec(config.env)
    encoder = load_encoder(config.encoder)
    env = make_environment(spec, encoder, config.reward.name, _options(config.reward))
    scorer = Scorer(env)
    if not first:
        return _learn_along(config, env, scorer)
    with open_folder(config, env) as claimed:
        try:
            return _carry_out(config, env, scorer, claimed.folder)
        except Exception:
            forget_if_nothing_was_learned(claimed)
            raise


def _carry_out(config: RunConfig, env: Environment, scorer: Scorer, folder: Path) -> Path:
    """What is done in the folder that this process holds."""
    # say what there is, and encode its texts
    spec, encoder = env.spec, env.encoder
    names = ["train", "validation", *spec.test_splits]
    sizes = f"{len(env.examples):,} instructions, {len(env.items)} items"
    print(printable(f"{spec.name}: {sizes}, splits {', '.join(names)}"))
    started = encoder.num_encoded
    env.states()
    print(f"encoder: {encoder.num_encoded - started:,} texts encoded, the rest from the cache")
    # learn
    with screen.progress(f"{config.algo.name} on {config.reward.name}", config.algo.interactions) as update:
        validate, score = _validator(env, scorer), _scorer_of_splits(env, scorer)
        recorder = Recorder(folder, config.seed, validate, update, _tracker(config, folder), score=score)
        env.reward.attach(recorder)  # before anything is scored: a resumed run begins with the feedback it began with
        recorder.monitor = monitor = _monitor(config, scorer)
        policy = learn(env, config.algo, recorder, config.policy)
    env.reward.at(config.algo.interactions)
    spent = recorder.spent  # of learning, without the baselines and the report
    save_policy(folder / "policy", config.algo.name, policy, env)
    # answer every split, and score the answers
    answers = {split: play(policy, env, split) for split in _reported(env)}
    scored = {split: (answer, scorer.per_row(answer)) for split, answer in answers.items()}
    splits = {split: summarise(scorer, *answered) for split, answered in scored.items()}
    # put the scores between those of baselines
    baselines = _baselines(env, scorer, config, folder)
    for scores in (splits, *(b["splits"] for b in (*baselines.values(), *recorder.stages.values()))):
        normalise(scores, baselines["random"]["splits"], baselines["oracle"]["splits"])
    # write the results, and the report
    result = {
        "env": spec.name,
        "reward": config.reward.name,
        "algo": config.algo.name,
        "policy": _policy_name(config),
        "seed": config.seed,
        "interactions": config.algo.interactions,
        **({} if recorder.best_step is None else {"best_step": recorder.best_step}),
        **({} if monitor is None else monitor.found()),
        **{key: round(value, 3) for key, value in spent.items()},
        "splits": splits,
        **_stages(recorder),
        "baselines": baselines,
    }
    write_samples(folder / "samples.jsonl", scorer, scored)
    write_answers(folder / "answers.jsonl", env, scored)
    write_json_atomic(folder / "result.json", result)
    from instructrec_rl.report.command import write_report  # matplotlib is imported when there is something to draw

    write_report(folder)
    screen.print_result(result, folder)
    return folder


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
    """Run the algorithm that `config.name` names; Ctrl-C stops it where its checkpoint is whole."""
    algorithm = importlib.import_module(f"instructrec_rl.algorithms.{config.name}")
    further = [policy_config] if config.name in LANGUAGE_ALGORITHMS else []
    with _stop_at_interrupt(recorder):
        policy = algorithm.learn(env, config, recorder, *further)
    if recorder.stopping:  # Ctrl-C came after the last moment at which the loop looks
        raise KeyboardInterrupt
    return policy


@contextmanager
def _stop_at_interrupt(recorder: Recorder) -> Iterator[None]:
    """The first Ctrl-C asks the loop to stop at its next step; a second one stops it at once."""

    def ask(signum: int, frame: object) -> None:
        if recorder.stopping:
            raise KeyboardInterrupt
        recorder.stopping = True

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread (a parallel sweep): Ctrl-C is the parent's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _options(group: Any) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(group).items() if key != "name"}


def _reported(env: Environment) -> list[str]:
    return [name for name in env.splits if name != "train"]


def _scorer_of_splits(env: Environment, scorer: Scorer) -> Callable[[Policy | Writer], dict[str, Summary]]:
    """Scores a policy on every split that is reported."""
    return lambda policy: {split: summarise(scorer, play(policy, env, split)) for split in _reported(env)}


def _policy_name(config: RunConfig) -> str:
    """The policy by name: what `default` stands for where it is a language model."""
    made_here = config.policy.name == "default" and config.algo.name in LANGUAGE_ALGORITHMS
    return "tiny" if made_here else config.policy.name


def _stages(recorder: Recorder) -> dict[str, Any]:
    """The stages before learning, and the last of them as `warm_start`."""
    if not recorder.stages:
        return {}
    return {"stages": recorder.stages, "warm_start": list(recorder.stages.values())[-1]}


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
        recorder = Recorder(folder / "baselines" / name, config.seed, _validator(env, scorer))
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
