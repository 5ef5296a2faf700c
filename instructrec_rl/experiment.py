"""One run from its config to its report: load, learn, evaluate on every held-out split, compare, write."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instructrec_rl import screen
from instructrec_rl.constraints import satisfies
from instructrec_rl.core import InputError
from instructrec_rl.encoder import load_encoder
from instructrec_rl.env.environment import Environment, make_environment
from instructrec_rl.env.spec import load_spec
from instructrec_rl.evaluate import Answers, Scorer, Summary, chance, normalise, play, summarise
from instructrec_rl.files import sha256_file, write_json_atomic, write_text_atomic
from instructrec_rl.monitor import Monitor
from instructrec_rl.policies import save_policy
from instructrec_rl.run_folder import Recorder

if TYPE_CHECKING:
    from instructrec_rl.algorithms import Policy
    from instructrec_rl.config import RunConfig

DEFAULT_BASELINES = ("random", "popularity", "neighbour", "tfidf", "oracle")
DEARER_BASELINES = ("centroid", "linucb", "linear_q", "supervised", "ngrams")
NEEDED = ("random", "oracle")  # what normalises; computed in every run
NUM_SAMPLES = 20
PACKAGES = ("instructrec-rl", "torch", "transformers", "accelerate", "gymnasium", "numpy", "hydra-core", "trl")


def run(config: RunConfig) -> Path:
    """Do a run and return its folder. Raises InputError for wrong input, KeyboardInterrupt after saving at Ctrl-C."""
    spec = load_spec(config.env)
    encoder = load_encoder(config.encoder)
    env = make_environment(spec, encoder, config.reward.name, _options(config.reward))
    scorer = Scorer(env)
    folder = _open_folder(config, env)
    names = ["train", "validation", *spec.test_splits]
    print(f"{spec.name}: {len(env.examples):,} instructions, {len(env.items)} items, splits {', '.join(names)}")
    started = encoder.num_encoded
    env.states()
    print(f"encoder: {encoder.num_encoded - started:,} texts encoded, the rest from the cache")
    with screen.progress(f"{config.algo.name} on {config.reward.name}", config.algo.interactions) as update:
        recorder = Recorder(folder, config.seed, _validator(env, scorer), update, _tracker(config, folder))
        env.reward.attach(recorder)  # before anything is scored: a resumed run begins with the feedback it began with
        recorder.monitor = monitor = _monitor(config, scorer)
        policy = learn(env, config.algo, recorder)
    env.reward.at(config.algo.interactions)
    spent = recorder.spent  # of learning, without the baselines and the report
    save_policy(folder / "policy", config.algo.name, policy, env)
    answers = {split: play(policy, env, split) for split in _reported(env)}
    splits = {split: summarise(scorer, answer) for split, answer in answers.items()}
    baselines = _baselines(env, scorer, config, folder)
    for each in (splits, *(b["splits"] for b in baselines.values())):
        normalise(each, baselines["random"]["splits"], baselines["oracle"]["splits"])
    result = {
        "env": spec.name,
        "reward": config.reward.name,
        "algo": config.algo.name,
        "policy": config.policy.name,
        "seed": config.seed,
        "interactions": config.algo.interactions,
        **({} if recorder.best_step is None else {"best_step": recorder.best_step}),
        **({} if monitor is None else monitor.found()),
        **{key: round(value, 3) for key, value in spent.items()},
        "splits": splits,
        "baselines": baselines,
    }
    _write_samples(folder / "samples.jsonl", env, scorer, answers)
    write_json_atomic(folder / "result.json", result)
    from instructrec_rl.report import write_report  # matplotlib is imported when there is something to draw

    write_report(folder)
    screen.print_result(result, folder)
    return folder


def learn(env: Environment, config: Any, recorder: Recorder) -> Policy:
    """Run the algorithm that `config.name` names; Ctrl-C stops it where its checkpoint is whole."""
    algorithm = importlib.import_module(f"instructrec_rl.algorithms.{config.name}")
    with _stop_at_interrupt(recorder):
        policy = algorithm.learn(env, config, recorder)
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


def _validator(env: Environment, scorer: Scorer) -> Callable[[Policy], dict[str, float]]:
    """Scores a policy on validation, greedily: the metrics and the training reward."""

    def validate(policy: Policy) -> dict[str, float]:
        scores = scorer.per_row(play(policy, env, "validation"))
        return {name: float(values.mean()) for name, values in scores.items() if name != "valid"}

    return validate


def _monitor(config: RunConfig, scorer: Scorer) -> Monitor | None:
    """What watches the training reward against the environment's first metric, from random answers on."""
    if config.monitor == "off":
        return None

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    metric, at_random = scorer.env.spec.metrics[0], chance(scorer, "validation", config.seed)
    start = (at_random["reward"], at_random["metrics"][metric])
    return Monitor(metric, at_random["n"], start, stops=config.monitor == "stop", say=say)


def _baselines(env: Environment, scorer: Scorer, config: RunConfig, folder: Path) -> dict[str, Any]:
    """The simple policies on the same splits."""
    from instructrec_rl.config import ALGORITHM_CONFIGS

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


def _open_folder(config: RunConfig, env: Environment) -> Path:
    """Make the run's folder with its config and manifest, or check that the one to resume has the same config."""
    plain = dataclasses.asdict(config)
    for key in ("out", "resume"):
        plain.pop(key)
    text = _yaml(plain)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(config.out or f"runs/{env.spec.name}-{config.algo.name}-{stamp}-{config.seed}")
    if not config.out:
        while folder.exists():
            folder = folder.with_name(folder.name + "x")
    started = folder / "config.yaml"
    if started.exists():
        if not config.resume:
            raise InputError(
                "this folder already holds a run; give another out=DIR, or resume=true to continue it", folder
            )
        if started.read_text() != text:
            raise InputError(f"resume=true with other options than the run has: {_difference(started, plain)}", started)
        _check_unchanged(folder / "manifest.json", _hashes(env))
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the run's folder cannot be made: {error.strerror}", folder) from error
    write_json_atomic(folder / "manifest.json", _manifest(config, env))
    write_text_atomic(started, text)  # last: a folder with a config is a run
    return folder


def _yaml(plain: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _difference(path: Path, plain: dict[str, Any]) -> str:
    """The first option in which a stored config and this one differ."""
    import yaml

    def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(tree, dict):
            return {prefix[:-1]: tree}
        return {key: value for name, sub in tree.items() for key, value in flat(sub, f"{prefix}{name}.").items()}

    old, new = flat(yaml.safe_load(path.read_text())), flat(plain)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return f"{changed[0]} was {old.get(changed[0])!r} and is now {new.get(changed[0])!r}" if changed else "its layout"


def _manifest(config: RunConfig, env: Environment) -> dict[str, Any]:
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": _command(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "sha256": _hashes(env),
        "left_out": env.spec.left_out,
    }


def _hashes(env: Environment) -> dict[str, Any]:
    """What the run's result depends on beside its options."""
    return {
        "data": {os.path.relpath(path, env.spec.folder): sha256_file(path) for path in env.spec.files},
        "encoder": env.encoder.fingerprint,
        "reward": sha256_file(env.reward.path),
        "feedback": env.reward.version,
    }


def _check_unchanged(path: Path, now: dict[str, Any]) -> None:
    """Refuse to resume on other data, another encoder or another reward; feedback may grow while a run is stopped."""
    then = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    for key in ("data", "encoder", "reward"):
        if then[key] != now[key]:
            raise InputError(f"resume=true, but the {key} is not what the run began with; start a new run", path)


def _command() -> str:
    """The command line that started this run, as one would type it."""
    program = Path(sys.argv[0])
    name = "python -m instructrec_rl.run" if program.suffix == ".py" else program.name
    return f"{name} {shlex.join(sys.argv[1:])}".strip()


def _commit() -> str:
    """The commit of the checkout this code runs from, or empty outside one."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return ""
    found = subprocess.run(
        ["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else ""


def _write_samples(path: Path, env: Environment, scorer: Scorer, answers: dict[str, Answers]) -> None:
    """Twenty answers spread evenly over the splits, each with what every reward and metric says of it."""
    lines: list[str] = []
    for k, (split, answer) in enumerate(answers.items()):
        share = NUM_SAMPLES // len(answers) + (k < NUM_SAMPLES % len(answers))
        chosen = np.unique(np.linspace(0, len(answer.rows) - 1, min(share, len(answer.rows))).round().astype(int))
        few = Answers(answer.rows[chosen], answer.items[chosen])
        scores, parts = scorer.per_row(few), scorer.parts(few)
        for j, (row, item) in enumerate(zip(few.rows, few.items)):
            lines.append(json.dumps(_sample(env, split, row, item, j, scores, parts), ensure_ascii=False) + "\n")
    write_text_atomic(path, "".join(lines))


def _sample(
    env: Environment,
    split: str,
    row: int,
    item: int,
    j: int,
    scores: dict[str, np.ndarray],
    parts: dict[str, np.ndarray],
) -> Summary:
    example = env.examples[row]
    sample: Summary = {
        "split": split,
        "id": example.id,
        "instruction": example.instruction,
        "response": env.items[item].text,
        "references": list(example.references),
        "reward": float(scores["reward"][j]),
        "reward_parts": {name: float(values[j]) for name, values in parts.items()},
        "metrics": {name: float(values[j]) for name, values in scores.items() if name != "reward"},
        "best_response": env.items[example.best[0]].text,
    }
    if constraints := example.row.get("constraints"):
        sample["constraints"] = [{**c, "satisfied": bool(satisfies(c, env.items)[item])} for c in constraints]
    return sample | ({"wording": example.row["wording"]} if "wording" in example.row else {})


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
            writer.add_scalar(name, value, step)
        writer.flush()

    return track
