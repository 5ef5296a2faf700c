"""What a report of several runs is built of: sections of tables, figures and sentences, as HTML and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from instructrec_rl.core.inert import markdown, markdown_paragraph, printable
from instructrec_rl.report.one_run.sections import framed, section, text
from instructrec_rl.report.statistics.intervals import Interval
from instructrec_rl.run.screen import share

WIDE = 9  # columns: a table with more is set smaller on paper
FOLDED_FROM = 16  # rows: a longer list is folded on the page, and whole in the Markdown


class Cell(NamedTuple):
    """A cell: its text, what stands small behind it, how strongly it is tinted (0 to 1), and whether it is bold."""

    text: str
    small: str = ""
    heat: float | None = None
    bold: bool = False

    def html(self) -> str:
        """The cell's <td>."""
        shown = f"<b>{text(self.text)}</b>" if self.bold else f"<span>{text(self.text)}</span>"
        shown += f"<small>{text(self.small)}</small>" if self.small else ""
        if self.heat is None:
            return f"<td>{shown}</td>"
        return f'<td class="heat" style="--h:{min(max(self.heat, 0.0), 1.0):.2f}">{shown}</td>'

    def markdown(self) -> str:
        """The cell in a row of a Markdown table."""
        shown = markdown(f"{self.text} {self.small}")
        return f"**{shown}**" if self.bold else shown


@dataclass(frozen=True)
class Table:
    """A table; each row's first cell is its head. words: whether cells hold words, and so stand to the left."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: bool = False

    def html(self) -> str:
        """The table in a box that scrolls by itself; a long list of words is folded."""
        kind, said = "words" if self.words else "plain" if len(self.head) <= WIDE else "plain many", text(self.caption)
        rows = [[text(row[0].text), *(cell.html() for cell in row[1:])] for row in self.rows]
        shown = framed(self.caption, f"<b>{said}</b>", self.head, rows, kind)
        if self.words and len(self.rows) >= FOLDED_FROM:
            return f"<details><summary>{said}: {len(self.rows)} rows</summary>{shown}</details>"
        return shown

    def markdown(self) -> str:
        """The table in Markdown, its caption above."""
        rule = "---" if self.words else "---:"
        heads = [markdown(head) for head in self.head]
        lines = [
            heads,
            ["---", *[rule] * (len(self.head) - 1)],
            *([cell.markdown() for cell in row] for row in self.rows),
        ]
        return f"{markdown_paragraph(self.caption)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Figure:
    """A figure of the page; Markdown has none, as its figures are in the tables."""

    caption: str
    svg: str
    wide: bool = False

    def html(self) -> str:
        """The figure with its caption."""
        kind = ' class="whole"' if self.wide else ""
        return f"<figure{kind}><figcaption><b>{text(self.caption)}</b></figcaption>{self.svg}</figure>"

    def markdown(self) -> str:
        """Nothing."""
        return ""


@dataclass(frozen=True)
class Lines:
    """Sentences, one below the other."""

    lines: Sequence[str]

    def html(self) -> str:
        """A list."""
        return f'<ul class="said">{"".join(f"<li>{text(line)}</li>" for line in self.lines)}</ul>' if self.lines else ""

    def markdown(self) -> str:
        """A list."""
        return "\n".join(f"- {markdown_paragraph(line)}" for line in self.lines)


@dataclass(frozen=True)
class Code:
    """A command."""

    command: str

    def html(self) -> str:
        """A block of code."""
        return f"<pre><code>{text(self.command)}</code></pre>"

    def markdown(self) -> str:
        """A block of code."""
        return "\n".join(f"    {printable(line)}" for line in self.command.splitlines())


@dataclass(frozen=True)
class Answered:
    """An instruction and its answers: (variants that gave it, the answer, their scores, the constraints it misses)."""

    where: str
    instruction: str
    answers: Sequence[tuple[Sequence[str], str, Sequence[float], Sequence[str]]]

    def html(self) -> str:
        """An article."""
        listed = "".join(
            f'<dt>{text(", ".join(names))}</dt><dd dir="auto">{text(answer) or "<i>nothing</i>"} '
            f"<small>{_scores(scores)}</small>{self._missed(missed)}</dd>"
            for names, answer, scores, missed in self.answers
        )
        return (
            f"<article>\n<header><span>{text(self.where)}</span></header>\n"
            f'<h3 dir="auto">{text(self.instruction)}</h3>\n<dl>{listed}</dl>\n</article>\n'
        )

    @staticmethod
    def _missed(missed: Sequence[str]) -> str:
        return f'<div class="missed">✗ {text(", ".join(missed))}</div>' if missed else ""

    def markdown(self) -> str:
        """The instruction with a list of the answers."""
        lines = [f"**{markdown(self.instruction)}** ({markdown(self.where)})", ""]
        for names, answer, scores, missed in self.answers:
            misses = f", misses {', '.join(missed)}" if missed else ""
            said = f"{', '.join(names)}: {' '.join(answer.split()) or 'nothing'} ({_scores(scores)}){misses}"
            lines.append(f"- {markdown_paragraph(said)}")
        return "\n".join(lines)


def _scores(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:.2f}" for score in scores)


Part = Table | Figure | Lines | Code | Answered


@dataclass(frozen=True)
class Section:
    """A heading, a note and its parts."""

    heading: str
    note: str
    parts: list[Part] = field(default_factory=list)

    def html(self) -> str:
        """The section; figures beside each other where they fit, and likewise articles."""
        shown, row = [], list(self.parts)
        while row:
            kind = type(row[0])
            same = [row.pop(0)]
            while row and type(row[0]) is kind and not (isinstance(row[0], Figure) and row[0].wide):
                same.append(row.pop(0))
            inside = "".join(part.html() for part in same)
            box = {Figure: "plots wide", Answered: "samples"}.get(kind)
            shown.append(f'<div class="{box}">{inside}</div>' if box else inside)
        return section(self.heading, self.note, *shown)

    def markdown(self) -> str:
        """The section."""
        parts = [part.markdown() for part in self.parts]
        return "\n\n".join(
            part for part in (f"## {markdown(self.heading)}", markdown_paragraph(self.note), *parts) if part
        )


def spanned(found: Interval, places: int = 0) -> str:
    """An interval's ends in per cent, "[38, 47]"; a dash where there are too few seeds."""
    if not math.isfinite(found.low):
        return ""
    return f"[{100 * found.low:.{places}f}, {100 * found.high:.{places}f}]"


def heated(found: Interval) -> Cell:
    """A cell with a normalised score and its interval, tinted by the score."""
    return Cell(share(found.value), spanned(found), found.value if math.isfinite(found.value) else None)
