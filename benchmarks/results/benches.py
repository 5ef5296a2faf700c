"""docs/results/policy_variants.md: the tables of the benches whose results are kept in benchmarks/kept.

    python -m benchmarks.results.benches [--keep BENCH_FOLDER ...]

A result file is a bench's report.json: every score of every run, of which the tables are made anew. --keep takes one
out of a bench's folder first, under the folder's name.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from instructrec_rl.core.files import write_text_atomic
from instructrec_rl.report.parts import Section, Table
from instructrec_rl.report.several_runs.findings import find
from instructrec_rl.report.several_runs.gather import gather
from instructrec_rl.report.several_runs.page import summary
from instructrec_rl.report.several_runs.results import Results, read_results, write_results
from instructrec_rl.report.several_runs.sections import sections_of
from instructrec_rl.run.screen import duration

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "kept"
PAGE = ROOT / "docs" / "results" / "policy_variants.md"
SHOWN = ("Leaderboard", "Which differences are shown", "Every split", "Cost against quality", "Where they fail")
INTRODUCTION = """# Benchmark results

Full tables of the bundled [benches](../how_to/compare_many_runs.md), written by a command from the files in
`benchmarks/kept`, which hold every score of every run; nothing here is typed:

    python -m benchmarks.results.benches

How intervals and p-values are made, and what they do not cover, is in [statistics](../explanation/statistics.md).
`instructrec-rl report benchmarks/kept/NAME.json --out DIR` shows one as a page with figures and with answers side by
side. Comparisons with other programs are in [peers](peers.md).
"""


def main() -> None:
    """Keep what is asked for, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, nargs="+", default=[], help="bench folders whose results are kept")
    for folder in parser.parse_args().keep:
        results = gather(folder)
        write_results(KEPT / f"{folder.name}.json", results)
    found = [read_results(path) for path in sorted(KEPT.glob("*.json"))]
    write_text_atomic(PAGE, "\n\n".join([INTRODUCTION.strip(), *map(of_bench, found)]) + "\n")
    print(f"{PAGE}: {len(found)} benches")


def of_bench(results: Results) -> str:
    """A bench's part of the page: what is asked, the command, what the figures say, and the tables."""
    about = results.about
    runs, seeds = len(results.runs), len({run.seed for run in results.runs})
    made = ", ".join(
        f"{key} {', '.join(values)}" for key, values in results.made.items() if key in ("commit", "threads")
    )
    minutes = f"{sum(run.cpu_s for run in results.runs) / 60:,.0f} CPU-minutes of learning"
    took = f"the last command took {duration(about['wall_s'])} with {about['workers']} at once"
    facts = f"{runs} runs, up to {seeds} seeds each, {minutes}; {took}; {about['started'][:10]}, {made}."
    findings = find(results, side_by_side=False)
    sections = [
        shortened(part) for part in sections_of(results, findings, compared=False) if part.heading.startswith(SHOWN)
    ]
    parts = [f"## {about['experiment']}, size {about['size']}", about["description"], f"    {about['command']}",
             facts, summary(findings), *(part.markdown().replace("## ", "### ", 1) for part in sections)]  # fmt: skip
    return "\n\n".join(parts)


def shortened(section: Section) -> Section:
    """A section without the list of every pair, whose figures are in the table of differences."""
    parts = [part for part in section.parts if not (isinstance(part, Table) and part.caption == "Every pair")]
    return replace(section, parts=parts)


if __name__ == "__main__":
    main()
