"""Policies that write: their texts are scored as texts, one that names no item is not valid, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from instructrec_rl import load_env, load_policy
from instructrec_rl.encoders.states import Asked
from instructrec_rl.run.evaluate import Scorer, play, satisfied_by_kind, summarise
from instructrec_rl.run.screen import answerers
from tests.run.test_run import main_job

SMALL = (
    "algo=ppo", "algo.interactions=128", "algo.batch_size=64", "algo.minibatch_size=32", "algo.verbalise=256",
    "algo.demos=8", "algo.demo_passes=2", "algo.sft_batch_size=16", "algo.eval_every=64", "algo.checkpoint_every=64",
    "policy.layers=1", "policy.hidden=32", "baselines=none", "encoder.cache=cache", "out=run",
)  # fmt: skip


class Parrot:
    """Writes the first item's text to every second instruction, and words of no item to the others."""

    def write(self, asked: Asked, menu: np.ndarray, past: Sequence[Sequence[tuple[str, float]]] = ()) -> list[str]:
        return ["a circle painted red" if i % 2 == 0 else "who knows" for i in range(len(asked))]


def test_texts_are_scored_as_texts(toys: Callable[..., Path]) -> None:
    toys()
    env = load_env("toys")
    answers = play(Parrot(), env, "test")
    assert answers.texts is not None
    assert (answers.items >= 0).tolist() == [i % 2 == 0 for i in range(len(answers.rows))]
    summary = summarise(Scorer(env), answers)
    assert summary["metrics"]["valid"] == pytest.approx(np.mean(answers.items >= 0))
    kinds = satisfied_by_kind(env, answers)
    assert all(0 <= kind["satisfied"] < 1 for kind in kinds.values())


def test_the_command_trains_scores_its_stages_and_leaves_a_policy(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys(state="clauses")
    done = main_job("env=toys", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["policy"] == "tiny"
    assert list(result["stages"]) == ["verbaliser", "supervised"]
    assert result["warm_start"] == result["stages"]["supervised"]
    assert list(answerers(result))[:3] == ["policy (ppo)", "warm start (supervised)", "stage verbaliser"]
    assert "warm start (supervised)" in (tmp_path / "run" / "report.html").read_text()
    found = load_policy(tmp_path / "run").act(["please find me a square, painted red", "I want a star"])
    assert len(found) == 2
    assert all(isinstance(text, str) for text in found)
    assert not [p for p in (tmp_path / "run" / "policy").rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")]
    again = main_job("env=toys", *SMALL, "resume=true", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    second = json.loads((tmp_path / "run" / "result.json").read_text())
    assert second["splits"] == result["splits"]
    assert second["stages"].keys() == result["stages"].keys()


def test_wrong_input_found_while_learning_leaves_no_folder(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys(state="clauses")
    wrong = main_job("env=toys", *SMALL, "algo.samples=2", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "algo.samples is for algo=grpo and algo=rloo" in wrong.stderr
    assert not (tmp_path / "run").exists(), "the same out= can be used with the right options"
