"""Golden runs: small runs of every kind, kept whole, against which a later commit is compared byte for byte.

  python -m benchmarks.golden make DIR [--repo CHECKOUT]   carry them out with a checkout's package (default: this one)
  python -m benchmarks.golden compare DIR_A DIR_B          print what differs and exit 1, or print "equal"
  python -m benchmarks.golden old DIR [--repo CHECKOUT]    what DIR holds still loads, answers, reports and resumes

DIR/home is the folder in which the runs took place, DIR/kept what is compared: results, metrics, answers, samples,
rollouts and reports, without times, commit, hashes, versions, paths and commands. Every option is spelled out, and
the world, a reward and the feedback are written here, so that changed defaults and data make no difference.
"""

from __future__ import annotations

import argparse
import difflib
import gzip
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
COLOURS, SHAPES, PRICES = ("red", "green", "blue", "yellow"), ("circle", "square", "star"), (3, 5, 8)
OPENERS = {
    "train": ("I want", "give me", "please bring"),
    "validation": ("could I have",),
    "test": ("find me",),
    "other": ("show me", "I am looking for"),
}
ASKED = ("a red star, please", "find me a square, painted blue, for 5 at most", "something green")

COMMON = {
    "seed": "0", "baselines": "none", "tracking": "none", "monitor": "warn",
    "env.lang": "en", "env.catalog": "default", "env.action": "choose", "env.state": "clauses", "env.turns": "1",
    "env.text": "text", "env.oos": "drop",
    "encoder": "minilm", "encoder.engine": "torch",
    "encoder.pooling": "mean", "encoder.max_tokens": "128", "encoder.batch_size": "64",
    "encoder.dtype": "fp32", "encoder.device": "cpu", "encoder.cache": "cache", "encoder.max_unknown": "0.3",
}  # fmt: skip
DQN = {
    "algo": "dqn", "algo.learner": "transitions", "algo.components": "0",
    "algo.interactions": "3000", "algo.num_envs": "64", "algo.batch_size": "64",
    "algo.updates_per_step": "2", "algo.learning_rate": "0.0015", "algo.weight_decay": "0.001", "algo.dropout": "0.0",
    "algo.hidden": "64", "algo.gamma": "0.95", "algo.target_update": "20", "algo.temperature_start": "0.3",
    "algo.temperature_end": "0.1", "algo.epsilon": "0.02", "algo.replay_size": "2000",
    "algo.item_features": "attributes", "algo.item_search": "exact", "algo.eval_every": "640",
    "algo.checkpoint_every": "640", "algo.device": "cpu", "algo.dtype": "fp32",
}  # fmt: skip
PPO = {
    "algo": "ppo", "algo.interactions": "384", "algo.batch_size": "64", "algo.minibatch_size": "32",
    "algo.epochs": "1", "algo.samples": "1", "algo.learning_rate": "0.0005", "algo.warmup": "0.0",
    "algo.max_gradient": "1.0", "algo.clip": "0.2", "algo.kl": "0.1", "algo.kl_to": "verbaliser",
    "algo.kl_control": "annealed", "algo.kl_target": "6.0", "algo.kl_horizon": "10000", "algo.critic": "state",
    "algo.gamma": "1.0", "algo.gae_lambda": "1.0", "algo.value_clip": "0.2", "algo.value_coefficient": "0.5",
    "algo.whiten": "true", "algo.entropy": "0.0", "algo.temperature": "1.0", "algo.old_logprobs": "generation",
    "algo.verbalise": "1500", "algo.demos": "60", "algo.demo_passes": "10", "algo.best_of_n": "0",
    "algo.best_of_n_samples": "6", "algo.sft_batch_size": "32", "algo.sft_learning_rate": "0.002",
    "algo.eval_every": "128", "algo.checkpoint_every": "128", "algo.device": "cpu", "algo.dtype": "fp32",
    "algo.gradient_checkpointing": "false", "algo.vllm": "false",
    "env.action": "generate", "policy": "tiny", "policy.input": "state", "policy.decode": "generate",
    "policy.max_tokens": "24", "policy.hidden": "64", "policy.layers": "2", "policy.lora": "false",
    "policy.dtype": "fp32",
}  # fmt: skip
LINUCB = {
    "algo": "linucb", "env.state": "sentence", "algo.interactions": "1500", "algo.num_envs": "64",
    "algo.eval_every": "640", "algo.checkpoint_every": "640", "algo.alpha": "2.0", "algo.ridge": "1.0",
    "algo.components": "32",
}  # fmt: skip
ROUGE = {"reward": "rouge", "reward.variant": "rougeL", "reward.stemmer": "false", "reward.lang": "en",
         "reward.multi": "max"}  # fmt: skip
FEEDBACK = {
    "reward": "human_feedback", "reward.folder": "rewards/feedback", "reward.learned": "true",
    "reward.interaction": "auto", "reward.fallback": "", "reward.floor": "0.0", "reward.quantile": "0.01",
    "reward.refit": "0.02",
}  # fmt: skip
SHARE = {"reward": "constraints"}
OWN = {"reward": "golden_words"}  # a user's reward: its file stays what it is whatever becomes of ours
RUNS: dict[str, dict[str, str]] = {
    "dqn_turns": {**COMMON, **DQN, **SHARE, "env.turns": "2", "env.turn_cost": "0.1", "baselines": "default"},
    "linucb": {**COMMON, **LINUCB, **ROUGE},
    "ppo": {**COMMON, **PPO, **SHARE},
    "human_feedback": {**COMMON, **DQN, **FEEDBACK},
    "own_dqn": {**COMMON, **DQN, **OWN, "seed": "3", "algo.interactions": "12000"},
    "own_ppo": {**COMMON, **PPO, **OWN, "seed": "3"},
}
STOPPED = ("own_dqn", "own_ppo")  # also kept as they were at a kill, to be resumed
BENCH: dict[str, Any] = {
    "description": "Golden runs, side by side.",
    "overrides": {"env": "golden", **{k: v for k, v in COMMON.items() if k != "seed"}},
    "variants": {
        "dqn": {**DQN, **SHARE},
        "linucb": {**LINUCB, **SHARE},
        "tfidf": {"algo": "tfidf", "algo.interactions": "100", **SHARE},
    },
    "sizes": {"quick": {"seeds": [0, 1]}},
}
LINES = ("metrics.jsonl", "rollouts.jsonl", "answers.jsonl", "samples.jsonl")
UNSTABLE = {"wall_s", "cpu_s", "started", "date", "command", "commit", "versions", "sha256", "hash", "identity",
            "device", "threads", "folder", "workers", "made", "task", "key",
            "train"}  # fmt: skip  # the scores on what was learned from, which came later
REWARD = '''"""The share of the instruction's words that the response holds."""

import numpy as np


def score(batch, config):
    said = [set(text.lower().replace(",", " ").split()) for text in batch.instructions]
    held = [set(text.lower().replace(",", " ").split()) for text in batch.responses]
    return np.array([len(a & b) / max(1, len(a)) for a, b in zip(said, held)])
'''
ACT = """import json, sys
from instructrec_rl import load_policy
print(json.dumps(load_policy(sys.argv[1]).act(json.loads(sys.argv[2]))))"""


def forget_newer_options() -> None:
    """Leave out what 23d450c did not know; what it did then is what these options now say."""
    for options in [*RUNS.values(), *BENCH["variants"].values(), BENCH["overrides"]]:
        for key in ("algo.learner", "algo.components", "encoder.engine"):
            options.pop(key, None)


def write_home(home: Path) -> None:
    """The folder in which the runs take place: a world, a reward of its own, feedback, and a bench."""
    world = home / "envs" / "golden"
    for folder in (world, home / "rewards" / "feedback", home / "experiments"):
        folder.mkdir(parents=True)
    header = {"name": "golden", "version": 1, "format": "catalog", "action": "choose",
              "metrics": ["constraints", "exact_match", "rouge"]}  # fmt: skip
    (world / "env.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in header.items()))
    items, rows = list(_items()), list(_rows())
    _write_lines(world / "items.jsonl", items)
    _write_lines(world / "instructions.jsonl", rows)
    (home / "rewards" / "golden_words.py").write_text(REWARD)
    _write_lines(home / "rewards" / "feedback" / "planted.jsonl", list(_ratings(items, rows)))
    (home / "experiments" / "golden.yaml").write_text(json.dumps(BENCH, indent=1))  # JSON is YAML


def _items() -> Iterator[dict[str, Any]]:
    for k, (colour, shape) in enumerate(itertools.product(COLOURS, SHAPES)):
        price = PRICES[(k + k // 3) % 3]
        yield {"id": f"{colour}_{shape}", "name": f"{colour} {shape}", "colour": colour, "shape": shape,
               "text": f"a {shape} painted {colour} for {price}", "price": price}  # fmt: skip


def _rows() -> Iterator[dict[str, Any]]:
    number = itertools.count()
    for split, openers in OPENERS.items():
        for opener, colour, shape, price in itertools.product(openers, (*COLOURS, None), (*SHAPES, None), (5, None)):
            wanted = [{"kind": name, "attribute": name, "op": op, "value": value}
                      for name, op, value in (("colour", "is", colour), ("shape", "is", shape),
                                              ("price", "at_most", price)) if value is not None]  # fmt: skip
            best = [item["id"] for item in _items() if _share(item, wanted) == 1]
            if wanted and best:
                text = f"{opener} a {shape or 'toy'}, {'painted ' + colour if colour else 'any colour'}"
                text += f", for {price} at most" if price else ""
                yield {"id": f"r{next(number):03}", "instruction": text, "split": split, "best": best,
                       "constraints": wanted}  # fmt: skip


def _share(item: dict[str, Any], wanted: list[dict[str, Any]]) -> float:
    kept = [item[w["attribute"]] <= w["value"] if w["op"] == "at_most" else item[w["attribute"]] == w["value"]
            for w in wanted]  # fmt: skip
    return sum(kept) / max(1, len(kept))


def _ratings(items: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Three people rate five items for each training instruction, by the share of constraints, one with noise."""
    for k, row in enumerate(row for row in rows if row["split"] == "train"):
        for j in range(5):
            item = items[(7 * k + 5 * j) % len(items)]
            rating = 1 + 4 * _share(item, row["constraints"])
            if j == 2:
                rating = 1 + (k * 3 + j) % 5
            yield {"kind": "rating", "id": f"f{k:03}{j}", "annotator": f"a{j % 3}", "env": "golden",
                   "instruction": row["instruction"], "response": item["text"], "rating": round(rating)}  # fmt: skip


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def start(repo: Path, home: Path, *words: str) -> subprocess.Popen[str]:
    """`python WORDS` with a checkout's package, on one thread."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("INSTRUCTREC_")}
    own |= {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
    return subprocess.Popen([sys.executable, *words], cwd=home, env=own, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def carry_out(repo: Path, home: Path, *words: str) -> str:
    """What a command prints; where it fails, its last words and the end of this program."""
    process = start(repo, home, *words)
    said = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"python {' '.join(words)}\nended with {process.returncode}:\n{said[-3000:]}")
    return said


def run_words(name: str, out: str) -> list[str]:
    """The command of a golden run."""
    return ["-m", "instructrec_rl.run", "env=golden", *(f"{k}={v}" for k, v in RUNS[name].items()), f"out={out}"]


def make(folder: Path, repo: Path) -> None:
    """Carry out all golden runs in a new folder."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder}: this folder is not empty")
    home = folder / "home"
    if not (repo / "instructrec_rl" / "algorithms" / "q_learning").is_dir():
        forget_newer_options()
    write_home(home)
    for name in RUNS:
        begun = time.monotonic()
        carry_out(repo, home, *run_words(name, name))
        (home / f"{name}.act.json").write_text(act(repo, home, name))
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    for name in STOPPED:
        kill_in_the_middle(repo, home, name)
    carry_out(repo, home, "-m", "instructrec_rl.bench", "experiment=golden", "size=quick", "workers=1", "out=bench")
    keep(home, folder / "kept")
    print(f"golden runs of {repo} in {folder}")


def act(repo: Path, home: Path, run: str) -> str:
    """The answers of a run's policy to plain instructions, as JSON."""
    return carry_out(repo, home, "-c", ACT, run, json.dumps(ASKED)).splitlines()[-1] + "\n"


def kill_in_the_middle(repo: Path, home: Path, name: str) -> None:
    """Leave NAME.stopped as a kill at its first checkpoint leaves it."""
    out = home / f"{name}.stopped"
    process = start(repo, home, *run_words(name, out.name))
    while not (list(out.glob("checkpoints/step-*.safetensors")) or list(out.glob("checkpoints/checkpoint-*"))):
        if process.poll() is not None:
            raise SystemExit(f"{out.name} ended before it could be killed")
        time.sleep(0.002)
    process.kill()
    process.communicate()
    if (out / "result.json").exists():
        raise SystemExit(f"{out.name} was killed too late")


def keep(home: Path, kept: Path) -> None:
    """Write what is compared."""
    for run in [*(home / name for name in RUNS), *(p for p in sorted((home / "bench").iterdir()) if is_run(p))]:
        keep_run(run, kept / run.relative_to(home), home)
    for name in ("report.md", "report.csv", "report.json"):
        if (path := home / "bench" / name).exists():
            write(kept / "bench" / name, stable_text(path.read_text(encoding="utf-8"), home, path.suffix))
    for path in sorted(home.glob("*.act.json")):
        write(kept / path.name, path.read_text())


def is_run(path: Path) -> bool:
    return (path / "result.json").is_file()


def keep_run(run: Path, kept: Path, home: Path) -> None:
    """Write a run's files as they are compared; lines may be plain or compressed."""
    write(kept / "result.json", stable_text((run / "result.json").read_text(encoding="utf-8"), home, ".json"))
    for name in LINES:
        if (data := read_lines(run / name)) is not None:
            write(kept / name, "".join(stable_text(line, home, ".json", None) for line in data.splitlines()))


def read_lines(path: Path) -> str | None:
    """The text of NAME.jsonl, NAME.jsonl.gz, or of the parts NAME.*.jsonl.gz of a rotated one, in order."""
    if path.exists():
        return path.read_text(encoding="utf-8")
    parts = sorted(path.parent.glob(f"{path.stem}*.jsonl*"))
    return "".join((gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes()).decode()
                   for p in parts) if parts else None  # fmt: skip


def stable_text(text: str, home: Path, suffix: str, indent: int | None = 1) -> str:
    """A file's text without what differs from one run of equal code to the next."""
    if suffix == ".json":
        text = json.dumps(stable(json.loads(text)), indent=indent, ensure_ascii=False, sort_keys=True) + "\n"
    if suffix == ".csv":
        text = re.sub(r",[0-9.]*$", ",CPU_S", text, flags=re.MULTILINE)
    if suffix == ".md":
        text = "".join(_stable_rows(text.splitlines(keepends=True)))
    return text.replace(str(home), "HOME")


def _stable_rows(lines: list[str]) -> Iterator[str]:
    """The lines of a Markdown report, its tables without columns of times and rows of versions."""
    head: list[str] = []
    for line in lines:
        if not line.startswith("| "):
            head = []
            yield line
            continue
        cells = re.split(r"(?<!\\\\)\|", line.strip())[1:-1]
        head = head or cells
        timed = [re.search(r"CPU-s|wall s", name) is not None for name in head]
        if not re.match(r"\| (started|wall time|commit|device|threads|workers|version|sha256)", line):
            yield "|".join("TIME" if out and cells is not head else cell for cell, out in zip(cells, timed)) + "\n"


def stable(value: Any) -> Any:
    """JSON without the keys that hold times, versions, hashes and places."""
    if isinstance(value, dict):
        if "curve" in value:  # of a report's run: interactions, CPU seconds, score
            value = {**value, "curve": [[step, score] for step, _, score in value["curve"]]}
        return {
            key: stable(part) for key, part in value.items() if key not in UNSTABLE and not key.startswith("seconds/")
        }
    return [stable(part) for part in value] if isinstance(value, list) else value


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def compare(a: Path, b: Path, allowed: list[str], shown: int = 12) -> int:
    """Print each file that differs with the first lines in which it does; 1 where one does, else 0.

    allowed: patterns of lines that may be there in one and not in the other.
    """
    files = sorted({p.relative_to(side).as_posix() for side in (a, b) for p in side.rglob("*") if p.is_file()})
    if not files:
        raise SystemExit(f"nothing to compare in {a} and {b}")
    differ = 0
    for name in files:
        texts = [read_kept(side / name, allowed) for side in (a, b)]
        if texts[0] == texts[1]:
            continue
        differ += 1
        lines = list(difflib.unified_diff(*texts, str(a / name), str(b / name), n=0, lineterm=""))
        print(f"differs: {name}\n" + "\n".join(f"  {line[:200]}" for line in lines[2 : 2 + shown]))
    print(f"{differ} of {len(files)} files differ" if differ else f"equal ({len(files)} files)")
    return int(differ > 0)


def read_kept(path: Path, allowed: list[str]) -> list[str]:
    if not path.exists():
        return ["(not there)"]
    return [
        line for line in path.read_text(encoding="utf-8").splitlines() if not any(re.search(p, line) for p in allowed)
    ]


def old(folder: Path, repo: Path, allowed: list[str]) -> int:
    """Whether a package loads, reports and resumes the run folders that DIR holds; DIR itself is not touched."""
    if "learner:" not in (folder / "home" / "own_dqn" / "config.yaml").read_text():
        forget_newer_options()
    failures = []
    with tempfile.TemporaryDirectory() as work:
        home = Path(work) / "home"
        shutil.copytree(folder / "home", home)
        for name in RUNS:
            failures += _tried(f"{name}: load_policy and act", lambda name=name: act(repo, home, name),
                               (home / f"{name}.act.json").read_text())  # fmt: skip
        for name in (*RUNS, "bench"):
            (home / name / "report.html").unlink()
            failures += _tried(f"{name}: report", lambda name=name: carry_out(
                repo, home, "-m", "instructrec_rl.report", name))  # fmt: skip
            if not (home / name / "report.html").exists():
                failures.append(f"{name}: no report.html")
        for name in STOPPED:
            words = run_words(name, f"{name}.stopped")
            failures += _tried(f"{name}: resume", lambda words=words: carry_out(repo, home, *words, "resume=true"))
            if is_run(home / f"{name}.stopped"):
                keep_run(home / f"{name}.stopped", Path(work) / "resumed" / name, home)
                if compare(folder / "kept" / name, Path(work) / "resumed" / name, allowed):
                    failures.append(f"{name}: resumed to another end")
    print("\n".join(failures) or "old run folders load, answer, report and resume as they did")
    return int(bool(failures))


def _tried(what: str, action: Any, expected: str | None = None) -> list[str]:
    try:
        found = action()
    except SystemExit as error:
        return [f"{what}: {error}"]
    return [f"{what}: {found} is not {expected}"] if expected is not None and found != expected else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("make", "compare", "old"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--repo", type=Path, default=HERE, help="the checkout whose package is used")
    parser.add_argument("--allow", action="append", default=[], metavar="REGEX", help="lines not compared")
    given = parser.parse_args()
    if len(given.folders) != (2 if given.verb == "compare" else 1):
        parser.error(f"{given.verb} takes {'two folders' if given.verb == 'compare' else 'one folder'}")
    folders, repo = [folder.resolve() for folder in given.folders], given.repo.resolve()
    if given.verb == "compare":
        kept = [folder / "kept" if (folder / "kept").is_dir() else folder for folder in folders]
        return compare(kept[0], kept[1], given.allow)
    if given.verb == "old":
        return old(folders[0], repo, given.allow)
    make(folders[0], repo)
    return 0


if __name__ == "__main__":
    sys.exit(main())
