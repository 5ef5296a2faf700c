"""The runs of a bench: what each is called, the options it is started with, and the hash of all that it depends on."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_rl.config.compose import compose
from instructrec_rl.config.experiments import RATINGS, Bench
from instructrec_rl.config.overrides import override
from instructrec_rl.config.schema import LANGUAGE_ALGORITHMS, EnvConfig, RunConfig
from instructrec_rl.core import InputError
from instructrec_rl.core.files import feedback_folders, find_rewards, sha256_file, write_jsonl_atomic, writing
from instructrec_rl.core.fingerprints import digest, sha256_of_code
from instructrec_rl.env.spec import load_spec

STAGES = "stages"  # the folder of stages that runs share, in the bench's


@dataclass(frozen=True)
class PlannedRun:
    """One run of a bench. `overrides` are as on the run command's line; `identity`: config, code, data -> sha256."""

    variant: str
    seed: int
    overrides: tuple[str, ...]
    identity: dict[str, str]

    @property
    def name(self) -> str:
        """The name of its folder within the bench's, and of the log beside it."""
        return f"{self.variant}-{self.seed}"

    @property
    def hash(self) -> str:
        """The sha256 of its config, code and data together: equal hashes mean equal results."""
        return digest(f"{key} {value}" for key, value in sorted(self.identity.items()))


def plan(bench: Bench, out: Path, further: Sequence[str] = ()) -> list[PlannedRun]:
    """Every run of a bench, each composed and its data read, so that wrong input stops a bench before it starts.

    out: the bench's folder; further: overrides for every run. Raises InputError for the first wrong option or datum.
    """
    runs: list[PlannedRun] = []
    data: dict[str, str] = {}
    for variant, chosen in bench.variants.items():
        own_options = {"baselines": "none", "keep_checkpoints": "none", **chosen}
        ratings = own_options.pop(RATINGS, None)
        options = [override(key, value) for key, value in own_options.items()] + list(further)
        try:
            config = compose(options)  # once for all seeds: it takes a fifth of a second
            if config.algo.name in LANGUAGE_ALGORITHMS and not config.algo.stage_cache:
                options.append(override("algo.stage_cache", str(out / STAGES)))
            for seed in bench.seeds[variant]:
                own = [*options, f"seed={seed}", override("out", str(out / f"{variant}-{seed}"))]
                folder = _simulated(config, out, ratings, seed) if ratings is not None else None
                if folder is not None:
                    own.append(override("reward.folder", str(folder)))
                identity = _identity(dataclasses.replace(config, seed=seed), data, folder)
                runs.append(PlannedRun(variant, seed, tuple(own), identity))
        except InputError as error:
            where = "" if error.path else f"{bench.path}: "
            raise InputError(f"{where}variant {variant}: {error}") from error
    return runs


def _simulated(config: RunConfig, out: Path, ratings: Any, seed: int) -> Path:
    """The folder of a run's simulated ratings, which are made where they are not there yet. One seed, one set."""
    if type(ratings) is not int or config.reward.name != "human_feedback":
        raise InputError(f"{RATINGS}={ratings}: expected a whole number, beside reward=human_feedback")
    folder = out / "feedback" / f"{config.env.name}-{ratings}-{seed}"
    if not (path := folder / "ratings.jsonl").exists():
        from instructrec_rl.env.environment import make_environment
        from instructrec_rl.feedback.simulate import simulate

        print(f"{path}: {ratings:,} ratings by simulated annotators are made", file=sys.stderr)
        try:
            lines = simulate(make_environment(load_spec(config.env)), ratings, seed)
        except ValueError as error:
            raise InputError(f"{RATINGS}={ratings}: {error}") from error
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_jsonl_atomic(path, lines)
    return folder


def _identity(config: RunConfig, data: dict[str, str], simulated: Path | None) -> dict[str, str]:
    """What a run's result depends on: its options, the code, and the files that it reads.

    Where its folders are makes no difference. data: the digests of data that were read before, by the env's options;
    simulated: the folder of its simulated ratings, where it has some.
    """
    plain = dataclasses.asdict(config)
    for key in ("out", "resume", "tracking", "keep_checkpoints", "rollouts"):
        plain.pop(key)
    plain["algo"].pop("stage_cache", None)
    key = json.dumps(plain["env"], sort_keys=True)
    if key not in data:
        data[key] = _sha256_of_data(config.env)
    files = sorted(simulated.glob("*.jsonl")) if simulated else _feedback_files(config)
    feedback = _sha256_of(files) if _reads_feedback(config) else ""
    return {
        "config": digest([json.dumps(plain, sort_keys=True, default=str)]),
        "code": sha256_of_code(),
        "data": digest([data[key], feedback]),
    }


def _sha256_of_data(env: EnvConfig) -> str:
    return _sha256_of(load_spec(env).files)


def _sha256_of(paths: Iterable[Path]) -> str:
    return digest(f"{path.name} {sha256_file(path)}" for path in paths)


def _reads_feedback(config: RunConfig) -> bool:
    """Whether people's feedback is among what the run learns from: a reward file of its options speaks of feedback."""
    if config.algo.name == "reward_model":
        return True
    words = set(_words(dataclasses.asdict(config.reward)))
    return any("feedback" in path.read_text("utf-8") for name, path in find_rewards().items() if name in words)


def _words(options: Any) -> Iterable[str]:
    """Every key and text in nested options."""
    if isinstance(options, dict):
        for key, value in options.items():
            yield str(key)
            yield from _words(value)
    elif isinstance(options, (list, tuple)):
        for value in options:
            yield from _words(value)
    elif isinstance(options, str):
        yield options


def _feedback_files(config: RunConfig) -> list[Path]:
    own = getattr(config.reward, "folder", "") or getattr(config.algo, "folder", "")
    folders = [Path(own).expanduser()] if own else feedback_folders()
    return [path for folder in folders for path in sorted(folder.glob("**/*.jsonl"))]
