"""Our PPO against TRL 1.12's own PPOTrainer: reward, CPU-seconds an episode and memory, from one warm start a seed.

Everything is in one run, on one thread. The peer has a virtual environment of its own: TRL 1.12 laid over this one's
packages, so that all else has the same version. docs/results/peers.md says what is equal and what differs.

    python -m benchmarks.peers.trl_ppo --json trl_ppo.json --markdown docs/results/peers.md
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.tables import about, markdown_table, show, write_between_markers
from benchmarks.common.whole_runs import interval
from benchmarks.peers.ppo_setup import settings, warm_start
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.encoders.cache import cache_folder

ROOT = Path(__file__).resolve().parents[2]
TRL = "1.12.0"
COLUMNS = ("trainer", "final reward", "less TRL's", "validation", "CPU-ms an episode", "peak MB", "of it training's")
CONTENDERS = {
    "ours, critic=separate": ("ours", ["--critic", "separate"]),
    "ours, critic=state (the default)": ("ours", ["--critic", "state"]),
    f"TRL {TRL}": ("peer", []),
    f"TRL {TRL}, no gc.collect": ("peer", ["--no-gc"]),
}
PEER = f"TRL {TRL}"


def peer_python(folder: Path) -> Path:
    """The interpreter of an environment where `import trl` gives TRL 1.12 and all else is what this one has."""
    python = folder / "bin" / "python"
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if not (site / f"trl-{TRL}.dist-info").exists():
        venv.create(folder, clear=True)
        options = ["--disable-pip-version-check", "--quiet", "--no-deps", f"trl=={TRL}"]
        subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", *options], check=True)
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")  # found behind its own packages
    return python


def contend(python: Path, script: str, options: Sequence[str], result: Path) -> dict[str, Any]:
    """What one run came to, in a process of its own; with --resume, read where an earlier call left it."""
    if not result.exists():
        command = [str(python), "-m", f"benchmarks.peers.trl_ppo_{script}", *options]
        environment = {**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONPATH": str(ROOT)}
        with result.with_suffix(".log").open("w") as log:
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
    return json.loads(result.read_text(encoding="utf-8"))


def final_reward(run: dict[str, Any]) -> float:
    """The mean sampled reward over the last quarter of the iterations."""
    return float(np.mean(run["rewards"][-(len(run["rewards"]) // 4) :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures and curves here")
    parser.add_argument("--markdown", type=Path, help="rewrite the table of this page, between its markers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=8_192)
    parser.add_argument("--rollout", type=int, default=256, help="the peer's local_rollout_forward_batch_size")
    parser.add_argument("--resume", action="store_true", help="keep the single runs that an earlier call finished")
    parser.add_argument("--runs", type=Path, default=Path("runs/trl_ppo"), help="where single runs are kept")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    pythons = {"ours": Path(sys.executable), "peer": peer_python(cache_folder("").parent / f"trl-{TRL}")}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for seed in range(options.seeds):
        start = warm_start(options.runs / f"warm-start-{seed}", seed)
        for name, (script, own) in CONTENDERS.items():
            result = options.runs / f"{script}{''.join(own)}-{seed}-{options.episodes}.json"
            if not options.resume:
                result.unlink(missing_ok=True)
            common = [str(start), str(result), f"--seed={seed}", f"--episodes={options.episodes}"]
            more = [f"--rollout={options.rollout}"] if script == "peer" else []
            runs[name].append(contend(pythons[script], script, [*common, *own, *more], result))
            print(seed, name, f"{final_reward(runs[name][-1]):.3f}", f"{runs[name][-1]['cpu_s']:.1f} CPU-s", flush=True)
    report(runs, options)


def report(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    def beside(name: str, key: str, scale: float = 1.0, digits: int = 0) -> str:
        """The mean over the seeds, and the mean ratio to TRL's of the same seed."""
        ratio = np.mean([run[key] / other[key] for run, other in zip(runs[name], runs[PEER])])
        return f"{scale * np.mean([run[key] for run in runs[name]]):.{digits}f} ({ratio:.2f}x)"

    lines = []
    peer = [final_reward(run) for run in runs[PEER]]
    for name, found in runs.items():
        rewards = [final_reward(run) for run in found]
        before, after = (float(np.mean([run["validation"][i] for run in found])) for i in (0, 1))
        less = "" if name == PEER else interval([a - b for a, b in zip(rewards, peer)])
        speed = beside(name, "cpu_s", 1000 / options.episodes, 2)
        memory = (beside(name, "peak_mb"), beside(name, "grown_mb"))
        lines.append([name, interval(rewards), less, f"{before:.3f} -> {after:.3f}", speed, *memory])
    versions = about(("torch", "transformers", "accelerate", "trl"))
    config = settings(options.episodes, "separate")
    caption = (
        f"{options.seeds} seeds (95 % t-intervals), {options.episodes:,} episodes each, batch {config.batch_size}, "
        f"minibatch {config.minibatch_size}; in brackets: times TRL {TRL}'s; one thread; "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
    )
    show("PPO on pizza_rec, reward=constraints", COLUMNS, lines, caption)
    if options.json:
        about_all = {"versions": versions, "peer": TRL, "episodes": options.episodes, "rollout": options.rollout}
        write_json_atomic(options.json, about_all | {"runs": runs})
    if options.markdown:
        write_between_markers(options.markdown, "trl_ppo", f"{markdown_table(COLUMNS, lines)}\n\n{caption}")


if __name__ == "__main__":
    main()
