"""The figures of a bench's report, as inline SVG like a run's: intervals, curves with bands, cost against quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from instructrec_rl.report.one_run.figures import INKS, LINES, cut, plain, svg_of, thousands
from instructrec_rl.report.statistics.variance import WIDE_BELOW
from instructrec_rl.run.screen import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from instructrec_rl.report.statistics.curves import Band
    from instructrec_rl.report.statistics.intervals import Interval

MOST_BANDS = 7  # in one figure: more lie on each other
INCH_A_ROW = 0.24
LABEL_HEIGHT = 0.058  # of the axes: what a line of text needs in the figure of costs


def intervals_svg(rows: Mapping[str, Interval], label: str, prefix: str) -> str:
    """A dot with its interval for each name, on a scale from random (0) to oracle (1)."""
    from matplotlib.figure import Figure

    width, height = 4.8, 0.5 + INCH_A_ROW * len(rows)
    left = 0.2 + 0.068 * max(len(cut(name)) for name in rows)
    drawing = Figure(figsize=(width, height))
    axes = drawing.add_axes((left / width, 0.3 / height, (width - left - 0.6) / width, (height - 0.35) / height))
    for place, (name, found) in enumerate(rows.items()):
        if math.isfinite(found.low):
            axes.hlines(place, found.low, found.high, color=INKS["accent"], linewidth=2.2, alpha=0.45)
        axes.plot([found.value], [place], "o", color=INKS["accent"], markersize=4.5)
        axes.annotate(share(found.value), (1, place), (6, 0), xycoords=("axes fraction", "data"), fontsize=8,
                      textcoords="offset points", va="center", color=INKS["ink"])  # fmt: skip
        axes.text(-0.012, place, cut(name), transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=8,
                  color=INKS["ink"], parse_math=False)  # fmt: skip
    ends = [end for found in rows.values() for end in (found.low, found.high, found.value) if math.isfinite(end)]
    axes.set_xlim(min(0.0, *ends) - 0.01, max(1.0, *ends) + 0.01)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["random", "25 %", "50 %", "75 %", "oracle"])
    axes.grid(axis="x", color=INKS["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    plain(axes)
    return svg_of(drawing, label, prefix)


def bands_svg(
    bands: Mapping[str, Band], across: str, up: str, label: str, prefix: str, log: bool = False, steps: bool = False
) -> str:
    """A line for each name, with its band from 5 seeds on: of fewer it fills the figure and says nothing.

    across, up: what the axes show; log: a logarithmic x axis; steps: a line that holds until the next point.
    """
    from matplotlib.figure import Figure

    rows = -(-len(bands) // 3)
    drawing = Figure(figsize=(4.6, 2.7 + 0.17 * rows), layout="constrained")
    axes = drawing.add_subplot()
    # draw the lines with their bands
    for position, (name, band) in enumerate(bands.items()):
        ink, dashes = LINES[position % len(LINES)][0], LINES[(position + position // len(LINES)) % len(LINES)][1]
        line = axes.plot(band.x, band.value, color=INKS[ink], linestyle=dashes, linewidth=1.5)[0]
        line.set_label(cut(name))
        if steps:
            line.set_drawstyle("steps-post")
        if len(bands) <= MOST_BANDS and np.isfinite(band.low).all() and band.num_seeds >= WIDE_BELOW:
            low, high = np.clip(band.low, -0.2, 1.2), np.clip(band.high, -0.2, 1.2)
            axes.fill_between(band.x, low, high, color=INKS[ink], alpha=0.13, linewidth=0,
                              step="post" if steps else None)  # fmt: skip
    # label the axes
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(lambda *_: "")  # those of 2, 3, 4, ... would lie on each other
    axes.xaxis.set_major_formatter(thousands)
    axes.margins(x=0.02)
    axes.set_xlabel(across, fontsize=8, color=INKS["dim"])
    axes.set_ylabel(up, fontsize=8, color=INKS["dim"])
    axes.grid(axis="y", color=INKS["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    plain(axes)
    # name the lines
    legend = drawing.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=INKS["ink"])
    for text in legend.get_texts():
        text.set_parse_math(False)
    return svg_of(drawing, label, prefix)


def costs_svg(points: Mapping[str, tuple[float, Interval]], label: str, prefix: str) -> str:
    """CPU seconds of a run (on a logarithmic axis) against its score, a dot with its name for each variant."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = drawing.add_subplot()
    for seconds, found in points.values():
        if math.isfinite(found.low):
            axes.plot([seconds, seconds], [found.low, found.high], color=INKS["quiet"], linewidth=1.6)
        axes.plot([seconds], [found.value], "o", color=INKS["accent"], markersize=4.5)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    lowest = min(seconds for seconds, _ in points.values())
    highest = max(seconds for seconds, _ in points.values())
    axes.set_xlim(lowest / 1.6, highest * max(2.0, (highest / lowest) ** 0.22))
    axes.xaxis.set_major_formatter(thousands)
    axes.set_xlabel("CPU seconds of a run's learning", fontsize=8, color=INKS["dim"])
    axes.yaxis.set_major_formatter(lambda value, _: share(value))
    axes.grid(color=INKS["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    plain(axes)
    _name_points(axes, {name: (seconds, found.value) for name, (seconds, found) in points.items()})
    return svg_of(drawing, label, prefix)


def _name_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each point's name beside it, moved down where it would lie on another."""
    bottom, top = axes.get_ylim()
    start, end = np.log10(axes.get_xlim())

    def place(x: float, y: float) -> tuple[float, float]:
        return (np.log10(x) - start) / (end - start), (y - bottom) / (top - bottom)

    # from, to and height of what is drawn, in shares of the axes: the dots, then each name
    placed = [(left - 0.006, left + 0.006, height) for left, height in (place(x, y) for x, y in points.values())]
    for name, (x, y) in sorted(points.items(), key=lambda pair: -pair[1][1]):
        shown = cut(name)
        left, height = place(x, y)
        left += 0.012
        right = left + 0.021 * len(shown)
        while any(left < b and right > a and abs(height - h) < LABEL_HEIGHT for a, b, h in placed):
            height -= LABEL_HEIGHT / 4
        placed.append((left, right, height))
        axes.text(left, height, shown, transform=axes.transAxes, fontsize=8, va="center", color=INKS["ink"],
                  parse_math=False)  # fmt: skip


def names_and_shares(rows: Sequence[tuple[str, Interval]]) -> str:
    """What a screen reader says of a figure of intervals."""
    return ", ".join(f"{name} {share(found.value)}" for name, found in rows)
