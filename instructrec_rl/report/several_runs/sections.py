"""The sections of the report of several runs, from their findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from instructrec_rl.report.parts import Answered, Cell, Code, Figure, Lines, Part, Section, Table, heated, spanned
from instructrec_rl.report.several_runs.figures import (
    MOST_BANDS,
    bands_svg,
    costs_svg,
    intervals_svg,
    names_and_shares,
)
from instructrec_rl.report.several_runs.findings import (
    SHARES,
    Comparison,
    Findings,
    Standing,
    cost_to,
    learning_curve,
    profile,
)
from instructrec_rl.report.several_runs.results import VALIDATION, Results, Sample, Task
from instructrec_rl.report.statistics.comparisons import comparison_sentence
from instructrec_rl.report.statistics.curves import Band, Cost
from instructrec_rl.run.screen import duration, share

MOST_LINES = 10  # in a figure of curves: more cannot be told apart
SHOWN_VARIANTS = 6  # in a sample
MOST_COLUMNS = 12  # of a table of differences


def sections_of(results: Results, findings: Sequence[Findings], compared: bool) -> list[Section]:
    """All sections. compared: the results are of two reports put together, so like variants are set side by side."""
    found = []
    for number, (task, places, comparisons) in enumerate((f.task, f.places, f.comparisons) for f in findings):
        if not places:
            nothing = f"On {task.env}, random and oracle score alike on every split, so nothing can be normalised."
            found.append(Section("Leaderboard", nothing))
            continue
        about = f" · {task.env}" if len(results.tasks) > 1 else ""
        made = [
            _leaderboard(task, places, f"p{number}"),
            _what_changed(task, comparisons) if compared else _differences(task, places, comparisons),
            _splits(task, places),
            _curves(task, places, f"c{number}"),
            _profiles(task, places, f"f{number}"),
            _costs(task, places, f"k{number}"),
            _kinds(places),
            _samples(results, task),
        ]
        found += [Section(part.heading + about, part.note, part.parts) for part in made if part is not None]
    return [*found, *_failed(results), _repeat(results)]


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _leaderboard(task: Task, places: Sequence[Standing], prefix: str) -> Section:
    others = [name for name, found in places[0].metrics.items() if name != task.metric and math.isfinite(found.value)]
    rows = []
    for place in places:
        cells = [Cell(place.variant), Cell(str(len(place.runs))), heated(place.mean)]
        cells += [Cell(share(place.iqm.value), spanned(place.iqm))]
        cells += [Cell(share(place.metrics[name].value)) for name in others]
        cells += [Cell("–" if place.tries is None else f"{place.tries:,}"), Cell(f"{place.cpu_s:,.0f}")]
        rows.append(cells)
    head = ["variant", "seeds", f"{task.metric}, mean", "IQM", *others, "interactions", "CPU-s"]
    rest = [f"{split} ({size:,})" for split, size in task.sizes.items() if split in task.splits]
    left = [split for split in task.sizes if split not in task.splits]
    note = (
        f"Per cent of the way from random (0 %) to oracle (100 %) on {task.metric}, the mean over the test splits "
        f"{', '.join(rest)}, with 95 % intervals for new seeds and new instructions of the same kind. IQM: the mean of "
        "the runs without the highest and the lowest quarter. Interactions: answers that were tried in learning; of "
        "supervised learning, right answers that were shown."
    )
    note += f" Left out, as random and oracle score alike there: {', '.join(left)}." if left else ""
    notes = sorted({place.mean.note for place in places if place.mean.note})
    drawn = {place.variant: place.mean for place in places}
    label = f"{task.metric} and 95 % intervals: {names_and_shares(list(drawn.items()))}"
    return Section("Leaderboard", note, [
        Figure(f"{task.metric}, mean and 95 % interval", intervals_svg(drawn, label, prefix), wide=True),
        Table("Leaderboard", head, rows),
        Lines(notes),
    ])  # fmt: skip


def _differences(task: Task, places: Sequence[Standing], comparisons: Sequence[Comparison]) -> Section | None:
    if not comparisons:
        return None
    first = places[0].variant
    said = [_sentence(task, c) for c in comparisons if c.ours == first]
    parts: list[Part] = [Lines(said)]
    if len(places) <= MOST_COLUMNS:
        parts.append(_matrix(places, comparisons))
    parts.append(_pairs("Every pair", comparisons))
    note = (
        f"The same seeds and instructions of both, paired. Intervals and p-values are corrected together for all "
        f"{len(comparisons)} pairs (Holm); better or worse is said only where the corrected interval excludes 0."
    )
    return Section("Which differences are shown", note, parts)


def _sentence(task: Task, pair: Comparison) -> str:
    """What may be said of a pair; what all pairs of so few seeds have in common is said once, in the leaderboard."""
    said = comparison_sentence(pair.difference, pair.ours, pair.theirs, task.metric)
    return said.removesuffix(pair.difference.corrected.note).strip() if _known(pair) else said


def _known(pair: Comparison) -> bool:
    return math.isfinite(pair.difference.corrected.low)


def _matrix(places: Sequence[Standing], comparisons: Sequence[Comparison]) -> Table:
    found = {(c.ours, c.theirs): c for c in comparisons}
    names = [place.variant for place in places]
    rows = []
    for ours in names:
        row = [Cell(ours)]
        for theirs in names:
            sign = 1 if (ours, theirs) in found else -1
            pair = found.get((ours, theirs)) or found.get((theirs, ours))
            if pair is None:
                row.append(Cell("–" if ours != theirs else ""))
                continue
            gain = 100 * sign * pair.difference.interval.value
            row.append(Cell(f"{gain:+.0f}", bold=pair.difference.corrected.excludes_zero))
        rows.append(row)
    return Table("Differences in points of per cent; bold where shown", ["row less column", *names], rows)


def _pairs(caption: str, comparisons: Sequence[Comparison]) -> Table:
    rows = []
    for pair in comparisons:
        span, p = pair.difference.corrected, pair.difference.p_adjusted
        rows.append([
            Cell(f"{pair.ours} − {pair.theirs}"),
            Cell(f"{100 * pair.difference.interval.value:+.1f}"),
            Cell(f"{spanned(span, 1)} at {100 * span.level:.3g} %" if spanned(span) else "–"),
            Cell("–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"),
            Cell(f"{100 * pair.improvement.value:.0f} %", spanned(pair.improvement)),
            Cell(pair.difference.verdict, bold=pair.difference.verdict != "unclear"),
        ])  # fmt: skip
    head = ["pair", "points", "corrected interval", "p, corrected", "chance that a run scores more", "verdict"]
    return Table(caption, head, rows, words=True)


def _what_changed(task: Task, comparisons: Sequence[Comparison]) -> Section:
    if not comparisons:
        return Section("What changed", "No variant has the same name in both, with a seed in common.")
    said = [_sentence(task, c) for c in comparisons]
    note = "Variants of the same name: the later report against the earlier one, on the seeds that both have."
    return Section("What changed", note, [Lines(said), _pairs("Every variant", comparisons)])


def _splits(task: Task, places: Sequence[Standing]) -> Section:
    rows = [[Cell(p.variant), *(heated(p.splits[split]) for split in task.splits)] for p in places]
    note = f"{task.metric}, normalised, with 95 % intervals: the stronger the tint, the nearer to the oracle."
    return Section("Every split", note, [Table(f"{task.metric} by split", ["variant", *task.splits], rows)])


def _curves(task: Task, places: Sequence[Standing], prefix: str) -> Section | None:
    parts: list[Part] = []
    unit = "of the way to the oracle" if task.scale(VALIDATION) else "raw"
    ends: list[str] = []
    for against, across in enumerate(("interactions", "CPU seconds")):
        curves = {place.variant: learning_curve(task, place, against) for place in places}
        shown: dict[str, Band] = {name: band for name, band in curves.items() if band is not None}
        if not shown:
            continue
        drawn = dict(list(shown.items())[:MOST_LINES])
        ends = [name for name in shown if name not in drawn]
        last = ", ".join(f"{name} {band.value[-1]:.2f}" for name, band in drawn.items())
        label = f"{task.metric} on validation against {across}; last values: {last}"
        svg = bands_svg(drawn, across, f"{task.metric} on validation", label, f"{prefix}{against}", log=True)
        parts.append(Figure(f"Against {across}", svg))
    if not parts:
        return None
    note = (
        f"{task.metric} of the greedy policy on validation ({unit}), the mean over the seeds with, from 5 on, a 95 % "
        "band at each point, on the part of the axis that every seed covers. Interactions are those of reinforcement "
        "learning; CPU seconds hold every stage before it."
    )
    note += f" Not drawn, to keep lines apart: {', '.join(ends)}." if ends else ""
    return Section("Learning curves", note, parts)


def _profiles(task: Task, places: Sequence[Standing], prefix: str) -> Section:
    bands = {place.variant: profile(task, place) for place in places[:MOST_LINES]}
    label = "share of scores above each threshold; above one half: " + ", ".join(
        f"{name} {share(float(band.value[50]))}" for name, band in bands.items()
    )
    svg = bands_svg(bands, "threshold", "share of runs above it", label, prefix, steps=True)
    note = (
        "For each threshold, the share of scores (a run on a split) above it: the further to the right a line falls, "
        "the better, and a long slope shows runs or splits that lag behind. Bands, "
        f"from 5 seeds on and for at most {MOST_BANDS} lines, are Wilson's for runs."
    )
    return Section("How the runs are spread", note, [Figure("Performance profile", svg)])


def _costs(task: Task, places: Sequence[Standing], prefix: str) -> Section:
    points = {place.variant: (max(place.cpu_s, 0.01), place.mean) for place in places}
    said = ", ".join(f"{name} {share(found.value)} at {seconds:.0f} s" for name, (seconds, found) in points.items())
    drawn = costs_svg(points, f"CPU seconds against {task.metric}: {said}", prefix)
    rows = []
    for place in places:
        seconds, walls = [run.cpu_s for run in place.runs], [run.wall_s for run in place.runs]
        ends = f"{min(seconds):,.1f} to {max(seconds):,.1f}" if len(seconds) > 1 else ""
        reached = [_cost_words(cost_to(task, place, at)) for at in SHARES] if task.scale(VALIDATION) else []
        wall = Cell(f"{sum(walls) / len(walls):,.0f}")
        rows.append([Cell(place.variant), Cell(f"{place.cpu_s:,.1f}", ends), wall, *reached])
    head = ["variant", "CPU-s of learning", "wall s"]
    head += [f"CPU-s to {share(at)} on validation" for at in SHARES] if task.scale(VALIDATION) else []
    note = (
        "CPU seconds of a run's learning, evaluation on validation and the stages before reinforcement included, mean "
        "and range over the seeds. A stage that runs shared is counted in each. The last columns have the median "
        "seed's CPU seconds until validation first showed the score, or how many seeds never did."
    )
    return Section("Cost against quality", note, [
        Figure(f"{task.metric} against CPU seconds", drawn, wide=True), Table("Cost", head, rows)
    ])  # fmt: skip


def _cost_words(cost: Cost | None) -> Cell:
    if cost is None:
        return Cell("–", "not logged")
    missing = len(cost.costs) - cost.num_reached
    return Cell("never" if math.isinf(cost.median) else f"{cost.median:,.1f}",
                f"{missing} of {len(cost.costs)} never" if missing and math.isfinite(cost.median) else "")  # fmt: skip


def _kinds(places: Sequence[Standing]) -> Section | None:
    totals: dict[str, list[int]] = {}
    for place in places:
        for kind, (hold, asked) in place.kinds.items():
            total = totals.setdefault(kind, [0, 0])
            total[0] += hold
            total[1] += asked
    if not totals:
        return None
    order = sorted(totals, key=lambda kind: totals[kind][0] / totals[kind][1])
    rows = []
    for kind in order:
        cells = [
            Cell(kind),
            Cell(f"{max(place.kinds[kind][1] // len(place.runs) for place in places if kind in place.kinds):,}"),
        ]
        for place in places:
            hold, asked = place.kinds.get(kind, (0, 0))
            cells.append(Cell(share(hold / asked), "", hold / asked) if asked else Cell("–"))
        rows.append(cells)
    note = (
        "The share of the constraints of each kind that the answers satisfy, over all test splits and seeds; the kind "
        "that fails most comes first. Raw shares: a random item satisfies many constraints too."
    )
    head = ["kind", "asked", *(place.variant for place in places)]
    return Section("Where they fail", note, [Table("Satisfied, by kind of constraint", head, rows)])


def _samples(results: Results, task: Task) -> Section | None:
    parts: list[Part] = [
        Answered(f"{sample.split} · {sample.id}", sample.instruction, _alike(sample))
        for sample in results.samples
        if sample.task == task.key
    ]
    if not parts:
        return None
    note = (
        "From each split the instructions on which the four highest variants differ most, so harder ones than usual: "
        f"the answers of the {SHOWN_VARIANTS} highest (of their first seed), the mean of {task.metric} over each one's "
        "seeds, and the kinds of constraint that the answer misses."
    )
    return Section("Where variants disagree", note, parts)


def _alike(sample: Sample) -> list[tuple[list[str], str, list[float], list[str]]]:
    """The answers of the highest variants, those that gave the same one together."""
    found: dict[str, tuple[list[str], str, list[float], list[str]]] = {}
    for name, answer in list(sample.answers.items())[:SHOWN_VARIANTS]:
        same = found.setdefault(answer["response"], ([], answer["response"], [], answer["missed"]))
        same[0].append(name)
        same[2].append(answer["score"])
    return list(found.values())


def _failed(results: Results) -> list[Section]:
    if not results.failed:
        return []
    rows = [
        [Cell(f"{run['variant']}, seed {run['seed']}"), Cell(run["status"]), Cell(run.get("log", "")),
         Cell("\n".join(run.get("last_words", [])))]
        for run in results.failed
    ]  # fmt: skip
    note = "These runs have no result and are in no figure above. The bench's command does them again."
    return [
        Section(
            "Runs that are missing",
            note,
            [Table("Missing runs", ["run", "status", "log", "last lines"], rows, words=True)],
        )
    ]


def _repeat(results: Results) -> Section:
    about, parts = results.about, list[Part]()
    if command := about.get("command"):
        parts.append(Code(str(command)))
    variants: dict[str, Any] = about.get("variants") or {}
    if variants:
        rows = [
            [Cell(name), Cell(" ".join(f"{k}={v}" for k, v in options.items()))] for name, options in variants.items()
        ]
        parts.append(Table("Variants", ["variant", "options"], rows, words=True))
    facts: dict[str, str] = {key: str(about[key]) for key in ("size", "started", "launcher", "workers") if key in about}
    facts |= {"wall time of the last command": duration(about["wall_s"])} if "wall_s" in about else {}
    facts |= {key: ", ".join(values) for key, values in results.made.items()}
    made = [[Cell(key), Cell(value)] for key, value in facts.items()]
    parts.append(Table("What the runs were made with", ["what", "value"], made, words=True))
    differing = [key for key, values in results.made.items() if len(values) > 1]
    note = "The same command, data and versions give the same figures; times vary."
    note += f" The runs were not all made with the same {listed(differing)}." if differing else ""
    return Section("How to repeat it", note, parts)
