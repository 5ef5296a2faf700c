"""What grows with the catalog and with the number of instructions: start, memory, an interaction, choosing an item.

    python -m benchmarks.speed.scaling --out DIR [--json scaling.json] [--markdown docs/results/scaling.md]

DIR holds the environments that scaling_world.py writes (about 1 GB for a million instructions) and a cache of its own;
every measurement is a process of its own on one thread, first with nothing cached and then again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.common.tables import markdown_table, write_between_markers
from benchmarks.speed.scaling_world import write_world

ROOT = Path(__file__).resolve().parents[2]
ITEMS = (60, 500, 10_000, 100_000)
INSTRUCTIONS = (1_000, 10_000, 100_000, 1_000_000)
FEW_ITEMS, FEW_INSTRUCTIONS = 60, 2_000  # what the other table holds still
INTERACTIONS = 20_480  # of training, before choosing is measured
WARM_UP = 20  # steps of all environments that are not counted: each constraint is judged once
ASKED = 200  # test instructions that are answered one by one
TIE = 1e-5  # of Q
PACKAGES = ("faiss-cpu", "torch", "numpy", "pyarrow")
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def memory() -> dict[str, float]:
    """MB: the peak of this process so far, and what of its memory now is pages of files, which the kernel can drop."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"peak_mb": int(lines["VmHWM"].split()[0]) / 1024, "mapped_mb": int(lines["RssFile"].split()[0]) / 1024}


def measure(search: str, features: str, interactions: int, spawned: float) -> dict[str, Any]:
    """In a process of its own, in the folder of a world: start DQN, train, and choose items. Seconds and MB."""
    import numpy as np

    from instructrec_rl import load_env
    from instructrec_rl.algorithms import dqn
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.algorithms.q_learning.transitions import TransitionLearner
    from instructrec_rl.config.schema import DQNConfig

    env = load_env("scaling")
    config = DQNConfig(interactions=interactions, item_search=search, item_features=features)
    learner = TransitionLearner(env, config, seed=0)
    searched = learner.search.on(learner.dynamics.menu)
    found: dict[str, Any] = {"start_s": time.time() - spawned, "start_cpu_s": time.process_time()}
    found |= {"start_mb": memory()["peak_mb"], "features": learner.features.shape[1]}
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder), 0, lambda policy: {})
        for step in range(interactions // config.num_envs):
            if step == WARM_UP:
                began = time.process_time()
            learner.advance(recorder)
        recorder.rollouts.flush()
    counted = (interactions // config.num_envs - WARM_UP) * config.num_envs
    found["interaction_ms"] = (time.process_time() - began) / counted * 1e3
    found |= memory()
    policy = dqn.policy_of(learner, env.spec.state)
    rows, menu = env.spec.rows("test")[:ASKED], env.spec.regular
    policy.act(env.asked(rows[:1]), menu)
    began = time.process_time()
    for row in rows:
        policy.act(env.asked(np.array([row])), menu)
    found["act_ms"] = (time.process_time() - began) / len(rows) * 1e3
    weights = policy._weights(env.asked(rows), None)
    began = time.process_time()
    for i in range(len(rows)):
        searched.best(weights[i : i + 1])
    found["search_ms"] = (time.process_time() - began) / len(rows) * 1e3
    products = (weights @ learner.features.T).cpu().numpy()
    chosen = products[np.arange(len(rows)), policy.act(env.asked(rows), menu)]
    return found | {"recall": float((chosen >= products[:, menu].max(1) - TIE).mean())}


def world(out: Path, num_items: int, num_instructions: int) -> Path:
    """The folder of a world, written where it is not there yet."""
    folder = out / f"{num_items}-items-{num_instructions}-instructions"
    if not folder.is_dir():
        began, part = time.process_time(), folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        write_world(part / "envs" / "scaling", num_items, num_instructions)
        part.rename(folder)
        print(f"{folder.name}: written in {time.process_time() - began:.0f} CPU-s", file=sys.stderr, flush=True)
    return folder


def measured(folder: Path, cache: Path, search: str, features: str, interactions: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.scaling", "--measure", search, "--features", features]
    command += ["--interactions", str(interactions), "--spawned", str(time.time())]
    here = (
        os.environ | THREADS | {"XDG_CACHE_HOME": str(cache.resolve()), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    )
    done = subprocess.run(command, cwd=folder, env=here, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} in {folder} ended with {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    words = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
    print(f"{folder.name}, {search}: {words}", file=sys.stderr, flush=True)
    return found


def by_items(out: Path, sizes: Sequence[int], interactions: int, features: str = "auto") -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        folder = world(out, size, FEW_INSTRUCTIONS)
        with tempfile.TemporaryDirectory(dir=out) as cache:
            ways = {"cold": "index", "exact": "exact", "index": "index"}
            found = {way: measured(folder, Path(cache), search, features, interactions) for way, search in ways.items()}
        rows.append({"items": size, "features": features, **found})
    return rows


def by_instructions(out: Path, sizes: Sequence[int], interactions: int) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        folder = world(out, FEW_ITEMS, size)
        bytes_read = (folder / "envs" / "scaling" / "instructions.jsonl").stat().st_size
        with tempfile.TemporaryDirectory(dir=out) as cache:
            found = {way: measured(folder, Path(cache), "auto", "auto", interactions) for way in ("cold", "cached")}
        rows.append({"instructions": size, "jsonl_mb": bytes_read / 2**20, **found})
    return rows


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The tables by the name of their markers."""
    sections = {}
    if found["items"]:
        header = ["items", "numbers an item", "start, cold s", "start, cached s", "peak MB, exact", "peak MB, index"]
        header += ["training, exact ms", "training, index ms", "choosing, exact ms", "choosing, index ms"]
        header += ["of it the index ms", "recall"]
        lines = []
        for row in found["items"]:
            cold, exact, index = row["cold"], row["exact"], row["index"]
            name = f"{row['items']:,}" + (", by their texts" if row["features"] == "text" else "")
            cells = [f"{cold['start_s']:.1f}", f"{exact['start_s']:.1f}"]
            cells += [f"{exact['peak_mb']:,.0f}", f"{index['peak_mb']:,.0f}"]
            cells += [f"{each['interaction_ms']:.2f}" for each in (exact, index)]
            cells += [f"{each['act_ms']:.2f}" for each in (exact, index)]
            cells += [f"{index['search_ms']:.2f}", f"{index['recall']:.3f}"]
            lines.append([name, str(exact["features"]), *cells])
        sections["items"] = markdown_table(header, lines)
    if found["instructions"]:
        header = ["instructions", "JSONL MB", "start, cold s", "its CPU-s", "start, cached s", "its CPU-s"]
        header += ["peak MB at the start"]
        header += ["peak MB in training", "of it files MB", "training ms"]
        lines = []
        for row in found["instructions"]:
            cold, cached = row["cold"], row["cached"]
            cells = [f"{row['jsonl_mb']:,.0f}"]
            cells += [f"{each[key]:.1f}" for each in (cold, cached) for key in ("start_s", "start_cpu_s")]
            cells += [f"{cached['start_mb']:,.0f}", f"{cached['peak_mb']:,.0f}"]
            cells += [f"{cached['mapped_mb']:,.0f}", f"{cached['interaction_ms']:.2f}"]
            lines.append([f"{row['instructions']:,}", *cells])
        sections["instructions"] = markdown_table(header, lines)
    return sections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the environments are kept")
    parser.add_argument("--items", type=int, nargs="*", default=ITEMS, help="sizes of the catalog")
    parser.add_argument("--instructions", type=int, nargs="*", default=INSTRUCTIONS, help="numbers of instructions")
    parser.add_argument("--texts", type=int, nargs="*", default=[], help="sizes of the catalog, items known by texts")
    parser.add_argument("--interactions", type=int, default=INTERACTIONS, help="of training")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="rewrite the tables of this page, between their markers")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # this process is one measurement
    parser.add_argument("--features", default="auto", help=argparse.SUPPRESS)
    parser.add_argument("--spawned", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.features, options.interactions, options.spawned)))
        return
    if options.out is None:
        parser.error("--out DIR is needed: where the environments are kept")
    options.out.mkdir(parents=True, exist_ok=True)
    found = {
        "items": by_items(options.out, options.items, options.interactions)
        + by_items(options.out, options.texts, options.interactions, "text"),
        "instructions": by_instructions(options.out, options.instructions, options.interactions),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    about = "One thread; " + ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    for name, text in tables(found).items():
        print(f"\n{text}\n\n{about}")
        if options.markdown:
            write_between_markers(options.markdown, name, f"{text}\n\n{about}")


if __name__ == "__main__":
    main()
