"""How a run ends before its time: learning that diverges, signals, a disk that is full."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_toys
from tests.run.test_resume import start, wait_until
from tests.run.test_run import environment, main_job, read_lines, result_of, run_here

TINY = ("env=toys", "baselines=none", "encoder.cache=cache")
PPO = ("algo=ppo", "env.action=generate", "algo.interactions=256", "algo.batch_size=64", "algo.minibatch_size=32",
       "algo.verbalise=128", "algo.demos=8", "algo.demo_passes=2", "policy.layers=1", "policy.hidden=32",
       "algo.eval_every=64", "algo.checkpoint_every=64")  # fmt: skip


RATE = "algo.learning_rate (it is {})"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    write_toys(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("algo=dqn", "algo.interactions=4096", "algo.learning_rate=1e30"), RATE.format("1e+30")),
        (("algo=dqn", "env.turns=2", "algo.interactions=4096", "algo.learning_rate=1e20"), RATE.format("1e+20")),
        (("algo=linear_q", "algo.interactions=8192", "algo.learning_rate=1e38"), RATE.format("1e+38")),
        (("algo=supervised", "algo.learning_rate=1e30"), RATE.format("1e+30")),
        ((*PPO, "algo.learning_rate=1e30"), RATE.format("1e+30")),
        ((*PPO, "algo=rloo", "algo.samples=2", "algo.learning_rate=1e30"), RATE.format("1e+30")),
        ((*PPO, "algo=grpo", "algo.samples=2", "algo.learning_rate=1e30"), RATE.format("1e+30")),
        ((*PPO, "algo.sft_learning_rate=1e30"), "algo.sft_learning_rate (it is 1e+30)"),
    ],
    ids=["dqn", "turns", "linear_q", "supervised", "ppo", "rloo", "grpo", "stage"],
)  # fmt: skip
def test_learning_that_diverges_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert run_here(*TINY, *options, "out=r") == 1
    error = capsys.readouterr().err
    assert "This is a fault" not in error
    assert error.splitlines()[-1].startswith("diverged at step ")
    assert error.splitlines()[-1].endswith(f"is not a finite number; lower {said}")
    assert not (home / "r" / "result.json").exists()
    if (metrics := home / "r" / "metrics.jsonl").exists():
        assert all(json.dumps(line, allow_nan=False) for line in read_lines(metrics))


def test_what_was_logged_before_is_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("algo.interactions=2048", "algo.eval_every=256", "algo.checkpoint_every=256", "rollouts=plain")
    assert run_here(*TINY, *options, "algo.learning_rate=1e10", "out=r") == 1
    step = int(capsys.readouterr().err.splitlines()[-1].split()[3].strip(":"))
    lines = read_lines(home / "r" / "rollouts.jsonl")
    assert [line["step"] for line in lines] == list(range(1, step + 1))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint(home: Path, sent: signal.Signals) -> None:
    job = (*TINY, "algo.interactions=25600", "algo.eval_every=512", "algo.checkpoint_every=1000000")
    process = start(*job, "out=run", cwd=home)
    metrics = home / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3, process)
    process.send_signal(sent)
    assert process.wait(timeout=60) == 128 + sent
    words = (home / "stderr.txt").read_text()
    assert words.splitlines()[-1] == ("interrupted" if sent == signal.SIGINT else "terminated")
    assert "Traceback" not in words
    assert len(list((home / "run" / "checkpoints").glob("step-*"))) == 1
    assert not (home / "run" / ".run.lock").exists()


def test_a_hang_up_that_is_ignored_stays_ignored(home: Path) -> None:
    words = "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    words += "from instructrec_rl.core.command_line import run_command\n"
    words += "raise SystemExit(run_command(lambda argv: os.kill(os.getpid(), signal.SIGHUP), []))"
    done = subprocess.run([sys.executable, "-c", words], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def timeless(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: timeless(part) for key, part in value.items() if key not in ("wall_s", "cpu_s", "reused")}


def limited(most: int) -> Any:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return limit


@pytest.mark.parametrize("options", [(), PPO, (*PPO, "algo.stage_cache=stages")], ids=["dqn", "ppo", "stage_cache"])
@pytest.mark.parametrize("most", [2_000, 40_000, 200_000])
def test_files_that_cannot_grow_are_one_line(home: Path, options: tuple[str, ...], most: int) -> None:
    """A limit on the size of a file, as a full disk: nothing half written, and the run goes on afterwards."""
    job = (*TINY, "algo.interactions=512", "algo.eval_every=128", *options)
    assert run_here(*TINY, "algo=popularity", "out=warm") == 0  # the embeddings
    done = main_job(*job, "out=run", cwd=home, preexec_fn=limited(most))
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert "file too large" in done.stderr.splitlines()[-1].lower() or "the disk took" in done.stderr
    left = [path for path in home.rglob("*") if path.suffix in (".tmp", ".part")]
    assert not left
    again = "resume=true" if (home / "run" / "config.yaml").exists() else "seed=0"
    assert run_here(*job, "out=run", again) == 0
    assert run_here(*job, "out=whole") == 0
    assert timeless(result_of(home / "run")) == timeless(result_of(home / "whole"))


def test_files_have_the_rights_that_the_umask_gives(home: Path) -> None:
    before = os.umask(0o027)
    try:
        assert run_here(*TINY, "algo.interactions=512", "out=r") == 0
    finally:
        os.umask(before)
    rights = {path.name: oct(path.stat().st_mode & 0o777) for path in (home / "r").rglob("*") if path.is_file()}
    assert set(rights.values()) == {"0o640"}, rights
