"""The report over several runs: report.html, report.md, report.csv, and report.json, of which all of them are made."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from instructrec_rl.core import InputError, inert
from instructrec_rl.core.files import write_text_atomic, writing
from instructrec_rl.report.one_run.sections import document, header, text
from instructrec_rl.report.parts import Section, spanned
from instructrec_rl.report.several_runs.findings import Comparison, Findings, Standing, find
from instructrec_rl.report.several_runs.gather import BENCH, gather, gather_runs, is_bench
from instructrec_rl.report.several_runs.results import REPORT, Results, merge, read_results, write_results
from instructrec_rl.report.several_runs.sections import listed, sections_of
from instructrec_rl.report.statistics.intervals import Interval, interval
from instructrec_rl.run.screen import progress, share

ALL = "mean of the splits"
WRITTEN = (REPORT, "report.csv", "report.md", "report.html")
COLUMNS = ("env", "variant", "split", "metric", "seeds", "instructions", "raw", "normalized", "low", "high", "iqm",
           "iqm_low", "iqm_high", "interactions", "cpu_s")  # fmt: skip
TEXTS = 4  # of these columns hold names, the others figures


def results_of(paths: Sequence[Path]) -> tuple[Results, bool]:
    """The results of run folders, bench folders or report.json files, and whether reports are set side by side.

    Raises InputError where a path is none of these, and for runs and benches together.
    """
    runs = [path for path in paths if _is_run(path)]
    if runs and len(runs) < len(paths):
        raise InputError("give run folders, or benches, but not both: this one is a single run", runs[0])
    if runs:
        return gather_runs(runs), False
    found = [read_results(path) if path.is_file() else _gather_seen(path) for path in paths]
    return (found[0], False) if len(found) == 1 else (merge(found), True)


def _is_run(path: Path) -> bool:
    """Whether a path is a run's folder; False for a bench and a report.json. Raises InputError for anything else."""
    if not path.exists():
        raise InputError("there is no such folder or file", path)
    if (path / "result.json").is_file() or path.is_file() or is_bench(path):
        return (path / "result.json").is_file()
    if (path / "config.yaml").is_file():
        raise InputError("the run has not finished: it has no result.json; continue it with resume=true", path)
    raise InputError("neither a run folder (it has no result.json) nor a bench's (no bench.json, no run in it)", path)


def _gather_seen(folder: Path) -> Results:
    """The results of a bench's folder; on a terminal with a bar, as a large bench takes seconds to read."""
    if not sys.stderr.isatty():
        return gather(folder)
    with progress(f"reading {folder.name}", 1) as seen:
        return gather(folder, lambda done, total: seen(done, total, "runs"))


def write_reports(folder: Path, results: Results, compared: bool = False) -> Path:
    """Write report.json, .csv, .md and .html into a folder; returns the last one's path.

    Raises InputError where files of these names are there that are of no report over several runs.
    """
    _refuse_others(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    findings = find(results, compared)
    sections, lead = sections_of(results, findings, compared), summary(findings, compared)
    write_results(folder / REPORT, results)
    write_text_atomic(folder / "report.csv", table_of(findings))
    write_text_atomic(folder / "report.md", markdown(results, sections, lead))
    path = folder / "report.html"
    write_text_atomic(path, page(results, sections, lead, compared))
    return path


def _refuse_others(folder: Path) -> None:
    """Raise InputError for a folder whose files would be written over and are not of an earlier such report."""
    there = [name for name in WRITTEN if (folder / name).exists()]
    if there and not (folder / BENCH).is_file():
        try:
            read_results(folder / REPORT)
        except InputError as error:
            reason = f"{there[0]} is there and not of a report over several runs; give another --out=DIR"
            raise InputError(reason, folder) from error


def summary(findings: Sequence[Findings], compared: bool = False) -> str:
    """What the figures say, in plain words; "better" only where the corrected interval allows it."""
    words = []
    for found in findings:
        if not found.places:
            continue
        task, first = found.task, found.places[0]
        where = f"On {task.env}, " if len(findings) > 1 else ""
        ends = f" (95 % interval {spanned(first.mean)[1:-1].replace(', ', ' to ')})" if spanned(first.mean) else ""
        words.append(f"{where}{first.variant} has the highest mean: {share(first.mean.value)}{ends} of the way from "
                     f"random to oracle on {task.metric}, every test split counting alike.")  # fmt: skip
        words += _changes(found.comparisons) if compared else _lead(first.variant, found.comparisons)
        if note := first.mean.note:
            words.append(note)
    return " ".join(words)


def _lead(first: str, comparisons: Sequence[Comparison]) -> list[str]:
    """What the highest variant may be said to be better than."""
    against = [pair for pair in comparisons if pair.ours == first]
    beaten = [pair.theirs for pair in against if pair.difference.better]
    unclear = [pair.theirs for pair in against if not pair.difference.better]
    corrected = f"Holm's correction over {len(comparisons)} comparisons"
    said = [f"After {corrected} it is better than {listed(beaten)}."] if beaten else []
    return said + ([f"No difference from {listed(unclear)} is shown."] if unclear else [])


def _changes(comparisons: Sequence[Comparison]) -> list[str]:
    """Which variants changed from one report to another."""
    verdicts = {word: [pair.ours.partition(": ")[2] for pair in comparisons if pair.difference.verdict == word]
                for word in ("better", "worse", "unclear")}  # fmt: skip
    said = [f"{word.capitalize()} than before: {listed(names)}." for word, names in verdicts.items()
            if names and word != "unclear"]  # fmt: skip
    unclear = verdicts["unclear"]
    return said + ([f"No change of {listed(unclear)} is shown."] if unclear else [])


def page(results: Results, sections: Sequence[Section], lead: str, compared: bool) -> str:
    """The page as HTML."""
    seeds = sorted({run.seed for run in results.runs})
    facts = {
        "environment": ", ".join(dict.fromkeys(task.env for task in results.tasks)),
        "variants": len({run.variant for run in results.runs}),
        "runs": f"{len(results.runs)}" + (f", {len(results.failed)} missing" if results.failed else ""),
        "seeds": f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 2 else ", ".join(map(str, seeds)),
        "size": results.about.get("size"),
        "date": str(results.about.get("started", ""))[:10],
        "CPU time": f"{sum(run.cpu_s for run in results.runs) / 60:,.0f} min of learning",
    }
    asked = str(results.about.get("description") or "")
    question = f'<p class="note">{text(asked)}</p>' if asked else ""
    kind = "Reports compared" if compared else "Report of a bench" if results.about else "Report of several runs"
    parts = [header(kind, results.name, facts, lead), "<main>", question, *(part.html() for part in sections)]
    said = "Written by instructrec-rl; every figure is in report.csv, and report.json holds what they are made of."
    return document(f"{results.name} · report", "\n".join([*parts, f"</main>\n<footer>{said}</footer>"]))


def markdown(results: Results, sections: Sequence[Section], lead: str) -> str:
    """The report as Markdown."""
    asked = inert.markdown_paragraph(results.about.get("description") or "")
    head = (f"# {inert.markdown(results.name)}", asked, inert.markdown_paragraph(lead))
    return "\n\n".join(part for part in (*head, *(each.markdown() for each in sections)) if part) + "\n"


def table_of(findings: Sequence[Findings]) -> str:
    """Every figure as CSV: a line a variant, split and metric; normalised scores with their 95 % interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([*map(inert.csv_cell, line[:TEXTS]), *line[TEXTS:]] for line in _lines(findings))
    return out.getvalue()


def _lines(findings: Sequence[Findings]) -> Iterator[list[str]]:
    for task, places in ((found.task, found.places) for found in findings):
        for place in places:
            instructions = sum(task.sizes[split] for split in task.splits)
            about = ("" if place.tries is None else str(place.tries), f"{place.cpu_s:.3f}")
            whole = [_raw(place, task.splits, task.metric), *_ends(place.mean), *_ends(place.iqm)]
            start = [task.env, place.variant]
            seeds = str(len(place.runs))
            yield [*start, ALL, task.metric, seeds, str(instructions), *whole, *about]
            for metric, found in place.metrics.items():
                if metric != task.metric:
                    raw = _raw(place, task.splits, metric)
                    yield [*start, ALL, metric, seeds, str(instructions), raw, *_ends(found), "", "", "", *about]
            for split, size in task.sizes.items():
                for metric in place.metrics:
                    one = place.splits.get(split) if metric == task.metric else None
                    if one is None and task.scale(split, metric):
                        means = [task.normalize(split, run.means[split][metric], metric) for run in place.runs]
                        one = interval(means)
                    ends = _ends(one) if one else ["", "", ""]
                    raw = _raw(place, [split], metric)
                    yield [*start, split, metric, seeds, str(size), raw, *ends, "", "", "", *about]


def _raw(place: Standing, splits: Sequence[str], metric: str) -> str:
    return f"{np.mean([run.means[split][metric] for run in place.runs for split in splits]):.6f}"


def _ends(found: Interval) -> list[str]:
    return [f"{value:.6f}" if math.isfinite(value) else "" for value in (found.value, found.low, found.high)]
