"""What a Python user meets: `dir`, `train` and its result, short reprs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import instructrec_rl
from instructrec_rl.core import InputError
from tests.run.test_run import environment, write_mine


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python_user")
    write_mine(folder)
    return folder


def test_dir_names_exactly_what_is_public() -> None:
    assert dir(instructrec_rl) == ["__version__", *sorted(instructrec_rl.__all__)]
    assert all(callable(getattr(instructrec_rl, name)) for name in instructrec_rl.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, instructrec_rl; print({'torch', 'hydra', 'omegaconf', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


def test_train_gives_what_the_folder_holds(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    options = {"algo": {"name": "popularity"}, "out": Path("mine"), "baselines": "none"}
    done = instructrec_rl.train("env=mine", reward="mine", quiet=True, **options)
    assert capsys.readouterr() == ("", "")
    result = json.loads((home / "mine" / "result.json").read_text())
    assert done.folder == Path("mine")
    assert done.scores == {split: values["metrics"] for split, values in result["splits"].items()}
    assert done.normalized["test"] == result["splits"]["test"]["normalized"]
    assert list(done.baselines) == ["random", "oracle"]
    assert repr(done).startswith("popularity on mine, exact_match:  ")
    assert len(repr(done)) < 200
    assert "policy (popularity)" in done._repr_html_()
    assert len(done.policy.act(["something cold"])) == 1
    assert len(repr(done.policy)) < 200
    assert done.report().is_file()


@pytest.mark.parametrize(
    ("override", "option"),
    [("algo=dqm", {"algo": "dqm"}), ("seed=x", {"seed": "x"}), ("algo.lrr=1", {"algo.lrr": 1}), ("sed=1", {"sed": 1})],
)
def test_wrong_options_are_the_command_lines_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, override: str, option: dict[str, object]
) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(InputError) as typed:
        instructrec_rl.train("env=mine", override)
    with pytest.raises(InputError) as by_keyword:
        instructrec_rl.train(env="mine", **option)  # type: ignore[arg-type]
    assert str(by_keyword.value) == str(typed.value)


RANKING = ("centroid", "neighbour", "linear_q", "linucb", "tfidf", "ngrams", "dqn", "supervised", "popularity")


@pytest.mark.parametrize("algo", RANKING)
def test_the_first_of_a_ranking_is_the_answer(home: Path, monkeypatch: pytest.MonkeyPatch, algo: str) -> None:
    monkeypatch.chdir(home)
    budget = {"interactions": 200} if algo == "dqn" else {"epochs": 2} if algo == "supervised" else {}
    options = {"name": algo, **budget}
    done = instructrec_rl.train(
        env="mine", reward="mine", algo=options, out=f"rank-{algo}", baselines="none", quiet=True
    )
    texts = ["something cold", "a hot drink with milk", "no milk, please"]
    policy = done.policy
    ranked = policy.rank(texts, 3)
    assert [row[0].text for row in ranked] == policy.act(texts)
    assert all([item.score for item in row] == sorted((i.score for i in row), reverse=True) for row in ranked)
    assert all(len({item.id for item in row}) == 3 for row in ranked)
    with pytest.raises(InputError, match="k=0"):
        policy.rank(texts, 0)


def test_a_policy_without_scores_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    done = instructrec_rl.train(env="mine", reward="mine", algo="random", out="no-rank", baselines="none", quiet=True)
    with pytest.raises(InputError, match="RandomPolicy gives items no scores and cannot rank them; use act"):
        done.policy.rank(["a text"])
