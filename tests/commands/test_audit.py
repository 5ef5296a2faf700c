"""The audit of a reward: what it flags, what it passes, and what it says when it cannot ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrec_rl import load_env
from instructrec_rl.commands import audit as audits
from instructrec_rl.commands.audit import Audit, audit
from instructrec_rl.core import command_line as cli
from tests.algorithms.test_monitor import write_talk

HOLDS = '''"""1 where a reference is somewhere in the response."""
import numpy as np


def score(batch, config):
    return np.array([float(any(r in t for r in refs)) for t, refs in zip(batch.responses, batch.references)])
'''
REFUSES = '''"""The share of items' length, for texts that are items only."""
import numpy as np
from instructrec_rl.core import InputError


class Reward:
    def __init__(self, config, context):
        self.texts = {item.text for item in context.items}

    def score(self, batch):
        for row, text in enumerate(batch.responses):
            if text not in self.texts:
                raise InputError(f"row {row}: not an item")
        return np.array([float(t in refs) for t, refs in zip(batch.responses, batch.references)])
'''
CONSTANT = '''"""Pays what it is told."""
from dataclasses import dataclass
import numpy as np


@dataclass
class Config:
    pays: float = 1.0


def score(batch, config):
    return np.full(len(batch), config.pays)
'''


def earned(found: Audit, start: str) -> audits.Earned:
    (each,) = [one for one in found.earned if one.name.startswith(start)]
    return each


def write_reward(name: str, code: str) -> None:
    Path("rewards").mkdir(exist_ok=True)
    Path("rewards", f"{name}.py").write_text(code)


def outcome(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.run_command(cli.dispatch, ["audit", *argv])
    return code, *capsys.readouterr()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    return tmp_path


def test_rouge_over_chatty_texts_fails(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "env=pizza_rec", "reward=rouge", "env.text=chatty")
    assert code == 1
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "audit of reward rouge on pizza_rec: 300 instructions of the train split"
    (luck,) = [line.split() for line in lines if line.startswith("a random item")]
    assert float(luck[3]) > 0.5
    assert luck[4:8] == [str(round(100 * float(luck[3]))), "%", "too", "high;"]
    assert lines[-1].startswith("fail: ")
    assert "a random item earns 7" in lines[-1]
    assert "\x1b" not in out


def test_constraints_pass(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capsys, "env=pizza_rec", "reward=constraints")
    assert code == 0
    assert out.splitlines()[-1] == "pass: no degenerate answer earns more than 50 % of what the oracle earns"
    assert "rank correlation with constraints, the metric of the reward's name: 1.00 (Spearman, 4,800" in out
    found = audit(load_env("pizza_rec", reward="constraints"))
    assert earned(found, "a random item").share == pytest.approx(0.41, abs=0.03)
    assert max(each.share or 0 for each in found.earned) < 0.5
    assert {each.name.split()[0] for each in found.earned} == {"an", "the", "one", "512", "all", "a"}
    assert len(found.earned) == 9
    assert not any(each.note.startswith("refused") for each in found.earned)


def test_shares_are_of_the_oracles_mean_on_the_same_rows(toys: Callable[..., Path]) -> None:
    toys()
    env = load_env("toys", reward="rouge")
    found = audit(env, num_rows=10_000)
    rows, menu = env.spec.rows("train"), env.spec.menu("train")
    assert found.num_rows == len(rows), "no more than there are, and none twice"
    table = env.reward_table(rows.repeat(len(menu)), np.tile(menu, len(rows))).reshape(len(rows), -1)
    best = np.array([table[k, env.examples[row].best[0]] for k, row in enumerate(rows)])
    assert found.oracle == pytest.approx(best.mean())
    popular = np.bincount(np.concatenate([env.examples[r].best for r in rows])).argmax()
    assert earned(found, "the most popular").raw == pytest.approx(table[:, popular].mean())
    luck = earned(found, "a random item")
    assert luck.raw == pytest.approx(table.mean(), abs=0.03)
    assert luck.share == pytest.approx((luck.raw or 0) / found.oracle)
    joined = np.array([len(env.examples[row].references) > 1 for row in rows])
    texts = [" ".join(env.examples[row].references) for row in rows[joined]]
    stuffed = env.reward.score_batch(env.batch(rows[joined], texts))
    assert 0 < joined.sum() < len(rows)
    each = earned(found, "all references")
    assert each.raw == pytest.approx(stuffed.mean())
    assert each.share == pytest.approx(stuffed.mean() / best[joined].mean())
    assert each.note == f"on the {joined.sum()} rows with several references"
    assert earned(found, "the instruction").raw == pytest.approx(
        env.reward.score_batch(env.batch(rows, list(env.instructions[rows]))).mean()
    )


def test_stuffing_fails_unless_the_policy_only_chooses(
    toys: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    toys()
    write_reward("holds", HOLDS)
    code, out, _ = outcome(capsys, "env=toys", "reward=holds")
    assert code == 1
    assert out.splitlines()[-1] == (
        "fail: all references joined earns 100 % of what the oracle earns (at most 50 %); "
        "the whole catalog joined earns 100 % of what the oracle earns (at most 50 %)"
    )
    assert "the policy here chooses items" in out
    code, out, _ = outcome(capsys, "--reachable", "env=toys", "reward=holds")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("the whole catalog")]
    assert "100 %" in line
    assert line.endswith("not judged")
    assert "too high" not in out
    code, out, _ = outcome(capsys, "env=toys", "reward=holds", "env.action=generate", "--reachable")
    assert code == 1, "where text is written, everything is in reach"
    assert "the policy here chooses items" not in out


def test_a_refusal_is_shown_and_is_not_a_zero(toys: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    toys()
    write_reward("strict", REFUSES)
    code, out, _ = outcome(capsys, "env=toys", "reward=strict")
    assert code == 0
    refused = [line for line in out.splitlines() if "refused: reward strict: row 0: not an item" in line]
    assert len(refused) == 7
    assert all(line.split("refused")[0].count("–") == 2 and "0.000" not in line for line in refused)


def test_a_reward_that_cannot_score_items_is_wrong_input(
    toys: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    toys()
    write_reward("broken", REFUSES.replace("text not in self.texts", "True"))
    assert outcome(capsys, "env=toys", "reward=broken") == (2, "", "reward broken: row 0: not an item\n")


def test_a_reward_of_length_fails_and_ranks_against_the_task(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_talk(home)
    found = audit(load_env("talk", reward="length"))
    assert (earned(found, "a random item").share or 0) > 1
    assert (earned(found, "the whole catalog").share or 0) > 1
    assert found.correlation is not None
    assert found.correlation < -0.5
    assert "it ranks answers against constraints: their rank correlation is -0." in found.verdict
    assert outcome(capsys, "env=talk", "reward=length")[0] == 1


def test_constant_rewards_fail(toys: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    toys()
    write_reward("constant", CONSTANT)
    code, out, _ = outcome(capsys, "env=toys", "reward=constant")
    assert code == 1
    assert "rank correlation with constraints: none, as one of them is the same for all" in out
    assert "an empty text earns 100 %" in out.splitlines()[-1]
    code, out, _ = outcome(capsys, "env=toys", "reward=constant", "reward.pays=0")
    assert code == 1
    assert out.splitlines()[-1] == "fail: the oracle's answers earn nothing, so there is nothing to learn"


def test_one_reference_each_is_not_stuffed(home: Path) -> None:
    folder = write_talk(home)
    rows = [json.loads(line) for line in (folder / "instructions.jsonl").read_text().splitlines()]
    (folder / "instructions.jsonl").write_text(
        "".join(json.dumps({**row, "best": row["best"][:1]}) + "\n" for row in rows)
    )
    each = earned(audit(load_env("talk", reward="exact_match")), "all references")
    assert (each.raw, each.share, each.note) == (None, None, "no instruction has several references")


def test_the_threshold_and_the_seed(toys: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    toys()
    assert outcome(capsys, "env=toys", "--threshold", "0.9", "--rows", "20")[0] == 0
    code, out, _ = outcome(capsys, "--rows=20", "env=toys", "--threshold=0.1", "reward=constraints")
    assert code == 1
    assert "(at most 10 %)" in out
    again = outcome(capsys, "--rows=20", "env=toys", "--threshold=0.1", "reward=constraints")[1]
    other = outcome(capsys, "--rows=20", "env=toys", "--threshold=0.1", "reward=constraints", "seed=1")[1]
    assert again == out != other


def test_rank_correlation_is_spearmans() -> None:
    reward, metric = np.array([0.1, 0.4, 0.4, 0.9]), np.array([0.0, 0.2, 0.5, 1.0])
    ranks, others = np.array([1, 2.5, 2.5, 4]), np.array([1, 2, 3, 4])  # ties share the mean of their ranks
    assert audits._rank_correlation(reward, metric) == pytest.approx(np.corrcoef(ranks, others)[0, 1])
    assert audits._rank_correlation(np.ones(4), metric) is None


def test_words_of_chinese_are_characters() -> None:
    assert audits.words("2个pizza和可乐, crust_thin") == ["2", "个", "pizza", "和", "可", "乐", "crust_thin"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["env=pizza_re"], 'env=pizza_re: there is no such environment. Did you mean "pizza_rec"?'),
        (["reward=rogue"], 'reward=rogue: there is no such reward. Did you mean "rouge"?'),
        (["env=pizza_rec", "--treshold=1"], 'instructrec-rl audit: unrecognized arguments: --treshold=1.'),
        (["--threshold", "0"], "--threshold 0: expected more than 0"),
        (["--threshold", "nan"], "--threshold nan: expected more than 0"),
        (["--threshold", "high"], "instructrec-rl audit: argument --threshold: invalid float value: 'high'"),
        (["--rows", "0"], "--rows 0: expected at least 1"),
        (["env=pizza_rec", "reward.variant=x"], 'reward.variant=x: unknown option "variant"'),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_exit_2(
    home: Path, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = outcome(capsys, *argv)
    assert code == 2
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_on_a_terminal_it_is_a_table(toys: Callable[..., Path], monkeypatch: Any, capsys: Any) -> None:
    from rich.console import Console

    toys()
    found = audit(load_env("toys", reward="constraints"))
    screen = Console(width=100, force_terminal=True, color_system=None, record=True)
    screen.print(audits.table(found))
    shown = screen.export_text()
    assert all(each.name.split(" times")[0] in shown for each in found.earned)
    assert max(map(len, shown.splitlines())) <= 100
    capsys.readouterr()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    audits.print_audit(found)
    assert capsys.readouterr().out.splitlines()[-1] == found.verdict
