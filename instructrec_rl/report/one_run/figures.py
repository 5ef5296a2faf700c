"""The report's figures: matplotlib as inline SVG in the page's own colours, so that light and dark both fit.

matplotlib is imported by the functions that draw, through `Figure` and never pyplot, so nothing global changes.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from instructrec_rl.run.screen import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each ink is drawn in a colour that nothing else has and then written as the CSS variable of the same name.
INKS = {
    name: f"#0a0b{16 + i:02x}"
    for i, name in enumerate(("ink", "dim", "line", "quiet", "accent", "c2", "c3", "c4", "page"))
}
LINES = [("accent", "-"), ("c2", "--"), ("c3", "-."), ("c4", ":"), ("dim", (0, (5, 1, 1, 1, 1, 1)))]
MAX_POINTS = 600  # a line has no more pixels to show
LABEL_UNITS = 18  # of half a character's width: longer names are cut


def bars_svg(names: Sequence[str], values: Sequence[float | None], label: str, prefix: str, raw: bool = False) -> str:
    """One split: a horizontal bar for each name (the first, the policy, in the accent colour) with its value in words.

    values: normalised (0 random, 1 the oracle), or raw means in [0, 1]; None draws no bar. label: what a screen
    reader says; prefix: makes the ids unique in the page.
    """
    from matplotlib.figure import Figure

    # lay out the figure
    shown = [0.0 if value is None else value for value in values]
    low, high = min(0.0, *shown), max(1.0, *shown)
    units = [cut(name) for name in names]
    left = 0.16 + 0.066 * max(_units(name) for name in units)
    width, height = 3.0, 0.34 + 0.225 * len(names)
    drawing = Figure(figsize=(width, height))
    axes = drawing.add_axes((left / width, 0.28 / height, (width - left - 0.5) / width, (height - 0.32) / height))
    colours = [INKS["accent"], *[INKS["quiet"]] * (len(names) - 1)]
    # draw the bars with their values
    axes.barh(range(len(names)), shown, height=0.62, color=colours[: len(names)])
    for row, (name, value, given) in enumerate(zip(units, shown, values)):
        weight, ink = ("bold", INKS["accent"]) if row == 0 else ("normal", INKS["ink"])
        words = "–" if given is None else f"{value:.3f}" if raw else share(value)
        axes.annotate(words, (max(value, 0.0), row), (4, 0), textcoords="offset points", va="center", fontsize=8,
                      color=ink, weight=weight, parse_math=False,
                      bbox={"facecolor": INKS["page"], "linewidth": 0, "pad": 0.8})  # fmt: skip
        axes.text(-0.08 / (width - left - 0.5), row, name, transform=axes.get_yaxis_transform(), ha="right",
                  va="center", fontsize=8, color=ink, weight=weight, parse_math=False)  # fmt: skip
    # mark random and oracle
    axes.set_xlim(low, high)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xticks([0, 1], ["0", "1"] if raw else ["random", "oracle"])
    plain(axes)
    axes.axvline(0, color=INKS["dim"], linewidth=0.8)
    axes.axvline(1, color=INKS["dim"], linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    return svg_of(drawing, label, prefix)


def curves_svg(lines: Sequence[dict[str, Any]], keys: Sequence[str], best_step: int | None, label: str,
               prefix: str, parted_step: int | None = None) -> str:  # fmt: skip
    """Logged values against interactions (below) and CPU seconds (above): one line for each key of metrics.jsonl.

    best_step: the interactions at which the kept policy was saved, marked by a vertical line; parted_step: likewise
    where the training reward and the task metric parted.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.6, 3.1), layout="constrained")
    axes = drawing.add_subplot()
    # draw the values
    for position, key in enumerate(keys):
        points = _points(lines, key)
        colour, dashes = LINES[position % len(LINES)]
        marker = "o" if len(points) < 40 else ""
        line = axes.plot(*zip(*points), color=INKS[colour], linestyle=dashes, marker=marker, markersize=2.6,
                         linewidth=1.5)[0]  # fmt: skip
        line.set_label(key.removeprefix("validation/"))
    # mark what happened
    if best_step is not None:
        axes.axvline(best_step, color=INKS["dim"], linewidth=0.8, linestyle=(0, (2, 2)), label="kept policy")
    if parted_step is not None:
        axes.axvline(parted_step, color=INKS["c2"], linewidth=1.2, zorder=1,
                     label="reward and metric part")  # fmt: skip
    # label the axes
    axes.margins(y=0.08)
    axes.set_xlim(0, max(1, *(line["step"] for line in lines)) * 1.02)
    axes.set_xlabel("interactions", fontsize=8, color=INKS["dim"])
    axes.xaxis.set_major_formatter(thousands)
    axes.grid(axis="y", color=INKS["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    plain(axes)
    _cpu_axis(axes, lines)
    # name the lines
    legend = drawing.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=INKS["ink"])
    for name in legend.get_texts():
        name.set_parse_math(False)
    return svg_of(drawing, label, prefix)


def _points(lines: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    stride = -(-len(points) // MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def _cpu_axis(axes: Axes, lines: Sequence[dict[str, Any]]) -> None:
    """CPU seconds along the top edge: round figures, each at the interactions reached by then."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    pairs = [(line["cpu_s"], line["step"]) for line in lines if "cpu_s" in line]
    if len(pairs) < 2 or pairs[-1][0] <= pairs[0][0]:
        return
    seconds, steps = np.array(pairs, dtype=float).T
    ticks = [t for t in MaxNLocator(5).tick_values(seconds[0], seconds[-1]) if seconds[0] <= t <= seconds[-1]]
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    top.set_xticks(np.interp(ticks, seconds, steps), [f"{tick:g}" for tick in ticks])
    top.set_xlabel("CPU seconds", fontsize=8, color=INKS["dim"])
    plain(top)


def thousands(value: float, _: float | None) -> str:
    """A tick's label: 20k for 20,000."""
    return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def plain(axes: Axes) -> None:
    """Take the frame and the ticks' marks off."""
    axes.patch.set_alpha(0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=INKS["dim"])


def _units(text: str) -> int:
    """The width of a text in Latin characters; Chinese ones count twice (matplotlib has no metrics for them)."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str) -> str:
    """A name as it fits beside a figure."""
    if _units(text) <= LABEL_UNITS:
        return text
    while _units(text) >= LABEL_UNITS:
        text = text[:-1]
    return text + "…"


def svg_of(drawing: Figure, label: str, prefix: str) -> str:
    """The drawing as an <svg> element to be put in a page: unique ids, CSS colours, no metadata, no namespaces."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser draws the text, not we
        drawing.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    opening, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    rest = re.sub(r'(<[^>]*?)(\bid="|url\(#|href="#)', rf"\1\2{prefix}-", rest)
    for name, colour in INKS.items():
        rest = rest.replace(colour, f"var(--{name})")
    return f'<svg {box.group() if box else ""} role="img" aria-label="{escape(label)}">{rest.strip()}'
