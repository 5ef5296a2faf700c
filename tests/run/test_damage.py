"""A resume from damaged files goes on from what is whole, or says in one line what is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import write_toys
from tests.run.test_run import metrics_of, result_of, run_here, text_of

DQN = ("env=toys", "algo=dqn", "algo.interactions=2048", "algo.eval_every=512", "algo.checkpoint_every=512",
       "baselines=none", "out=run")  # fmt: skip
LINEAR = ("env=toys", "algo=linear_q", "algo.interactions=2048", "algo.eval_every=512", "algo.checkpoint_every=512",
          "algo.num_envs=64", "baselines=none", "rollouts=plain", "out=run")  # fmt: skip


@pytest.fixture(scope="module", params=[DQN, LINEAR], ids=["dqn", "linear_q"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    home = tmp_path_factory.mktemp("whole")
    write_toys(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert run_here(*request.param) == 0
    return home, request.param


@pytest.fixture
def home(whole: tuple[Path, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(whole[0], tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-len(data) // 3] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], None]] = {"flip": flip, "empty": empty, "cut": cut}


def logs(folder: Path) -> tuple[object, ...]:
    (rollouts,) = folder.glob("rollouts.jsonl*")
    return metrics_of(folder), text_of(rollouts), result_of(folder)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("number", [1, 2])
def test_the_older_checkpoint_is_used_where_the_newest_is_damaged(
    whole: tuple[Path, tuple[str, ...]], home: Path, capsys: pytest.CaptureFixture[str], damage: str, number: int
) -> None:
    newest = sorted((home / "run" / "checkpoints").glob("step-*"), reverse=True)
    for path in newest[:number]:
        DAMAGE[damage](path)
    assert run_here(*whole[1], "resume=true") == 0
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith(str(newest[0].relative_to(home)))
    assert said.endswith("; going on from " + (newest[1].stem if number == 1 else "the start"))
    assert logs(home / "run") == logs(whole[0] / "run")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts"])
def test_logs_that_lost_a_part_are_refused(
    whole: tuple[Path, tuple[str, ...]], home: Path, capsys: pytest.CaptureFixture[str], damage: str, name: str
) -> None:
    (path,) = (home / "run").glob(f"{name}*")
    DAMAGE[damage](path)
    before = path.read_bytes()
    assert run_here(*whole[1], "resume=true") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"run/{path.name}: ")
    assert "when the checkpoint was written" in last
    assert path.read_bytes() == before


def test_the_older_checkpoint_is_used_where_the_logs_reach_no_further(
    whole: tuple[Path, tuple[str, ...]], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    older = sorted((home / "run" / "checkpoints").glob("step-*"))[0].stem
    assert run_here(*whole[1], "resume=true") == 0
    assert capsys.readouterr().err.splitlines()[0].endswith(f"a part is lost; going on from {older}")
    assert logs(home / "run") == logs(whole[0] / "run")


def test_what_was_logged_after_the_checkpoint_is_logged_anew(whole: tuple[Path, tuple[str, ...]], home: Path) -> None:
    for path in (home / "run").glob("*.jsonl*"):
        if path.name.startswith(("metrics", "rollouts")):
            with path.open("ab") as file:
                file.write(b'{"step": 99999, "reward": 0.0}\n{"st')
    assert run_here(*whole[1], "resume=true") == 0
    assert logs(home / "run") == logs(whole[0] / "run")


def test_without_checkpoints_and_rollouts(whole: tuple[Path, tuple[str, ...]], home: Path) -> None:
    kept = [option for option in whole[1] if not option.startswith(("out", "rollouts"))]
    assert run_here(*kept, "keep_checkpoints=none", "rollouts=none", "out=bare") == 0
    assert [path.name for path in (home / "bare" / "checkpoints").iterdir()] == ["start.json"]
    assert not list((home / "bare").rglob("rollouts*"))
    assert result_of(home / "bare") == result_of(home / "run")
