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

from instructrec_rl.core.files import write_json_atomic

Result = dict[str, Any]
PEAK = "peak_memory.json"


def finished(folder: Path, options: list[str]) -> Result:
    """The result of a run, which is done first where the folder does not hold it."""
    if not (folder / "result.json").exists():
        command = [sys.executable, "-m", "instructrec_rl.run", f"out={folder}", "resume=true", *options]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, env=one_thread, stdout=subprocess.DEVNULL) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(process.returncode)
        write_json_atomic(folder / PEAK, {"peak_mb": round(used.ru_maxrss / 1024)})
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def peak_mb(folder: Path) -> int:
    """The most memory that the run's process held, in MB (10^6 would be less by a twentieth: the kernel counts KiB)."""
    return int(json.loads((folder / PEAK).read_text(encoding="utf-8"))["peak_mb"])


def interval(values: list[float], digits: int = 3) -> str:
    """The mean and half the width of its 95 % t-interval."""
    if len(values) < 2:
        return f"{np.mean(values):.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"
