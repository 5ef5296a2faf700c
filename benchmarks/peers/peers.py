"""Every comparison with other programs by one command: each script in a process of its own, on one thread, in order.

The scripts rewrite the tables of their pages, and their figures go to JSON files below --out. At the end stand the
headline ratios of all the JSON files there. A script that fails does not stop the others, but the exit code is then 1.

    python -m benchmarks.peers.peers --out runs/peers
    python -m benchmarks.peers.peers --out runs/peers --only sb3 encoder
    python -m benchmarks.peers.peers --out /tmp/peers --quick
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.tables import show

ROOT = Path(__file__).resolve().parents[2]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Headlines = Iterator[tuple[str, str]]  # what is compared, and the ratio in words


def environment(found: dict[str, Any]) -> Headlines:
    for row in found["rows"]:
        if row["environment"] == "ours":
            rates = {
                other["environment"]: other["steps_per_cpu_s"]
                for other in found["rows"]
                if (other["state"], other["reward"]) == (row["state"], row["reward"])
            }
            for name in rates.keys() - {"ours"}:
                about = f"{row['state']}, {row['reward']}: steps per CPU-s against {name}"
                yield about, faster(rates["ours"] / rates[name])


def encoder(found: dict[str, Any]) -> Headlines:
    for row in found["rows"]:
        yield f"texts per CPU-s, batch {row['batch']}, against sentence-transformers", faster(row["ratio"])


def rewards(found: dict[str, Any]) -> Headlines:
    for row in found["rows"]:
        if "ratio" in row and row["batch"] == row["pairs"] and row["words"] == "16-32":
            yield f"{row['metric']}, pairs per CPU-s against the reference", faster(row["ratio"])


def sb3(found: dict[str, Any]) -> Headlines:
    ours, *peers = found["runs"]
    for name in dict.fromkeys(run["name"] for run in peers):
        best = min((run for run in peers if run["name"] == name), key=lambda run: (not run["reached"], run["cpu_s"]))
        bound = "" if best["reached"] else "over "
        compared = f"CPU-s to {found['target']} of the constraints against {name}"
        yield compared, bound + faster(best["cpu_s"] / ours["cpu_s"])


def trl_ppo(found: dict[str, Any]) -> Headlines:
    peer = found["runs"][f"TRL {found['peer']}"]
    for name, runs in found["runs"].items():
        if name.startswith("ours"):
            ratio = np.mean([run["cpu_s"] / other["cpu_s"] for run, other in zip(runs, peer)])
            yield f"{name}: CPU-s an episode against TRL {found['peer']}", f"{ratio:.2f}x the time"


def ppo_limit(found: dict[str, Any]) -> Headlines:
    for result in found["results"]:
        compared = f"batch {result['batch']}, critic={result['critic']}: episodes per CPU-s against the raw limit"
        yield compared, f"{result['ours']['rate'] / result['limit']['rate']:.2f}x as fast"


def faster(ratio: float) -> str:
    return f"{ratio:,.1f}x as fast"


# name -> its folder, the page with its table, what --quick adds, how its headlines are read
SCRIPTS: dict[str, tuple[str, str, str, Callable[[dict[str, Any]], Headlines]]] = {
    "environment": ("speed", "peers", "--scale .01 --repeats 1", environment),
    "encoder": ("speed", "encoder_speed", "--texts 10 --repeats 1", encoder),
    "rewards": ("speed", "rewards_speed", "--pairs 128 --repeats 1", rewards),
    "sb3": ("peers", "peers", "--stock-budget 1 --batched-budget 1", sb3),
    "trl_ppo": ("peers", "peers", "--seeds 1 --episodes 256", trl_ppo),
    "ppo_limit": ("speed", "peers", "--episodes 256 --rounds 1", ppo_limit),
}


def run(name: str, out: Path, quick: bool) -> int:
    """One script's exit code. Its output is shown as it comes."""
    folder, page, budget, _ = SCRIPTS[name]
    options = budget.split() if quick else ["--markdown", str(ROOT / "docs" / "results" / f"{page}.md")]
    if "ppo" in name:
        options += ["--runs", str(out / "ppo")]  # both start from the same warm start
    command = [sys.executable, "-m", f"benchmarks.{folder}.{name}", "--json", str(out / f"{name}.json"), *options]
    print("$", *command, flush=True)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(command, env=os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": paths}).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the JSON files")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="these scripts alone")
    parser.add_argument("--quick", action="store_true", help="budgets that only show that all runs; no page is written")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        (options.out / f"{name}.json").unlink(missing_ok=True)  # so that no older figures stand for a failure
    failed = [name for name in options.only if run(name, options.out, options.quick)]
    report(options.out)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def report(out: Path) -> None:
    """The headline ratios of every JSON file in `out`."""
    lines = []
    for name, (_, _, _, headlines) in SCRIPTS.items():
        if (out / f"{name}.json").exists():
            found = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
            versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
            lines += [[f"{name} ({versions})", ""], *([f"  {compared}", ratio] for compared, ratio in headlines(found))]
    show("Ours against other programs", ("compared", "ours is"), lines, f"One thread; JSON files in {out}")


if __name__ == "__main__":
    main()
