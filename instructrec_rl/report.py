"""A run's report: one self-contained HTML page made from the files of its folder. `instructrec-rl report DIR`.

Nothing in the page is fetched and nothing runs: text from the data is escaped, and a content security policy forbids
scripts, so that an instruction that holds markup is shown and not obeyed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_rl import report_sections as sections
from instructrec_rl.cli import DONE, Parser, run_command
from instructrec_rl.core import InputError
from instructrec_rl.files import read_jsonl, write_text_atomic
from instructrec_rl.report_sections import text
from instructrec_rl.screen import figure, main_metric, share, values_of

ANCHORS = ("random", "oracle")  # 0 % and 100 % by definition, so never "the highest baseline"
# A control character would be dropped or break the page; U+FFFD shows that one was there.
CONTROLS = {code: "�" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}


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
    result = _read_json(path)
    for key in ("env", "reward", "algo", "seed", "splits"):
        if key not in result:
            raise InputError(f'not the result of a run: it has no "{key}"', path)
    if not isinstance(result["splits"], dict) or not all(s.get("metrics") for s in result["splits"].values()):
        raise InputError('"splits": expected a mapping of splits, each with "metrics"', path)
    if not result["splits"]:
        raise InputError('"splits": expected at least one split', path)
    manifest, config = folder / "manifest.json", folder / "config.yaml"
    return Run(
        folder=folder,
        result=result,
        manifest=_read_json(manifest) if manifest.is_file() else {},
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        metrics=_read_lines(folder / "metrics.jsonl", "step"),
        samples=_read_lines(folder / "samples.jsonl", "instruction"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"broken JSON: {error.msg}", path, error.lineno) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read: {error}", path) from error
    if not isinstance(content, dict):
        raise InputError("expected a JSON object", path)
    return content


def _read_lines(path: Path, needed: str) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    records = []
    for number, record in read_jsonl(path):
        if needed not in record:
            raise InputError(f'the line has no "{needed}"', path, number)
        records.append(record)
    return records


def write_report(run_dir: Path) -> Path:
    """Write `report.html` from the other files of a run folder and return its path.

    Raises InputError where the folder is not that of a finished run, or the disk refuses.
    """
    path = run_dir / "report.html"
    write_text_atomic(path, page(read_run(run_dir)))
    return path


def page(run: Run) -> str:
    """The whole page as HTML."""
    title = f"{run.result['env']} · {run.result['algo']} · {run.result['reward']} · seed {run.result['seed']}"
    result = run.result
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    html = "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>",
            _header(run),
            "<main>",
            sections.compared(result),
            sections.bars(result),
            sections.curves(run.metrics, result.get("best_step"), result.get("monitor")),
            sections.wordings(result),
            sections.kinds(result, run.samples),
            sections.samples(run.samples),
            sections.repeat(run.manifest, run.config, result),
            f"</main>\n<footer>Written by instructrec-rl from the files in {text(run.folder.name)}.</footer>",
            "</body>\n</html>\n",
        ]
    )
    return html.translate(CONTROLS)


def _header(run: Run) -> str:
    result, manifest = run.result, run.manifest
    facts = {
        "reward": result["reward"],
        "seed": result["seed"],
        "date": str(manifest.get("started", "not recorded"))[:16].replace("T", " "),
        "policy": result.get("policy"),
        "interactions": f"{result['interactions']:,}" if "interactions" in result else None,
        "CPU time": f"{result['cpu_s']:,.0f} s" if "cpu_s" in result else None,
    }
    listed = "".join(f"<div><dt>{k}</dt><dd>{text(v)}</dd></div>" for k, v in facts.items() if v not in (None, ""))
    heading, said = f"{result['algo']} on {result['env']}", text(summary(result)).replace(" %", "&nbsp;%")
    return (
        f'<header>\n<p class="eyebrow">Report of a run</p>\n<h1>{text(heading)}</h1>\n<dl class="facts">{listed}</dl>\n'
        f'<p class="lead">{said}</p>\n</header>'
    )


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
    """`instructrec-rl report DIR`: write DIR/report.html again and print its path. Returns the exit code."""
    parser = Parser(
        prog="instructrec-rl report", description="Write the report of a finished run again: DIR/report.html."
    )
    parser.add_argument("run_dir", metavar="DIR", type=Path, help="a run folder, such as runs/pizza_rec-dqn-...")
    print(write_report(parser.parse_args(argv).run_dir))
    return DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
