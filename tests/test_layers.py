"""Imports run downwards only, heavy packages stay where they are needed, and files stay short. Read with ast."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALGORITHMS = sorted(f"algorithms.{path.stem}" for path in ROOT.glob("instructrec_rl/algorithms/[!_]*.py"))
REWARD_FILES = sorted(f"rewards/{path.name}" for path in ROOT.glob("rewards/*.py"))

# From the bottom. A module imports from the levels above its own in this list and from nowhere else, so also not from
# its own level: no algorithm imports another, no reward file imports another. Imports inside functions count.
LEVELS: list[list[str]] = [
    ["core"],
    ["strict_json"],
    ["files"],
    ["locks"],
    [
        "options",
        "progress",
        "clauses",
        "constraints",
        "item_finder",
        "json_schema",
        "ngrams",
        "pair_files",
        "text_pairs",
        "variance",
        "cli",
        "monitor",
        "rollout_log",
        "ope.estimators",
        "ope.regression",
    ],
    ["config", "overrides", "embedding_cache", "encoder_model", "features", "fingerprints", "run_folder", "tokens"],
    ["rewards", "encoder", "experiment_files", "launchers", "statistics"],
    ["comparisons", "seed_curves"],
    ["reward_parts", "metric_adapter", "feedback", "feedback.schema", "env", "env.states"],
    ["networks", "item_search", "feedback.store", "feedback.versions", "feedback.judgements", "feedback.pair_features"],
    ["feedback.annotators", "feedback.interaction", "feedback.novelty", "feedback.ridge", "feedback.agreement"],
    ["feedback.quality", "feedback.exports", "feedback.imports"],
    ["feedback.learned"],
    ["feedback.validate"],
    [*REWARD_FILES, "env.intents", "env.examples"],
    ["env.spec"],
    ["env.environment"],
    [
        "env.gym",
        "feedback.simulate",
        "online_loop",
        "language.trained_weights",
        "language.tokenizer",
        "language.state_embedding",
        "language.generate",
    ],
    ["algorithms", "language", "language.advantages", "language.choose", "language.smollm2"],
    ["language.models"],
    ["language.arguments", "language.packing", "language.prompts", "language.critic", "language.stage_files"],
    ["language.policy", "language.rollout", "language.stages"],
    ["language.trainer", "language.plan"],
    ["language.learn"],
    ALGORITHMS,
    ["evaluate", "policies", "screen", "manifest"],
    ["report_plots", "ope.logs", "answer_files", "bench_results"],
    ["report_sections", "bench_plots", "bench_findings", "bench_gather"],
    ["bench_parts"],
    ["bench_sections"],
    ["bench_report"],
    ["report", "ope.judge"],
    ["experiment"],
    ["compose"],
    ["bench_plan"],
    ["bench_runs"],
    ["bench_screen"],
    ["annotate.limits", "annotate.connections", "annotate.keys", "annotate.shown"],
    ["annotate.pool", "annotate.guard"],
    ["annotate.learner"],
    ["annotate.selection"],
    ["annotate.session"],
    ["annotate.terminal"],
    ["annotate.server"],
    ["run", "bench", "listing", "new", "check", "doctor", "registration"],
    ["score", "audit", "ope", "feedback.command", "annotate"],
    ["instructrec_rl", "__main__", "feedback.__main__", "annotate.__main__"],
]
# Upward on purpose: (importer, imported) -> why.
ALLOWED = {("rewards", "env.environment"): "the public load_reward takes an environment's name"}

TRL_BASED = {
    "language.arguments",
    "language.trainer",
    "language.stages",
    "algorithms.reward_model",
}  # what may import TRL
MAX_LINES = 350
LONGER: dict[str, int] = {}  # path -> how many lines it may have, for a training loop that reads top to bottom


def modules() -> dict[str, Path]:
    """Every module by its name in LEVELS."""
    found = {f"rewards/{path.name}": path for path in ROOT.glob("rewards/*.py")}
    for path in ROOT.glob("instructrec_rl/**/*.py"):
        parts = path.relative_to(ROOT / "instructrec_rl").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or "instructrec_rl"] = path
    return found


MODULES = modules()
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports anywhere; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(dotted: str) -> str | None:
    """The module of ours that a dotted name is (in): its name in LEVELS; None for others' and for the version."""
    from instructrec_rl import _HOMES

    package, _, rest = dotted.partition(".")
    if package != "instructrec_rl" or rest == "__version__":
        return None
    rest = _HOMES.get(rest, dotted).removeprefix("instructrec_rl.")
    return rest if rest in MODULES else rest.rpartition(".")[0]


def test_every_module_has_one_level() -> None:
    named = [name for names in LEVELS for name in names]
    assert sorted(named) == sorted(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downwards(name: str) -> None:
    targets = {target for dotted in imported(MODULES[name]) if (target := own(dotted)) is not None}
    assert targets <= set(MODULES)
    upward = {target for target in targets if LEVEL[target] >= LEVEL[name] and target != name}
    assert upward == {target for importer, target in ALLOWED if importer == name}


def packages(path: Path) -> set[str]:
    return {dotted.partition(".")[0] for dotted in imported(path)}


def test_trl_is_imported_where_it_trains_only() -> None:
    assert {name for name, path in MODULES.items() if "trl" in packages(path)} == TRL_BASED


def test_the_lower_levels_import_no_torch() -> None:
    light = [name for name in MODULES if LEVEL[name] <= LEVEL["rewards"] and name not in ("encoder", "encoder_model")]
    heavy = {"torch", "transformers", "sklearn", "accelerate", "gymnasium", "matplotlib"}
    found = {(name, package) for name in light for package in packages(MODULES[name]) & heavy}
    assert found == {("run_folder", "torch")}  # for the type of a checkpoint's tensors only


def test_heavy_packages_are_imported_at_the_top_only_where_everything_needs_them() -> None:
    top = {}
    for name, path in MODULES.items():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        lines = [n.module or "" for n in body if isinstance(n, ast.ImportFrom)]
        lines += [alias.name for n in body if isinstance(n, ast.Import) for alias in n.names]
        top[name] = {line.partition(".")[0] for line in lines}
    torch = {name for name, found in top.items() if "torch" in found}
    language = {name for name in MODULES if name.startswith("language.")}  # imported by its algorithms alone
    assert torch <= {"networks", *ALGORITHMS, *language}
    lazy = {"transformers", "sklearn", "trl", "evaluate", "matplotlib", "hydra", "omegaconf", "rich", "tensorboard",
            "uvicorn", "fastapi", "starlette", "faiss"}  # fmt: skip
    found = {name: found & lazy for name, found in top.items() if found & lazy and name not in language}
    assert found == {"annotate.server": {"fastapi", "starlette"}}  # which is imported to serve, and for nothing else


@pytest.mark.parametrize("folder", ["instructrec_rl", "rewards", "envs"])
def test_files_stay_short(folder: str) -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in ROOT.glob(f"{folder}/**/*.py")}
    assert lengths
    assert {path: n for path, n in lengths.items() if n > LONGER.get(path, MAX_LINES)} == {}
