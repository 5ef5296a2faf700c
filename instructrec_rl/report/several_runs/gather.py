"""Gathers the results of a bench, or of single runs, from their folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from instructrec_rl.core import InputError
from instructrec_rl.core.files import flattened, read_yaml
from instructrec_rl.report.run_files import read_answers, read_bench, read_manifest, read_metrics, read_result
from instructrec_rl.report.several_runs.results import VALIDATION, Results, RunScores, Sample, Task, merged_task
from instructrec_rl.run.screen import main_metric

BENCH = "bench.json"
NOT_TESTS = ("train", VALIDATION)
LEADERS = 4  # the variants whose disagreement chooses the samples
SAMPLES_A_SPLIT = 2
CURVE_POINTS = 60  # of a run's learning curve that are kept
NOT_THE_TASK = ("state", "action", "text")  # options that leave an environment's instructions and items as they are
NOT_A_VARIANT = ("seed", "tracking", "monitor", "baselines")
Answers = list[dict[str, Any]]  # lines of answers.jsonl


def is_bench(folder: Path) -> bool:
    """Whether a folder is a bench's, or holds run folders."""
    return (folder / BENCH).is_file() or any(folder.glob("*/result.json"))


def gather(folder: Path, seen: Callable[[int, int], None] = lambda done, total: None) -> Results:
    """The results of a bench's folder, or of the run folders within a folder. seen: told how many runs were read.

    Raises InputError where there is no finished run, and where a file of one is broken.
    """
    bench = folder / BENCH
    if bench.is_file():
        about = read_bench(bench)
        listed = about.pop("runs", [])
        done = {folder / run["folder"]: run["variant"] for run in listed if run["status"] == "done"}
        missing = [run for run in listed if run["status"] != "done"]
    else:
        about, missing = {}, []
        done = _named(sorted(path.parent for path in folder.glob("*/result.json")))
    if not done:
        raise InputError(f"no finished run: neither {BENCH} with one nor folders with a result.json", folder)
    return _gather(folder.resolve().name, about, done, missing, seen)


def gather_runs(folders: Sequence[Path]) -> Results:
    """The results of single run folders; runs whose options differ in more than the seed are variants."""
    return _gather("runs", {}, _named(folders), [], lambda done, total: None)


def _gather(
    name: str,
    header: dict[str, Any],
    folders: dict[Path, str],
    missing: list[dict[str, Any]],
    seen: Callable[[int, int], None],
) -> Results:
    tasks: dict[str, list[Task]] = {}
    made: dict[str, list[str]] = {}
    runs: list[RunScores] = []
    answered: dict[tuple[str, str], tuple[int, Answers]] = {}  # of each task and variant, the first seed's
    places: dict[tuple[str, str, int], Path] = {}
    for number, (folder, variant) in enumerate(folders.items()):
        # read the run
        result, config = read_result(folder), read_yaml(folder / "config.yaml")
        answers, manifest = _read_answers(folder / "answers.jsonl", result), read_manifest(folder)
        # score it for its task
        task = _task(result, answers, config.get("env") or {}, manifest, folder)
        tasks.setdefault(task.key, []).append(task)
        run = _run_scores(variant, task, result, answers, folder)
        runs.append(run)
        if (same := places.setdefault((task.key, variant, run.seed), folder)) != folder:
            raise InputError(f"the same options and seed as {same}; leave one of the two out", folder)
        # keep the first seed's answers, to be shown
        cell = (task.key, variant)
        if cell not in answered or run.seed < answered[cell][0]:
            answered[cell] = (run.seed, answers)
        for key, value in _made(manifest):
            values = made.setdefault(key, [])
            values += [value] if value not in values else []
        seen(number + 1, len(folders))
    # put tasks, runs and samples together
    bare = Results(name, header, made, [merged_task(same) for same in tasks.values()], runs, failed=missing)
    firsts = {cell: answers for cell, (_, answers) in answered.items()}
    return replace(bare, samples=[sample for task in bare.tasks for sample in _disagreements(bare, task, firsts)])


def _read_answers(path: Path, result: dict[str, Any]) -> Answers:
    """The answers to the test splits, in the order of the file. Each split and metric is one that the result has."""
    if not path.is_file():
        raise InputError("the run has no answers.jsonl: an earlier version made it; do it again", path.parent)
    metric, found = main_metric(result), []
    for number, answer in read_answers(path, NOT_TESTS):
        if answer["split"] not in result["splits"]:
            raise InputError(f'split "{answer["split"]}" is not in result.json', path, number)
        if metric not in answer["metrics"]:
            raise InputError(f'"metrics" has no "{metric}"', path, number)
        found.append(answer)
    if not found:
        raise InputError("it holds no answer to a test split", path)
    return found


def _task(
    result: dict[str, Any], answers: Answers, env: dict[str, Any], manifest: dict[str, Any], folder: Path
) -> Task:
    sizes: dict[str, int] = {}
    asked = hashlib.sha256()
    for answer in answers:
        sizes[answer["split"]] = sizes.get(answer["split"], 0) + 1
        asked.update(f"{answer['split']}\n{answer['id']}\n".encode())
    if not isinstance(env, dict):
        raise InputError('"env": expected a mapping of its options', folder / "config.yaml")
    same = {key: value for key, value in env.items() if key not in NOT_THE_TASK}
    asked.update(json.dumps([same, (manifest.get("sha256") or {}).get("data")], sort_keys=True, default=str).encode())
    ends = [result.get("baselines", {}).get(name, {}).get("splits", {}) for name in ("random", "oracle")]
    random, oracle = (
        {split: found[split]["metrics"] for split in (*sizes, VALIDATION) if split in found} for found in ends
    )
    for name, found in (("random", random), ("oracle", oracle)):
        if lacking := [split for split in sizes if main_metric(result) not in found.get(split, {})]:
            raise InputError(f'no baseline "{name}" on split {lacking[0]}; it comes with every run', folder)
    return Task(str(result["env"]), main_metric(result), asked.hexdigest()[:16], sizes, random, oracle)


def _run_scores(variant: str, task: Task, result: dict[str, Any], answers: Answers, folder: Path) -> RunScores:
    scores: dict[str, list[float]] = {split: [] for split in task.sizes}
    kinds: dict[str, list[int]] = {}
    for answer in answers:
        scores[answer["split"]].append(answer["metrics"][task.metric])
        for kind, (hold, asked) in answer.get("kinds", {}).items():
            count = kinds.setdefault(kind, [0, 0])
            count[0] += hold
            count[1] += asked
    stages = list((result.get("stages") or {}).values())
    cpu_s, wall_s = (_before(stages, key) for key in ("cpu_s", "wall_s"))
    return RunScores(
        variant=variant,
        seed=int(result["seed"]),
        task=task.key,
        algo=str(result["algo"]),
        reward=str(result["reward"]),
        cpu_s=round(result.get("cpu_s", 0.0) + cpu_s, 3),
        wall_s=round(result.get("wall_s", 0.0) + wall_s, 3),
        scores=scores,
        means={split: result["splits"][split]["metrics"] for split in task.sizes},
        kinds=kinds,
        curve=_curve(folder / "metrics.jsonl", f"validation/{task.metric}", cpu_s),
    )


def _before(stages: Sequence[dict[str, Any]], key: str) -> float:
    """The seconds of the stages before learning: until the last one ended, and what other runs did for this one."""
    reused = sum(stage["reused"][key] for stage in stages if stage.get("reused"))
    return max((stage[key] for stage in stages), default=0.0) + reused


def _curve(path: Path, key: str, before: float) -> list[tuple[float, float, float]]:
    points = [
        (line["step"], round(line["cpu_s"] + before, 3), line[key])
        for line in read_metrics(path)
        if isinstance(line.get(key), (int, float)) and isinstance(line.get("cpu_s"), (int, float))
    ]
    rising = [point for point, later in zip(points, [*points[1:], None]) if later is None or later[0] > point[0]]
    kept = np.unique(np.linspace(0, max(0, len(rising) - 1), min(CURVE_POINTS, len(rising))).round().astype(int))
    return [rising[k] for k in kept]


def _made(manifest: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """What a run was made with, as far as it may differ from run to run."""
    for key in ("commit", "device", "threads"):
        yield key, str(manifest.get(key, "not recorded"))
    for name, version in (manifest.get("versions") or {}).items():
        yield f"version of {name}", str(version)
    for name, digest in (manifest.get("sha256") or {}).items():
        for file, value in digest.items() if isinstance(digest, dict) else [("", digest)]:
            if value and name != "reward":  # variants may differ in it, and the table of variants says so
                yield f"sha256 of {name} {file}".strip(), str(value)


def _disagreements(results: Results, task: Task, answered: dict[tuple[str, str], Answers]) -> list[Sample]:
    """Instructions on which the leading variants differ most, some from each split; equal ones in a mixed order."""
    means = {name: {s: np.mean([run.scores[s] for run in runs], axis=0) for s in task.sizes}
             for name, runs in results.variants(task).items()}  # fmt: skip
    ranked = sorted(means, key=lambda name: -float(np.mean([scores.mean() for scores in means[name].values()])))
    leaders, found = ranked[:LEADERS], []
    if len(leaders) < 2:
        return []
    for split in task.sizes:
        apart = np.std([means[name][split] for name in leaders], axis=0)
        rows = {name: [a for a in answered[task.key, name] if a["split"] == split] for name in ranked}
        mixed = [hashlib.sha256(str(row["id"]).encode()).hexdigest() for row in rows[leaders[0]]]
        for k in sorted(range(len(apart)), key=lambda k: (-round(float(apart[k]), 3), mixed[k]))[:SAMPLES_A_SPLIT]:
            row = rows[leaders[0]][k]
            shown = {name: _answer(rows[name][k], float(means[name][split][k])) for name in ranked}
            found.append(Sample(task.key, split, str(row["id"]), row["instruction"], shown))
    return found


def _answer(row: dict[str, Any], score: float) -> dict[str, Any]:
    missed = [kind for kind, (hold, asked) in row.get("kinds", {}).items() if hold < asked]
    return {"response": row["response"], "score": round(score, 6), "missed": missed}


def _named(folders: Sequence[Path]) -> dict[Path, str]:
    """A variant's name for each run folder: its algorithm, and the options in which the runs of it differ."""
    options = {folder: dict(flattened(read_yaml(folder / "config.yaml"))) for folder in folders}
    by_algorithm: dict[str, list[dict[str, Any]]] = {}
    for found in options.values():
        by_algorithm.setdefault(str(found.get("algo.name")), []).append(found)

    def differing(runs: list[dict[str, Any]]) -> list[str]:
        keys = dict.fromkeys(key for found in runs for key in found if key not in NOT_A_VARIANT)
        return [key for key in keys if _differs(key, runs)]

    everywhere = [key for key in differing(list(options.values())) if key in ("env.name", "reward.name")]
    names = {}
    for folder, found in options.items():
        algorithm = str(found.get("algo.name"))
        keys = dict.fromkeys([*everywhere, *differing(by_algorithm[algorithm])])
        names[folder] = " ".join([algorithm, *(f"{key.removesuffix('.name')}={found.get(key)}" for key in keys)])
    return names


def _differs(key: str, runs: Sequence[dict[str, Any]]) -> bool:
    """Whether an option tells runs apart: one of a reward (or an encoder) among the runs that have that reward.

    What only another reward has says nothing that the reward's name does not.
    """
    group, _, option = key.partition(".")
    values: dict[str, set[str]] = {}
    for run in runs:
        chosen = "" if option == "name" else str(run.get(f"{group}.name"))
        values.setdefault(chosen, set()).add(str(run.get(key)))
    return any(len(found) > 1 for found in values.values())
