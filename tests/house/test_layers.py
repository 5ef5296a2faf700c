"""Imports run downwards only between the rooms, files have no circles, heavy packages stay where they are needed."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "instructrec_rl"

# From the bottom. A room imports rooms above its own line here only, never one of its own line; imports inside
# functions and for types count. `rewards/*.py` and `envs/*` of the bundle stand on lines of their own.
ROOMS: list[list[str]] = [
    ["core"],
    ["encoders", "rewards", "report"],
    ["config"],
    ["env"],
    ["policies", "feedback"],
    ["bundled rewards"],
    ["algorithms", "annotate", "bench"],
    ["run"],
    ["commands"],
    ["the front door"],  # __init__, __main__
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# what may import TRL, which is a heavy package with private hooks that we rely on
TRL_BASED = {
    "algorithms/language/answer_scorer.py",
    "algorithms/language/stages.py",
    "algorithms/language/trainer.py",
    "algorithms/language/trl_arguments.py",
    "algorithms/reward_model.py",
}
LAZY = {"transformers", "sklearn", "trl", "evaluate", "matplotlib", "hydra", "omegaconf", "rich", "tensorboard",
        "uvicorn", "fastapi", "starlette", "faiss"}  # fmt: skip
MAX_LINES = 350
MAX_ROOMS, MAX_ROOT_FILES = 13, 3


def files() -> dict[str, Path]:
    """Every file of ours by its path in the package; a bundled reward as `rewards:name.py`."""
    own = {str(p.relative_to(PACKAGE)): p for p in PACKAGE.rglob("*.py") if "bundle" not in p.parts}
    return own | {f"rewards:{p.name}": p for p in ROOT.glob("rewards/*.py")}


FILES = files()


def room_of(name: str) -> str:
    if name.startswith("rewards:"):
        return "bundled rewards"
    return name.partition("/")[0] if "/" in name else "the front door"


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """The dotted names that a file imports anywhere; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def own(dotted: str) -> str | None:
    """The file of ours that a dotted name is (in), by its path; None for others'."""
    package, *parts = dotted.split(".")
    if package != "instructrec_rl":
        return None
    for end in range(len(parts), -1, -1):
        stem = "/".join(parts[:end])
        for name in (f"{stem}.py", f"{stem}/__init__.py" if stem else "__init__.py"):
            if name in FILES:
                return name
    raise AssertionError(dotted)


@functools.cache
def arrows() -> dict[str, set[str]]:
    """For each file, the files of ours that it imports."""
    return {
        name: {target for dotted, _ in imports(path) if (target := own(dotted)) not in (None, name)}
        for name, path in FILES.items()
    }


def test_every_room_is_known_and_the_root_is_empty() -> None:
    rooms = {room_of(name) for name in FILES}
    assert rooms == set(LEVEL)
    assert len(rooms - {"bundled rewards", "the front door"}) <= MAX_ROOMS
    assert len([name for name in FILES if "/" not in name and ":" not in name]) <= MAX_ROOT_FILES


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_imports_between_rooms_run_downwards(room: str) -> None:
    upward = {
        (name, target)
        for name, targets in arrows().items()
        for target in targets
        if room_of(name) == room != room_of(target) and LEVEL[room_of(target)] >= LEVEL[room]
        and target != "__init__.py"  # its version, from anywhere
        and target != "run/screen.py"  # to be split
    }  # fmt: skip
    assert upward == set()


def test_there_is_no_circle_between_files() -> None:
    below = {name: {t for t in targets if t != "__init__.py"} for name, targets in arrows().items()}
    assert list(graphlib.TopologicalSorter(below).static_order())


@pytest.mark.parametrize("kind", ["algorithms/", "rewards:", "commands/"])
def test_files_that_stand_side_by_side_do_not_know_each_other(kind: str) -> None:
    beside = {name for name in FILES if name.startswith(kind) and "/" not in name.removeprefix(kind)}
    beside -= {f"{kind}__init__.py", "commands/response_files.py"}
    assert {(name, t) for name in beside for t in arrows()[name] & beside} == set()


def test_no_prefix_stands_twice_in_a_folder() -> None:
    heads = [
        (path.parent, path.stem.partition("_")[0]) for path in PACKAGE.rglob("*.py") if "_" in path.stem.strip("_")
    ]
    stems = {(path.parent, path.stem) for path in PACKAGE.rglob("*.py")}
    assert {head for head in heads if heads.count(head) > 1 or head in stems} == set()


def packages(path: Path, top: bool = False) -> set[str]:
    """The packages that a file imports: anywhere, or at its top only."""
    return {dotted.partition(".")[0] for dotted, node in imports(path) if not (top and node.col_offset)}


def test_trl_is_imported_where_it_trains_only() -> None:
    assert {name for name, path in FILES.items() if "trl" in packages(path)} == TRL_BASED


def test_torch_is_imported_at_the_top_only_where_everything_needs_it() -> None:
    torch = {name for name, path in FILES.items() if "torch" in packages(path, top=True)}
    allowed = ("algorithms/", "policies/language/", "encoders/set_network.py")
    assert {name for name in torch if not name.startswith(allowed)} == set()


def test_the_lower_rooms_import_no_heavy_package() -> None:
    light = [n for n in FILES if room_of(n) in ("core", "rewards", "report", "config") or n == "encoders/clauses.py"]
    heavy = {"torch", "transformers", "sklearn", "accelerate", "gymnasium"}
    found = {(name, package) for name in light for package in packages(FILES[name]) & heavy}
    assert {name for name, _ in found} <= {"core/hardware.py", "core/pretrained.py"}  # inside functions


def test_lazy_packages_are_imported_inside_functions() -> None:
    language = ("policies/language/", "algorithms/language/")  # imported by its algorithms alone
    found = {name: packages(path, top=True) & LAZY for name, path in FILES.items() if not name.startswith(language)}
    found = {name: names for name, names in found.items() if names}
    assert found == {"annotate/server.py": {"fastapi", "starlette"}}  # which is imported to serve, and for nothing else


def test_files_and_functions_stay_short() -> None:
    paths = [*FILES.values(), *ROOT.glob("envs/**/*.py")]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in paths}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}
