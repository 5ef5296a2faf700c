"""The real command from start to report, with a tiny budget, on a user's own folder."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrec_rl.config.compose import compose
from instructrec_rl.config.experiments import is_bench
from instructrec_rl.core import command_line as cli
from instructrec_rl.core.files import read_yaml
from instructrec_rl.run import command as run
from tests.conftest import COLOURS, SHAPES, write_toys

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("wall_s", "cpu_s")
DRINKS = {
    "espresso": "a small strong black coffee",
    "latte": "a mild coffee with a lot of milk",
    "green tea": "a light hot tea without milk",
    "lemonade": "a cold sweet drink with lemon",
    "water": "cold still water without sugar",
}
WISHES = ("something like {}, please", "bring me {}")
REWARD = '''"""The share of the best reference's words that the response has."""
import numpy as np


def score(batch, config):
    def share(response, references):
        return max(len(set(r.split()) & set(response.split())) / len(set(r.split())) for r in references)

    return np.array([share(*pair) for pair in zip(batch.responses, batch.references)])
'''


def environment(**more: str) -> dict[str, str]:
    """For a child process: this checkout, one thread, nothing named by the user's variables, unbuffered output."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "INSTRUCTREC_PATH": ""}
    return {**os.environ, **fixed, **more}


def main_job(*overrides: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m instructrec_rl.run ...` as a process of its own."""
    command = [sys.executable, "-m", "instructrec_rl.run", *overrides]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=250, **options)


def run_here(*overrides: str) -> int:
    """The same command in this process, which saves the imports; returns its exit code."""
    return cli.run_command(run.main, list(overrides))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text_of(path).splitlines()]


def text_of(path: Path) -> str:
    """The text of a file, or of one of gzip."""
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


def result_of(folder: Path) -> dict[str, Any]:
    """result.json without its times."""
    result = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in TIMES}


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without its times."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_lines(folder / "metrics.jsonl")]


def write_mine(folder: Path) -> Path:
    """All that a user needs: envs/mine (10 instructions, 5 items, no split field) and rewards/mine.py."""
    home = folder / "envs" / "mine"
    home.mkdir(parents=True)
    (home / "env.yaml").write_text(
        "name: mine\nversion: 1\nformat: catalog\naction: choose\nmetrics: [exact_match, mine]\n"
    )
    items = [{"id": name.replace(" ", "_"), "name": name, "text": text} for name, text in DRINKS.items()]
    (home / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = [
        {"id": f"{item['id']}-{k}", "instruction": wish.format(item["text"]), "best": [item["id"]]}
        for item in items
        for k, wish in enumerate(WISHES)
    ]
    (home / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards").mkdir()
    (folder / "rewards" / "mine.py").write_text(REWARD)
    return home


MINE = ("env=mine", "reward=mine", "algo.interactions=2000")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A user's folder after the main command, with no `out`: (the run's folder, the finished process)."""
    home = tmp_path_factory.mktemp("user")
    write_mine(home)
    done = main_job(*MINE, cwd=home)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in home.iterdir()) == ["envs", "rewards", "runs"], "nothing else is left in the folder"
    (folder,) = (home / "runs").iterdir()
    return folder, done


@pytest.fixture
def toy_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toys environment in an empty current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    write_toys(tmp_path)
    return tmp_path


def test_the_run_folder_is_whole(finished: tuple[Path, Any]) -> None:
    folder, _ = finished
    assert folder.name.startswith("mine-dqn-")
    assert folder.name.endswith("-0")
    names = {p.name for p in folder.iterdir()}
    expected = {
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "result.json",
        "rollouts.jsonl.gz",
        "samples.jsonl",
        "answers.jsonl",
        "policy",
        "report.html",
    }
    assert names - {"baselines"} == expected | {"checkpoints"}
    assert {p.suffix for p in (folder / "policy").iterdir()} <= {".safetensors", ".json", ".jsonl"}
    assert not [p for p in folder.rglob("*") if p.suffix in (".tmp", ".part", ".pkl", ".pt")]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"versions", "commit", "seed", "command", "sha256"} <= set(manifest)
    assert manifest["command"].startswith("python -m instructrec_rl.run ")
    assert manifest["command"].endswith(" ".join(MINE))
    data = {Path(path).name: digest for path, digest in manifest["sha256"]["data"].items()}
    assert set(data) == {"env.yaml", "items.jsonl", "instructions.jsonl"}
    assert all(len(digest) == 64 for digest in data.values())
    assert manifest["sha256"]["encoder"]


def test_result_json_has_what_other_programs_rely_on(finished: tuple[Path, Any]) -> None:
    result = json.loads((finished[0] / "result.json").read_text())
    keys = [
        "env",
        "reward",
        "algo",
        "policy",
        "metric",
        "seed",
        "interactions",
        "wall_s",
        "cpu_s",
        "train",
        "splits",
        "baselines",
    ]
    assert [key for key in result if key != "best_step"] == keys
    assert (result["env"], result["reward"], result["algo"], result["seed"]) == ("mine", "mine", "dqn", 0)
    assert result["wall_s"] > 0
    assert result["cpu_s"] > 0
    assert list(result["splits"]) == ["validation", "test"]
    assert list(result["baselines"]) == ["random", "popularity", "neighbour", "tfidf", "oracle"]
    for splits in (result["splits"], *(b["splits"] for b in result["baselines"].values())):
        for summary in splits.values():
            assert {"n", "reward", "metrics", "normalized"} <= set(summary)
            assert set(summary["metrics"]) == {"exact_match", "mine", "valid"}
            assert 0 <= summary["reward"] <= 1
            assert summary["reward"] == pytest.approx(summary["metrics"]["mine"])
    for name, value in (("oracle", 1.0), ("random", 0.0)):
        for summary in result["baselines"][name]["splits"].values():
            assert summary["normalized"]["mine"] == pytest.approx(value, abs=1e-9)


def test_metrics_samples_and_report_say_what_happened(finished: tuple[Path, Any]) -> None:
    folder, _ = finished
    last = read_lines(folder / "metrics.jsonl")[-1]
    assert last["step"] >= 2000
    assert {"wall_s", "cpu_s", "reward", "loss", "validation/exact_match", "validation/reward"} <= set(last)
    samples = read_lines(folder / "samples.jsonl")
    assert {"split", "instruction", "response", "references", "reward", "reward_parts", "metrics"} <= set(samples[0])
    assert {s["split"] for s in samples} == {"validation", "test"}
    assert all(s["response"] in DRINKS.values() for s in samples)
    page = (folder / "report.html").read_text()
    assert samples[0]["instruction"] in page


def test_every_answer_is_there_with_its_scores(finished: tuple[Path, Any], toy_home: Path) -> None:
    assert run_here("env=toys", "algo.interactions=1000", "baselines=none", "out=r") == 0
    for folder in (finished[0], toy_home / "r"):
        result, answers = result_of(folder), read_lines(folder / "answers.jsonl")
        for split, summary in result["splits"].items():
            lines = [line for line in answers if line["split"] == split]
            assert len(lines) == summary["n"]
            assert len({line["id"] for line in lines}) == len(lines)
            assert summary["reward"] == pytest.approx(np.mean([line["reward"] for line in lines]), abs=1e-6)
            for name, mean in summary["metrics"].items():
                assert mean == pytest.approx(np.mean([line["metrics"][name] for line in lines]), abs=1e-6)
        by_id = {line["id"]: line for line in answers}
        for sample in read_lines(folder / "samples.jsonl"):
            line = by_id[sample["id"]]
            assert (line["response"], line["instruction"]) == (sample["response"], sample["instruction"])
            assert line["metrics"] == pytest.approx(sample["metrics"], abs=1e-6)
            asked = sample.get("constraints", [])
            assert sum(n for _, n in line.get("kinds", {}).values()) == len(asked)
            assert sum(hits for hits, _ in line.get("kinds", {}).values()) == sum(c["satisfied"] for c in asked)
    kinds = result["splits"]["test"]["by"]["kind"]
    for kind, found in kinds.items():
        counts = [line["kinds"].get(kind, [0, 0]) for line in lines]
        assert found["n"] == sum(n for _, n in counts)
        assert found["satisfied"] == pytest.approx(sum(hits for hits, _ in counts) / found["n"])
    assert {line["item"] for line in lines} <= {f"{c}_{s}" for c in COLOURS for s in SHAPES}


def test_the_page_fetches_nothing(finished: tuple[Path, Any]) -> None:
    page = (finished[0] / "report.html").read_text()
    assert "<script src" not in page


def test_off_a_terminal_it_prints_plain_text(finished: tuple[Path, Any]) -> None:
    folder, done = finished
    lines = done.stdout.splitlines()
    assert lines[-1] == f"report: {Path('runs') / folder.name / 'report.html'}"
    assert lines[0] == "mine: 10 instructions, 5 items, splits train, validation, test"
    assert "\x1b" not in done.stdout + done.stderr
    assert not set("│┃╭━─") & set(done.stdout)
    assert any(line.startswith("policy (dqn)") for line in lines)
    assert "inf" not in done.stderr + done.stdout
    assert "Warning" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_policy_answers_in_a_fresh_process(finished: tuple[Path, Any]) -> None:
    code = (
        "import json, sys; from instructrec_rl import load_policy\n"
        "print(json.dumps(load_policy(sys.argv[1]).act(sys.argv[2:])))"
    )
    samples = read_lines(finished[0] / "samples.jsonl")
    asked = [sys.executable, "-c", code, str(finished[0]), *(s["instruction"] for s in samples), "hello there"]
    done = subprocess.run(asked, cwd="/", env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers[:-1] == [s["response"] for s in samples]
    assert answers[-1] in DRINKS.values()


def test_the_same_seed_gives_the_same_run(finished: tuple[Path, Any]) -> None:
    folder, _ = finished
    done = main_job(*MINE, "out=again", cwd=folder.parents[1])
    assert done.returncode == 0, done.stderr
    again = folder.parents[1] / "again"
    assert result_of(again) == result_of(folder)
    assert metrics_of(again) == metrics_of(folder)
    assert (again / "samples.jsonl").read_bytes() == (folder / "samples.jsonl").read_bytes()
    weights = "policy/network.safetensors"
    assert (again / weights).read_bytes() == (folder / weights).read_bytes()


def test_a_sweep_makes_a_folder_each(toy_home: Path) -> None:
    done = main_job("-m", "env=toys", "algo=popularity", "seed=0,1", "baselines=none", cwd=toy_home)
    assert done.returncode == 0, done.stderr
    folders = sorted((toy_home / "runs").iterdir(), key=lambda p: p.name[-1])
    assert [result_of(folder)["seed"] for folder in folders] == [0, 1]
    assert [line for line in done.stdout.splitlines() if line.startswith("report: ")][-1].endswith("report.html")


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("none", {"random", "oracle"}),
        (
            "all",
            {"random", "popularity", "neighbour", "tfidf", "oracle"}
            | {"centroid", "linucb", "linear_q", "supervised", "ngrams"},
        ),
    ],
)
def test_baselines(toy_home: Path, choice: str, names: set[str]) -> None:
    assert run_here("env=toys", "algo=random", f"baselines={choice}", "algo.interactions=2000", "out=r") == 0
    baselines = result_of(toy_home / "r")["baselines"]
    assert set(baselines) == names
    if choice == "all":
        learned = {name: baselines[name]["splits"]["test"]["normalized"]["constraints"] for name in names}
        assert min(learned[name] for name in ("supervised", "linucb", "linear_q", "ngrams")) > 0.3, learned


@pytest.mark.parametrize("algo", ["random", "linucb", "supervised", "oracle"])
def test_a_baseline_is_a_whole_run(toy_home: Path, algo: str) -> None:
    assert run_here("env=toys", f"algo={algo}", "algo.interactions=3000", "baselines=none", "out=r") == 0
    result = result_of(toy_home / "r")
    assert result["algo"] == algo
    value = result["splits"]["test"]["normalized"]["constraints"]
    if algo == "random":
        assert abs(value) < 0.5
    elif algo == "oracle":
        assert value == pytest.approx(1)
    else:
        assert value > 0.3
    assert (toy_home / "r" / "report.html").stat().st_size > 10_000


def test_a_weighted_reward_logs_its_parts(toy_home: Path) -> None:
    weighted = ("reward=weighted", "reward.parts.constraints=3", "reward.parts.exact_match=1")
    assert run_here("env=toys", *weighted, "algo.interactions=2000", "baselines=none", "out=r") == 0
    summary = result_of(toy_home / "r")["splits"]["test"]
    parts = summary["reward_parts"]
    assert set(parts) == {"constraints", "exact_match"}
    assert summary["reward"] == pytest.approx(0.75 * parts["constraints"] + 0.25 * parts["exact_match"])
    for sample in read_lines(toy_home / "r" / "samples.jsonl"):
        mixed = 0.75 * sample["reward_parts"]["constraints"] + 0.25 * sample["reward_parts"]["exact_match"]
        assert sample["reward"] == pytest.approx(mixed)


def test_a_run_with_turns(toy_home: Path) -> None:
    assert run_here("env=toys", "env.turns=3", "algo.interactions=4000", "baselines=none", "out=r") == 0
    result = result_of(toy_home / "r")
    assert result["splits"]["test"]["normalized"]["constraints"] > 0.5
    assert run_here("env=toys", "env.turns=3", "algo.interactions=4000", "baselines=none", "out=again") == 0
    assert result_of(toy_home / "again") == result


def test_tracking_writes_event_files(toy_home: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    assert run_here("env=toys", "tracking=tensorboard", "algo.interactions=1000", "baselines=none", "out=r") == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(toy_home / "r" / "tensorboard"))
    events.Reload()
    logged = read_lines(toy_home / "r" / "metrics.jsonl")
    scalars = events.Scalars("validation/constraints")
    assert [s.step for s in scalars] == [line["step"] for line in logged]
    assert [s.value for s in scalars] == pytest.approx([line["validation/constraints"] for line in logged])


def test_every_experiment_of_ours_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
    assert "pizza_quick" in names
    for name in names:
        if not is_bench(read_yaml(ROOT / "experiments" / f"{name}.yaml")):
            compose([f"experiment={name}"])
    assert compose(["experiment=pizza_quick", "seed=3"]).algo.interactions == 20_000
