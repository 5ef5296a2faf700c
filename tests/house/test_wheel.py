"""The wheel: what is in it, and that it runs the main job from an empty directory without this checkout."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.run.test_run import ROOT, result_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BUNDLE = "instructrec_rl/bundle/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this checkout; an .env lies beside the data while it is built, and must not be shipped."""
    folder = tmp_path_factory.mktemp("wheel")
    isolated = [] if importlib.util.find_spec("hatchling") is None else ["--no-isolation"]
    if importlib.util.find_spec("build") is not None:
        command = ["-m", "build", "--wheel", *isolated, "--outdir", str(folder), str(ROOT)]
    else:
        alike = ["--no-build-isolation"] if isolated else []
        command = ["-m", "pip", "wheel", "-q", "--no-deps", *alike, "--wheel-dir", str(folder), str(ROOT)]
    secret = ROOT / "envs" / "pizza_rec" / ".env"
    secret.write_text("TOKEN=not-to-be-shipped\n")
    try:
        done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    finally:
        secret.unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that holds the wheel, and borrows every other package from this one.

    A path in a .pth file is added to sys.path, but the .pth files there (our editable install) are not read.
    """
    home = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(home, with_pip=False)
    found = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(found), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return found


def run_in(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    cleared = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "INSTRUCTREC_PATH")}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=cleared | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )


def test_it_holds_the_bundle_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for expected in (
        "envs/pizza_rec/env.yaml",
        "envs/pizza_rec/instructions.jsonl",
        "envs/pizza_rec/items.large.jsonl",
        "envs/intents/sample.json",
        "rewards/rouge.py",
        "rewards/constraints.py",
        "experiments/pizza_quick.yaml",
    ):
        assert BUNDLE + expected in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"instructrec_rl"}
    parts = [set(Path(name).parts) for name in names]
    assert not [p for p in parts if p & {".env", "tests", "runs", "__pycache__", ".git", ".hypothesis", "benchmarks"}]
    assert not [name for name in names if name.endswith((".pyc", ".tmp", ".part"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    kinds = (".py", ".css", ".html", ".js", ".svg")
    found = (ROOT / "instructrec_rl").rglob("*")
    code = {p.relative_to(ROOT).as_posix() for p in found if p.suffix in kinds}
    assert "instructrec_rl/annotate/page/page.html" in code
    assert code <= set(names)


def test_it_runs_from_an_empty_directory(python: Path, tmp_path: Path) -> None:
    where = run_in(tmp_path, python, "-c", "import instructrec_rl; print(instructrec_rl.__file__)")
    assert where.stdout.startswith(str(python.parents[1])), "the wheel's own code is what runs"
    overrides = ("env=pizza_rec", "reward=rouge", "algo.interactions=2000", "baselines=none", "out=run")
    done = run_in(tmp_path, python, "-m", "instructrec_rl.run", *overrides)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "report: run/report.html"
    assert result_of(tmp_path / "run")["env"] == "pizza_rec"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_the_console_command_is_there(python: Path, tmp_path: Path) -> None:
    listed = run_in(tmp_path, python.parent / "instructrec-rl", "list", "envs")
    assert listed.returncode == 0, listed.stderr
    assert "pizza_rec" in listed.stdout


@pytest.mark.parametrize("order", ["gymnasium, instructrec_rl", "instructrec_rl, gymnasium"])
def test_the_gymnasium_ids_are_there_in_either_order(python: Path, tmp_path: Path, order: str) -> None:
    code = f"import {order}; env = gymnasium.make('instructrec/intents-v1'); print(env.reset(seed=0)[1]['instruction'])"
    made = run_in(tmp_path, python, "-c", code)
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip()
