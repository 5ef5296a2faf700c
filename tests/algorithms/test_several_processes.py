"""Two processes started by torchrun learn one policy: equal weights, and the learning curve of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from instructrec_rl.algorithms.language.learn import learn
from instructrec_rl.config.schema import PPOConfig
from instructrec_rl.core.files import read_jsonl
from instructrec_rl.env.environment import Environment
from tests.algorithms.test_dqn import recorder
from tests.algorithms.test_ppo import QUICK, TINY

ROOT = Path(__file__).resolve().parents[2]


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def rewards(folder: Path) -> list[float]:
    return [record["reward"] for _, record in read_jsonl(folder / "metrics.jsonl")]


@pytest.mark.slow
def test_two_processes_learn_one_policy(echo: Callable[..., Environment], tmp_path: Path) -> None:
    env = echo()
    done = torchrun(str(ROOT / "tests" / "torchrun_echo.py"), str(tmp_path / "two"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / "two" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    assert found[0]["exact_match"] >= 0.7
    learn(env, PPOConfig(**QUICK), recorder(env, tmp_path / "one"), TINY)
    one, two = rewards(tmp_path / "one"), rewards(tmp_path / "two")
    assert len(one) == len(two)
    assert max(abs(a - b) for a, b in zip(one, two)) < 0.25  # another process draws other answers
    assert abs(one[-1] - two[-1]) < 0.15


def test_several_processes_need_a_folder_and_an_algorithm_that_can(tmp_path: Path) -> None:
    for overrides, reason in (
        (["algo=ppo"], "a run of several processes needs out=DIR, so that they agree on the folder"),
        (["algo=dqn", "out=here"], "algo=dqn learns in one process; start it without torchrun or accelerate"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "instructrec_rl.run", *overrides],
            cwd=tmp_path,
            env={**os.environ, "WORLD_SIZE": "2", "RANK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.strip() == reason


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_accelerate_accepts_the_documented_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "docs" / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type.value == name.upper()
    assert config.num_processes == 2
