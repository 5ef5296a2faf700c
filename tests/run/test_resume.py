"""A run that is stopped or killed, and resumed, ends as the run that was never stopped, bit for bit but for times."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_toys
from tests.run.test_run import environment, main_job, metrics_of, read_lines, result_of, run_here, text_of

JOB = (
    "env=toys",
    "algo.interactions=12800",
    "algo.eval_every=512",
    "algo.checkpoint_every=1024",
    "encoder.cache=cache",
)
PIZZA = (
    "env=pizza_rec",
    "algo.interactions=20000",
    "algo.eval_every=2000",
    "algo.checkpoint_every=2000",
    "encoder.cache=cache",
)


def start(*overrides: str, cwd: Path) -> subprocess.Popen[str]:
    """The main command in the background; its output goes to files beside the run."""
    command = [sys.executable, "-m", "instructrec_rl.run", *overrides]
    with (cwd / "stdout.txt").open("w") as out, (cwd / "stderr.txt").open("w") as err:
        return subprocess.Popen(command, cwd=cwd, env=environment(), stdout=out, stderr=err, text=True)


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    """Wait for something while the process is alive."""
    end = time.monotonic() + timeout_s
    while not ready():
        assert process.poll() is None, "the run ended before the moment to stop it"
        assert time.monotonic() < end, "the moment to stop the run never came"
        time.sleep(0.005)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def assert_resumes_like(whole: Path, home: Path, *overrides: str) -> None:
    """Resume `run` in `home` and compare it with the uninterrupted run's folder."""
    done = main_job(*overrides, "out=run", "resume=true", cwd=home)
    assert done.returncode == 0, done.stderr
    folder = home / "run"
    assert result_of(folder) == result_of(whole)
    assert metrics_of(folder) == metrics_of(whole)
    for name in ("samples.jsonl", "config.yaml", "policy/network.safetensors", "policy/policy.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    rollouts = "rollouts.jsonl.gz"  # the parts may be of other lengths, not what they hold
    assert text_of(folder / rollouts) == text_of(whole / rollouts)
    assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".tmp", ".lock")]
    assert (folder / "report.html").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The uninterrupted run: (its folder, wall seconds of the whole command)."""
    home = tmp_path_factory.mktemp("whole")
    write_toys(home)
    begin = time.monotonic()
    done = main_job(*JOB, "out=run", cwd=home)
    assert done.returncode == 0, done.stderr
    assert len(metrics_of(home / "run")) == 25
    return home / "run", time.monotonic() - begin


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_toys(tmp_path)
    return tmp_path


def with_cache(home: Path, whole: Path) -> None:
    shutil.copytree(whole.parent / "cache", home / "cache")


def test_ctrl_c_leaves_a_checkpoint_and_resumes(whole: tuple[Path, float], home: Path) -> None:
    with_cache(home, whole[0])
    process = start(*JOB, "out=run", cwd=home)
    metrics = home / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    said = (home / "stderr.txt").read_text()
    assert said.splitlines()[-2:] == ["to go on: python -m instructrec_rl.run out=run resume=true", "interrupted"]
    assert "Traceback" not in said
    assert not (home / "run" / "result.json").exists()
    stopped = read_lines(metrics)[-1]["step"]
    (newest, *_) = sorted((home / "run" / "checkpoints").glob("step-*.safetensors"), reverse=True)
    assert int(newest.stem.removeprefix("step-")) >= stopped >= 1536, "the checkpoint is of the moment of Ctrl-C"
    assert_resumes_like(whole[0], home)  # its config.yaml knows the options


def test_killed_before_there_is_a_run_it_starts(whole: tuple[Path, float], home: Path) -> None:
    """A folder without a config is not a run: `resume=true` is then a start."""
    process = start(*JOB, "out=run", cwd=home)
    time.sleep(0.4)
    kill(process)
    assert not (home / "run" / "config.yaml").exists(), "killed too late for what is tested"
    assert_resumes_like(whole[0], home, *JOB)


def test_killed_while_encoding(whole: tuple[Path, float], home: Path) -> None:
    process = start(*JOB, "out=run", cwd=home)
    wait_until((home / "run" / "config.yaml").exists, process)
    kill(process)
    assert "encoder:" not in (home / "stdout.txt").read_text(), "killed too late for what is tested"
    assert_resumes_like(whole[0], home, *JOB)


def test_killed_while_learning(whole: tuple[Path, float], home: Path) -> None:
    with_cache(home, whole[0])
    process = start(*JOB, "out=run", cwd=home)
    wanted = random.Random(0).randint(3, 20)
    metrics = home / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= wanted, process)
    kill(process)
    assert list((home / "run" / "checkpoints").glob("step-*.safetensors"))
    with metrics.open("a") as file:  # as when the kill comes in the middle of a line
        file.write('{"step": 99')
    (home / "run" / "checkpoints" / "step-000000099999.1.part").write_bytes(b"cut short")
    assert_resumes_like(whole[0], home, *JOB)


def test_a_finished_run_is_resumed_to_the_same_result(whole: tuple[Path, float]) -> None:
    folder, _ = whole
    before, manifest = (folder / "result.json").read_text(), (folder / "manifest.json").read_bytes()
    metrics = (folder / "metrics.jsonl").read_bytes()
    done = main_job(*JOB, "out=run", "resume=true", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "report: run/report.html"
    assert result_of(folder) == {k: v for k, v in json.loads(before).items() if k not in ("wall_s", "cpu_s")}
    assert (folder / "metrics.jsonl").read_bytes() == metrics
    assert (folder / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("resume=true",), "resume=true needs out=DIR, the folder of the run to continue"),
        (("resume=true", "out=run", "algo.gamma=0.5"), "algo.gamma was 0.95 and is now 0.5"),
        (("resume=true", "out=run", "seed=1"), "seed was 0 and is now 1"),
        (("resume=true", "out=run", "reward=exact_match"), "reward.name was 'constraints' and is now 'exact_match'"),
        (("out=run",), "run: this folder already holds a run; give another out=DIR, or resume=true to continue it"),
    ],
)
def test_what_cannot_be_resumed_is_one_line(
    whole: tuple[Path, float],
    overrides: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = whole
    monkeypatch.chdir(folder.parent)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert run_here(*JOB, *overrides) == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert said in stderr
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == files, "nothing is touched"


@pytest.fixture(scope="module")
def whole_pizza(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    home = tmp_path_factory.mktemp("pizza")
    begin = time.monotonic()
    done = main_job(*PIZZA, "out=run", cwd=home)
    assert done.returncode == 0, done.stderr
    return home / "run", time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("draw", range(10))
def test_killed_at_any_moment(whole_pizza: tuple[Path, float], tmp_path: Path, draw: int, record_property: Any) -> None:
    """Moments uniform over the whole command, start-up, encoding into a fresh cache and report included.

    INSTRUCTREC_KILL_SEED=N draws other moments.
    """
    whole, seconds = whole_pizza
    moment = random.Random(f"{os.environ.get('INSTRUCTREC_KILL_SEED', '0')}-{draw}").uniform(0, seconds)
    process = start(*PIZZA, "out=run", cwd=tmp_path)
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        kill(process)
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_text().count("\n") if metrics.exists() else 0
    said = (tmp_path / "stdout.txt").read_text().splitlines()
    state = f"killed after {moment:.1f} of {seconds:.1f} s, {lines} lines of metrics, said {said[-1:]}"
    record_property("state", state)
    print(state)
    assert_resumes_like(whole, tmp_path, *PIZZA)
