"""`instructrec-rl report DIR...`: the report of a run, one self-contained HTML page made from its folder's files.

Of a bench, or of several runs, bench_report.py writes one report over all of them.

Nothing in the page is fetched and nothing runs: text from the data is escaped, and a content security policy forbids
scripts, so that an instruction that holds markup is shown and not obeyed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.core.command_line import DONE, Parser
from instructrec_rl.core.files import write_text_atomic
from instructrec_rl.report import run_files
from instructrec_rl.report.one_run import sections as sections
from instructrec_rl.report.one_run.sections import text
from instructrec_rl.run.screen import figure, main_metric, share, values_of

HELP = """Write the report of finished runs again.

  instructrec-rl report RUN               RUN/report.html, of one run
  instructrec-rl report BENCH             BENCH/report.html, .md, .csv and .json, over all runs of a bench
  instructrec-rl report RUN RUN...        the same over single runs, in --out
  instructrec-rl report BENCH BENCH...    benches compared: what changed, in --out; a kept report.json may stand for one
"""
ANCHORS = ("random", "oracle")  # 0 % and 100 % by definition, so never "the highest baseline"


@dataclass(frozen=True)
class Run:
    """What a run folder holds, as read. `config` is the YAML's text; files that may be missing are empty."""

    folder: Path
    result: dict[str, Any]
    manifest: dict[str, Any]
    config: str
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]


def read_run(folder: Path) -> Run:
    """Read a run folder. Raises InputError where it is none, has not finished, or holds a broken file."""
    if not folder.is_dir():
        raise InputError("there is no such run folder", folder)
    path = folder / "result.json"
    if not path.is_file():
        started = (folder / "config.yaml").is_file()
        raise InputError("the run has not finished: it has no result.json; continue it with resume=true" if started
                         else "not a run folder: it has no result.json", folder)  # fmt: skip
    result = run_files.read_result(folder)
    config = folder / "config.yaml"
    return Run(
        folder=folder,
        result=result,
        manifest=run_files.read_manifest(folder) if (folder / "manifest.json").is_file() else {},
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        metrics=run_files.read_metrics(folder / "metrics.jsonl"),
        samples=run_files.read_samples(folder / "samples.jsonl"),
    )


def write_report(run_dir: Path) -> Path:
    """Write `report.html` from the other files of a run folder and return its path.

    Raises InputError where the folder is not that of a finished run, or the disk refuses.
    """
    path = run_dir / "report.html"
    write_text_atomic(path, page(read_run(run_dir)))
    return path


def page(run: Run) -> str:
    """The whole page as HTML."""
    result, manifest = run.result, run.manifest
    facts = {
        "reward": result["reward"],
        "seed": result["seed"],
        "date": str(manifest.get("started", "not recorded"))[:16].replace("T", " "),
        "policy": result.get("policy"),
        "interactions": f"{result['interactions']:,}" if "interactions" in result else None,
        "CPU time": f"{result['cpu_s']:,.0f} s" if "cpu_s" in result else None,
    }
    parts = [
        sections.header("Report of a run", f"{result['algo']} on {result['env']}", facts, summary(result)),
        "<main>",
        sections.compared(result),
        sections.bars(result),
        sections.curves(run.metrics, result.get("best_step"), result.get("monitor")),
        sections.wordings(result),
        sections.kinds(result, run.samples),
        sections.samples(run.samples),
        sections.repeat(manifest, run.config, result),
        f"</main>\n<footer>Written by instructrec-rl from the files in {text(run.folder.name)}.</footer>",
    ]
    title = f"{result['env']} · {result['algo']} · {result['reward']} · seed {result['seed']}"
    return sections.document(title, "\n".join(parts))


def summary(result: dict[str, Any]) -> str:
    """What the figures say, in plain words. One seed has no interval, so no policy is called better than another."""
    metric, splits = main_metric(result), result["splits"]
    held_out = [name for name in splits if name not in ("train", "validation")] or list(splits)
    split = held_out[0]
    normalized, raw = values_of(splits, split, metric)
    sentences = []
    if normalized is None:
        sentences.append(f"On {split}, the policy's mean {metric} is {figure(raw)} (not normalised: that needs random "
                         "and oracle baselines that differ).")  # fmt: skip
    else:
        reached = f"On {split}, the policy reaches {share(normalized)} of the way from random to oracle on {metric}"
        others = {n: values_of(b["splits"], split, metric)[0] for n, b in result.get("baselines", {}).items()}
        known = {name: value for name, value in others.items() if value is not None and name not in ANCHORS}
        if known:
            highest = max(known, key=lambda name: known[name])
            reached += f"; the highest baseline, {highest}, {share(known[highest])}"
        sentences.append(reached + ".")
    warm = values_of(result["warm_start"]["splits"], split, metric)[0] if result.get("warm_start") else None
    if warm is not None:
        sentences.append(f"Its warm start, before reinforcement learning, reaches {share(warm)} there.")
    each = {name: values_of(splits, name, metric)[0] for name in held_out}
    ranked = sorted((value, name) for name, value in each.items() if value is not None)
    if len(ranked) > 1:
        (low, lowest), (high, best) = ranked[0], ranked[-1]
        sentences.append(f"Over the {len(ranked)} test splits it lies between {share(low)} ({lowest}) and "
                         f"{share(high)} ({best}).")  # fmt: skip
    if monitor := result.get("monitor"):
        sentences.append(f"The monitor saw {sections.parting_words(monitor)}.")
    return " ".join([*sentences, "This is one seed, so there is no interval: a small difference may be chance."])


def main(argv: Sequence[str] | None = None) -> int:
    """`instructrec-rl report DIR...`: write the report of a run or of several, and print its path."""
    parser = Parser(prog="instructrec-rl report", description=HELP)
    parser.add_argument(
        "paths", metavar="DIR", nargs="+", type=Path, help="run folders, bench folders, report.json files"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the report of several goes (default: in the one "
                        "bench's folder; of more, in ./compared)")  # fmt: skip
    options = parser.parse_args(argv)
    first = options.paths[0]
    from instructrec_rl.report.several_runs.gather import is_bench
    from instructrec_rl.report.several_runs.page import results_of, write_reports

    if len(options.paths) == 1 and options.out is None and first.is_dir() and not is_bench(first):
        print(write_report(first))
        return DONE

    results, compared = results_of(options.paths)
    print(write_reports(options.out or _place(options.paths), results, compared))
    return DONE


def _place(paths: Sequence[Path]) -> Path:
    """Where the report of several runs goes: into the bench's folder, or into a new one where there are more."""
    if len(paths) > 1:
        return Path("compared")
    return paths[0] if paths[0].is_dir() else paths[0].parent
