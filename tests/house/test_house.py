"""What must not change in silence when files move: the code's hash, the commit, public paths, what `--help` loads."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from instructrec_rl.config.schema import ALGORITHM_CONFIGS
from instructrec_rl.core import fingerprints
from instructrec_rl.core.command_line import COMMANDS
from instructrec_rl.run import folder as manifest

ROOT = next(folder for folder in Path(manifest.__file__).resolve().parents if (folder / "pyproject.toml").exists())
PACKAGE = ROOT / "instructrec_rl"
HEAVY = {"torch", "transformers", "hydra", "omegaconf", "gymnasium", "sklearn", "scipy", "matplotlib", "pandas",
         "rich", "trl", "evaluate", "fastapi", "uvicorn"}  # fmt: skip
MOST_MODULES = 400  # that a --help may import; Python itself takes 26, the dearest of ours 337 on 23d450c
SLOWEST_S = 5.0  # on a machine under load; .1 to .3 s on an idle one
DIGESTS = """
import importlib, sys
from pathlib import Path
from typing import Any
sha256_of_code = importlib.import_module(sys.argv[1]).sha256_of_code
package = Path(sys.argv[2])
def digest():
    sha256_of_code.cache_clear()
    return sha256_of_code()
print(digest(), "as it is")
for path in sorted(package.glob("**/*.py")):
    path.write_bytes(path.read_bytes() + b"# one more line\\n")
    print(digest(), path.relative_to(package))
path.rename(path.with_name("renamed.py"))
print(digest(), "renamed")
(path.parent / "added.py").write_text("")
print(digest(), "added")
"""


def python(*words: str, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "INSTRUCTREC_PATH"} | {"PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment)


def test_the_codes_hash_changes_with_every_file_of_the_package(tmp_path: Path) -> None:
    """A hash of some rooms only would let benches reuse the runs of other code."""
    copied = tmp_path / "instructrec_rl"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__", "bundle"))
    (tmp_path / "elsewhere").mkdir()
    done = python("-c", DIGESTS, fingerprints.__name__, str(copied), cwd=tmp_path / "elsewhere", path=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    assert len(lines) == len(list(PACKAGE.glob("**/*.py"))) + 3
    digests = [digest for digest, _, _ in lines]
    assert [what for k, (digest, _, what) in enumerate(lines) if digest in digests[:k]] == []


def test_a_manifest_names_the_commit_of_a_checkout() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = manifest._commit().removesuffix("-dirty")
    assert len(commit) >= 7
    assert head.stdout.startswith(commit)


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    done = python("-X", "importtime", "-m", "instructrec_rl", *filter(None, [command]), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert {name.partition(".")[0] for name in names} & HEAVY == set()
    assert len(names) <= MOST_MODULES


def test_help_comes_at_once(tmp_path: Path) -> None:
    for command in ("run", "feedback"):
        subprocess.run(
            [sys.executable, "-m", "instructrec_rl", command, "--help"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            timeout=SLOWEST_S,
        )


@pytest.mark.parametrize("module", ["run", "bench", "report", "feedback", "annotate"])
def test_the_documented_modules_are_commands(module: str, tmp_path: Path) -> None:
    done = python("-m", f"instructrec_rl.{module}", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    "line",
    [
        "from instructrec_rl import as_metric, load_env, load_policy, load_reward, __version__",
        "from instructrec_rl.core import Batch, InputError, Item, nearest",
        "from instructrec_rl.rewards import RewardContext, load_reward",
        "from instructrec_rl.feedback.store import append",
        "import instructrec_rl, gymnasium; gymnasium.spec('instructrec/pizza_rec-v1')",
    ],
)
def test_public_paths_import(line: str, tmp_path: Path) -> None:
    """These are in users' files (`instructrec-rl new reward` writes some of them), so they stay."""
    done = python("-c", line, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def golden() -> Any:
    (path,) = [*ROOT.glob("benchmarks/golden.py"), *ROOT.glob("benchmarks/*/golden.py")]
    spec = importlib.util.spec_from_file_location("golden", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planted(home: Path, compressed: bool = False, seconds: float = 1.5, reward: float = 0.25) -> Path:
    """A run's folder as golden runs keep it."""
    (home / "run").mkdir(parents=True)
    (home / "run" / "result.json").write_text(json.dumps({"cpu_s": seconds, "splits": {"test": {"reward": reward}}}))
    line = json.dumps({"step": 1, "wall_s": seconds, "seconds/forward": seconds, "reward": reward}).encode() + b"\n"
    name = "rollouts.jsonl.gz" if compressed else "rollouts.jsonl"
    (home / "run" / name).write_bytes(gzip.compress(line) if compressed else line)
    return home / "run"


def test_golden_runs_are_equal_but_for_times_and_compression(
    golden: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides: tuple[tuple[str, dict[str, Any]], ...] = (
        ("a", {}),
        ("b", {"compressed": True, "seconds": 9.0}),
        ("c", {"reward": 0.26}),
    )
    for name, options in sides:
        golden.keep_run(planted(tmp_path / name / "home", **options), tmp_path / name / "run", tmp_path / name / "home")
    assert golden.compare(tmp_path / "a" / "run", tmp_path / "b" / "run", []) == 0
    assert capsys.readouterr().out == "equal (2 files)\n"
    assert golden.compare(tmp_path / "a" / "run", tmp_path / "c" / "run", []) == 1
    out = capsys.readouterr().out
    for part in ("differs: result.json", "differs: rollouts.jsonl", '-{"reward": 0.25, "step": 1}', "2 of 2 files"):
        assert part in out
    assert golden.compare(tmp_path / "a" / "run", tmp_path / "c" / "run", ['"reward"']) == 0


def test_golden_runs_spell_out_the_options_that_runs_have(golden: Any) -> None:
    """A default that is not written down could change, and every golden run with it."""
    left = {"stage_cache"}  # places, not results
    for name, options in golden.RUNS.items():
        algo = ALGORITHM_CONFIGS[options["algo"]]
        known = {field.name for field in dataclasses.fields(algo)} - {"name", "device"} - left
        assert {key for key in known if f"algo.{key}" not in options} == set(), name
