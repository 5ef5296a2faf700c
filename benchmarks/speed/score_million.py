"""Time and memory of `instructrec-rl score` on a million pairs, as a fresh process.

python -m benchmarks.speed.score_million --reward rouge --pairs 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = 20_000  # vocabulary
LIMIT_MB = 400


def write_pairs(folder: Path, pairs: int, seed: int) -> None:
    """p.jsonl and r.jsonl: texts of 8 to 24 words, a response sharing about half of its reference's, none repeated."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(WORDS)]
    with (folder / "p.jsonl").open("w") as left, (folder / "r.jsonl").open("w") as right:
        for number in range(pairs):
            reference = rng.choices(vocabulary, k=rng.randint(8, 24))
            response = [word if rng.random() < 0.5 else rng.choice(vocabulary) for word in reference]
            left.write(json.dumps({"id": number, "response": " ".join(response)}) + "\n")
            right.write(json.dumps({"id": number, "references": [" ".join(reference)]}) + "\n")


def measure(folder: Path, reward: str, options: list[str]) -> dict[str, float | str]:
    """Run the command in a process of its own; peak resident memory as the kernel counted it."""
    command = [
        sys.executable,
        "-m",
        "instructrec_rl",
        "score",
        "--reward",
        reward,
        "--out",
        str(folder / "scores.jsonl"),
    ]
    command += ["--predictions", str(folder / "p.jsonl"), "--references", str(folder / "r.jsonl")]
    command += [part for option in options for part in ("--option", option)]
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "said": said.strip(),
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_rss_mb": round(usage.ru_maxrss / 1024, 1),  # Linux counts in KiB
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reward", default="rouge")
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pairs(folder, arguments.pairs, arguments.seed)
        found = measure(folder, arguments.reward, arguments.option)
        lines = sum(1 for _ in (folder / "scores.jsonl").open())
    print(json.dumps({"reward": arguments.reward, "pairs": arguments.pairs, "scores": lines, **found}, indent=2))
    if float(found["peak_rss_mb"]) >= LIMIT_MB or lines != arguments.pairs:
        raise SystemExit(f"expected {arguments.pairs} scores in less than {LIMIT_MB} MB")


if __name__ == "__main__":
    main()
