"""Whole runs for the benchmarks: each in a process of its own, on one thread, and used again where it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Result = dict[str, Any]


def finished(folder: Path, options: list[str]) -> Result:
    """The result of a run, which is done first where the folder does not hold it."""
    if not (folder / "result.json").exists():
        command = [sys.executable, "-m", "instructrec_rl.run", f"out={folder}", "resume=true", *options]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def interval(values: list[float], digits: int = 3) -> str:
    """The mean and half the width of its 95 % t-interval."""
    if len(values) < 2:
        return f"{np.mean(values):.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"
