"""Killed at random moments, and read from damaged folders: what is left is whole, and every answer is one line.

INSTRUCTREC_KILL_SEED=N draws other moments. The fast lane has a few of each.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from instructrec_rl import load_policy
from instructrec_rl.core import InputError
from instructrec_rl.core.command_line import run_command
from instructrec_rl.report.command import main as report
from tests.conftest import write_toys
from tests.run.test_endings import PPO, timeless
from tests.run.test_resume import kill, start
from tests.run.test_run import main_job, metrics_of, result_of, run_here, text_of

SEED = os.environ.get("INSTRUCTREC_KILL_SEED", "0")
COMMON = ("env=toys", "baselines=none", "encoder.cache=cache")
JOBS = {
    "dqn": (*COMMON, "algo=dqn", "algo.interactions=6400", "algo.eval_every=512", "algo.checkpoint_every=512"),
    "ppo": (*COMMON, *PPO),
    "linear_q": (*COMMON, "algo=linear_q", "algo.interactions=6400", "algo.eval_every=640", "algo.num_envs=64"),
}
KILLS, DAMAGED, LONGEST_S = 15, 200, 20.0


@pytest.fixture(scope="module", params=JOBS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """An uninterrupted run: its home, its name, and the seconds that it took."""
    home = tmp_path_factory.mktemp(request.param)
    write_toys(home)
    began = time.monotonic()
    assert main_job(*JOBS[request.param], "out=run", cwd=home).returncode == 0
    return home, request.param, time.monotonic() - began


@pytest.mark.timeout(900)
@pytest.mark.parametrize("draw", [pytest.param(k, marks=[pytest.mark.slow] if k else []) for k in range(KILLS)])
def test_a_run_killed_at_any_moment_ends_as_if_it_was_not(
    whole: tuple[Path, str, float], tmp_path: Path, draw: int
) -> None:
    home, name, seconds = whole
    write_toys(tmp_path)
    process = start(*JOBS[name], "out=run", cwd=tmp_path)
    moment = random.Random(f"{SEED}-{name}-{draw}").uniform(0, seconds)
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        kill(process)
    print(f"{name}: killed after {moment:.1f} of {seconds:.1f} s")
    done = main_job(*JOBS[name], "out=run", "resume=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, theirs = tmp_path / "run", home / "run"
    assert timeless(result_of(ours)) == timeless(result_of(theirs))
    lines = [[{k: v for k, v in line.items() if "seconds/" not in k} for line in metrics_of(f)] for f in (ours, theirs)]
    assert lines[0] == lines[1]
    assert text_of(ours / "rollouts.jsonl.gz") == text_of(theirs / "rollouts.jsonl.gz")
    assert not [path for path in ours.rglob("*") if path.suffix in (".tmp", ".part", ".lock")]


def damage(folder: Path, rng: random.Random) -> str:
    """Damage a file of a run folder; what was done."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    data = bytearray(path.read_bytes())
    how = rng.choice(["cut", "empty", "flip", "noise", "gone", "folder", "appended"])
    if how == "cut":
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif how == "flip" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif how == "noise":
        path.write_bytes(rng.randbytes(200))
    elif how in ("gone", "folder"):
        path.unlink()
        if how == "folder":
            path.mkdir()
    else:
        path.write_bytes(b"" if how == "empty" else bytes(data) + b'{"a": [1,')
    return f"{how} {path.relative_to(folder)}"


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("number", [8, pytest.param(DAMAGED, marks=pytest.mark.slow)])
def test_damaged_run_folders_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    write_toys(tmp_path)
    job = (*COMMON, "algo=dqn", "algo.interactions=1024", "algo.eval_every=256", "algo.checkpoint_every=256")
    assert run_here(*job, "out=whole") == 0
    counts: dict[str, int] = {}
    for k in range(number):
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("whole", "run")
        done = damage(Path("run"), random.Random(f"{SEED}-{k}"))
        readers: dict[str, Any] = {
            "report": lambda: run_command(report, ["run"]),
            "load_policy": lambda: load_or_refuse(Path("run")),
            "resume": lambda: run_here(*job, "out=run", "resume=true"),
        }
        for name, read in readers.items():
            capsys.readouterr()
            began = time.monotonic()
            code = read()
            error = capsys.readouterr().err
            assert code in (0, 2), (k, done, name, error[-1500:])
            assert "Traceback" not in error, (k, done, name, error[-1500:])
            assert time.monotonic() - began < LONGEST_S, (k, done, name)
            counts[f"{name} {code}"] = counts.get(f"{name} {code}", 0) + 1
    print(f"{number} damaged folders: {counts}")


def load_or_refuse(folder: Path) -> int:
    try:
        load_policy(folder).act(["a red toy"])
    except InputError:
        return 2
    return 0
