"""Whose a run's folder is: one process has it, and what others put there is never removed or replaced."""

from __future__ import annotations

import collections
import datetime
import multiprocessing
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from instructrec_rl.bench import folder as bench_folder
from instructrec_rl.bench.folder import only_one
from instructrec_rl.config.compose import compose
from instructrec_rl.core import InputError, claims
from instructrec_rl.core.command_line import run_command
from instructrec_rl.core.leftovers import remove_abandoned
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.env.environment import make_environment
from instructrec_rl.env.spec import load_spec
from instructrec_rl.report.command import main as report
from instructrec_rl.run import folder as run_folder
from tests.conftest import write_toys
from tests.run.test_run import read_lines, result_of, run_here

QUICK = ("env=toys", "algo=popularity", "baselines=none")
THEIRS = {
    "manifest.json": '{"name": "my web app"}',
    "result.json": "mine",
    "report.html": "<p>mine</p>",
    "feedback/ann.jsonl": '{"response": "x"}\n',
    "config.yaml": "colour: blue\n",
    "checkpoints/step-000000000512.safetensors": "mine",
    "rollouts.jsonl": "mine",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    write_toys(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


WRONG_LATE = ("algo=ppo", "env.action=generate", "algo.minibatch_size=7")  # refused when learning begins


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("options", [(), WRONG_LATE, ("resume=true",)], ids=["right", "wrong_late", "resume"])
def test_a_folder_with_anything_of_others_stays_as_it_is(
    home: Path, capsys: pytest.CaptureFixture[str], name: str, options: tuple[str, ...]
) -> None:
    path = home / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text(THEIRS[name])
    before = contents(home / "out")
    assert run_here("env=toys", "baselines=none", *(options or QUICK[1:]), "out=out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert contents(home / "out") == before


def test_the_current_folder_and_rewards_are_no_run_folders(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "rewards" / "feedback").mkdir(parents=True)
    (home / "rewards" / "feedback" / "a.jsonl").write_text('{"instruction": "a", "response": "b", "rating": 2}\n')
    before = contents(home)
    for options in (("out=.",), ("out=rewards", "algo=reward_model"), ("out=rewards/feedback",), ("out=envs/toys",)):
        assert run_here(*QUICK, *options) == 2
        assert "this folder is not empty, and what is in it is not of a run; give another out=DIR" in (
            capsys.readouterr().err
        )
    assert contents(home) == before


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_failed_before_its_first_step_leaves_its_out(home: Path, there: bool) -> None:
    if there:
        (home / "deep" / "out").mkdir(parents=True)
    before = contents(home)
    assert run_here("env=toys", "baselines=none", *WRONG_LATE, "out=deep/out") == 2
    assert contents(home) == before
    assert run_here(*QUICK, "out=deep/out") == 0
    assert (home / "deep" / "out" / "report.html").exists()
    assert not list((home / "deep" / "out").glob(".*"))


def _race(barrier: Any, queue: Any, words: list[str], go_on: Any) -> None:
    config = compose(words)
    env = make_environment(load_spec(config.env), load_encoder(config.encoder), config.reward.name)
    run_folder._hashes(env)
    barrier.wait()
    try:
        claimed = run_folder.open_folder(config, env, "again")
    except InputError as error:
        queue.put(f"refused: {error}")
        return
    queue.put(str(claimed.folder))
    go_on.wait(60)


def race(words: list[str], number: int = 4) -> list[str]:
    """What becomes of processes that open a folder at one moment and keep it."""
    context = multiprocessing.get_context("fork")
    barrier, queue, go_on = context.Barrier(number), context.Queue(), context.Event()
    processes = [context.Process(target=_race, args=(barrier, queue, words, go_on)) for _ in range(number)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=120) for _ in processes]
    go_on.set()
    for process in processes:
        process.join(60)
    return answers


@pytest.mark.parametrize("state", ["missing", "empty", "killed", "begun"])
def test_of_several_processes_one_has_the_folder(home: Path, state: str) -> None:
    words = [*QUICK, "out=raced"]
    if state == "empty":
        (home / "raced").mkdir()
    if state == "begun":
        assert run_here(*words) == 0
        words.append("resume=true")
    if state == "killed":
        (home / "raced").mkdir()
        (home / "raced" / ".run.lock").touch()
        (home / "raced" / "manifest.json").write_text("{}")
    answers = race(words)
    assert sum(answer == "raced" for answer in answers) == 1, answers
    for answer in answers:
        assert answer == "raced" or answer.endswith("another out=DIR"), answer


def test_default_folders_of_one_second_are_different(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(datetime, "datetime", Stopped)
    count = collections.Counter(race(list(QUICK)))
    assert len(count) == 4, count
    assert all(re.fullmatch(r"runs/toys-popularity-20260102-030405-0(-[2-9])?", name) for name in count), count


def test_a_lock_is_let_go_when_its_holder_is_killed(tmp_path: Path) -> None:
    """Also where the holder had removed the file and another process holds one of the same name."""
    make = lambda: claims.claim(tmp_path / "a", ".lock", "a run", lambda folder: False, "held")  # noqa: E731
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        kept = make()
        os.write(writer, b"x")
        signal.pause()
        kept.release()
    os.read(reader, 1)
    with pytest.raises(claims.HeldError, match="held"):
        make()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with make() as first:
        assert first.folder.is_dir()
        with pytest.raises(claims.HeldError):
            make()
    assert not list((tmp_path / "a").iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "file").touch()
    for out in ("file", "file/deeper", "x" * 300, "a/" + "x" * 300):
        assert run_here(*QUICK, f"out={out}") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "Traceback" not in error
    assert not (home / "a").exists()


def test_reports_replace_only_reports(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        assert run_here(*QUICK, f"seed={seed}", f"out=r{seed}") == 0
    for name in ("report.html", "report.csv", "report.json"):
        (home / name).write_text("mine")
        before = contents(home)
        assert run_command(report, ["r0", "r1", "--out", "."]) == 2
        assert f"{name} is there and not of a report over several runs" in capsys.readouterr().err
        assert contents(home) == before
        (home / name).unlink()
    assert run_command(report, ["r0", "r1", "--out", "r0"]) == 2, "a run's own report.html"
    for _ in range(2):
        assert run_command(report, ["r0", "r1", "--out", "both"]) == 0


def test_a_bench_has_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "bench.json").write_text("{}")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "report.html").write_text("mine")
    for name in ("new", "old", "new"):
        with only_one(tmp_path / name), pytest.raises(InputError, match="another bench is at work"):
            bench_folder.claim(tmp_path / name, bench_folder.LOCK, "", lambda folder: True, "another bench is at work")
    with pytest.raises(InputError, match="is not of a bench; give another out=DIR"), only_one(tmp_path / "theirs"):
        pass
    assert [p.name for p in (tmp_path / "theirs").iterdir()] == ["report.html"]


def test_an_option_that_came_later_does_not_stop_a_resume(home: Path) -> None:
    assert run_here(*QUICK, "out=r") == 0
    text = (home / "r" / "config.yaml").read_text()
    assert "monitor: warn\n" in text
    (home / "r" / "config.yaml").write_text(text.replace("monitor: warn\n", ""))
    assert run_here(*QUICK, "out=r", "resume=true") == 0
    assert run_here(*QUICK, "out=r", "resume=true", "monitor=stop") == 2


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
@pytest.mark.parametrize("damage", [b"", b"\x00\xff", b"seed: [", b"3"])
def test_a_torn_config_or_manifest_is_written_again(
    home: Path, capsys: pytest.CaptureFixture[str], name: str, damage: bytes
) -> None:
    assert run_here(*QUICK, "out=r") == 0
    result, whole = result_of(home / "r"), (home / "r" / name).read_bytes()
    (home / "r" / name).write_bytes(damage)
    capsys.readouterr()
    assert run_here(*QUICK, "out=r", "resume=true", "seed=4") == 2, "and compared as ever"
    (home / "r" / name).write_bytes(damage)
    capsys.readouterr()
    assert run_here(*QUICK, "out=r", "resume=true") == 0
    assert f"r/{name}" in (line := capsys.readouterr().err.splitlines()[0])
    assert "written again" in line
    assert (home / "r" / name).read_bytes() == whole
    assert result_of(home / "r") == result
    (home / "r" / name).write_bytes(damage)
    (home / "r" / run_folder.COPY).unlink()
    capsys.readouterr()
    assert run_here(*QUICK, "out=r", "resume=true") == 2
    assert capsys.readouterr().err.startswith(f"r/{name}")


def test_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    gone = [f".a.json.{child}.tmp", f"step.{child}.part"]
    kept = [".a.json.1.tmp", "a.json.1.part", f"a.json.{child}.tmp", f".a.{child}", "x.tmp", "b.part"]
    for name in (*gone, *kept):
        (tmp_path / name).write_text("x")
    remove_abandoned(tmp_path, after_s=600)
    assert len(list(tmp_path.iterdir())) == 8, "of a process on another machine, maybe"
    remove_abandoned(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)
    remove_abandoned(tmp_path / "missing")


def test_no_run_is_left_that_says_nothing(home: Path) -> None:
    """The lock is for the run's life: what is left is a folder that anyone may read."""
    assert run_here(*QUICK, "out=r") == 0
    assert not (home / "r" / ".run.lock").exists()
    assert read_lines(home / "r" / "answers.jsonl")
