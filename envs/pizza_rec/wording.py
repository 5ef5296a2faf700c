"""Turn constraints into an instruction: pick a frame, a phrasing for each constraint, and join the clauses."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grammar import JOIN_FORMS, JOIN_LIMIT, POST_ORDER, PRE_ORDER, WORDS, agree, compose

VARIABLE = re.compile(r"\{(\d[ab]?)?\.?([a-z]*)\}")


@dataclass(frozen=True)
class Constraint:
    """`op` applied to an item's `attribute` with `value`; `kind` is what failures are reported by."""

    kind: str
    attribute: str
    op: str
    value: Any  # str, int, or a tuple of str for any_of

    def record(self) -> dict[str, Any]:
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return {"kind": self.kind, "attribute": self.attribute, "op": self.op, "value": value}

    def values(self) -> tuple[Any, ...]:
        return self.value if isinstance(self.value, tuple) else (self.value,)


@dataclass
class Pool:
    """The wording one split may draw from. `surfaces` holds a value's names; `rare` those kept for this split."""

    frames: list[str]
    phrasings: set[str]
    constructions: list[str]
    surfaces: dict[tuple[str, str], list[str]]
    rare: dict[tuple[str, str], list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """What goes into one clause. `options`: form -> [(template, phrasing id of each constraint)]."""

    indices: tuple[int, ...]
    options: dict[str, list[tuple[str, tuple[str, ...]]]]


def list_phrasings(wording: dict[str, Any]) -> dict[str, tuple[str, str, str | None, str]]:
    """Phrasing id -> (kind, form, the one value it fits or None, template)."""
    found = {}
    for kind, forms in wording["phrasings"].items():
        for form, templates in forms.items():
            for number, text in enumerate(templates):
                value, bar, template = text.rpartition("|")
                found[f"{kind}.{form}.{number}"] = (kind, form, value if bar else None, template)
    return found


def list_frames(wording: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Frame id -> (join, template)."""
    return {f"{join}.{i}": (join, text) for join, texts in wording["frames"].items() for i, text in enumerate(texts)}


class Writer:
    """Writes instructions with one wording and one menu."""

    def __init__(self, wording: dict[str, Any], menu: dict[str, Any]):
        self.menu = menu
        self.frames = list_frames(wording)
        self.phrasings = list_phrasings(wording)
        self.crossings: dict[str, dict[str, Any]] = wording["crossings"]

    def write(
        self, constraints: Sequence[Constraint], crossing: str | None, pool: Pool, rng: random.Random
    ) -> tuple[str, str, list[str]] | None:
        """The instruction, its frame's id and the phrasing ids; None where this pool cannot say it."""
        fields = self.name_values(constraints, pool, rng)
        chunks = self.chunks(constraints, crossing, pool)
        if any(not chunk.options for chunk in chunks):
            return None
        for _ in range(40):
            frame = rng.choice(pool.frames)
            laid = self.lay_out(frame, chunks, constraints, rng)
            if laid is None:
                continue
            parts, ids = laid
            filled = {slot: [fill(template, at, fields) for template, at in texts] for slot, texts in parts.items()}
            return compose(*self.frames[frame], filled, rng), frame, ids
        return None

    def chunks(self, constraints: Sequence[Constraint], crossing: str | None, pool: Pool) -> list[Chunk]:
        """The crossing construction's chunk first, then a chunk for every other constraint."""
        chunks, used = [], 0
        if crossing is not None:
            form = self.crossings[crossing]
            used = sum(form["pack"]) if "pack" in form else len(form["slots"])
            ids = tuple([f"x.{crossing}"] * used)
            if "pack" in form:
                options = self.pack_options(constraints[:used], form["pack"], pool)
            else:
                options = {key: [(text, ids)] for key, text in form.items() if key != "slots"}
            chunks.append(Chunk(tuple(range(used)), options))
        for index in range(used, len(constraints)):
            by_form: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
            for name, form_name, template in self.usable(constraints[index], pool):
                times = 1 if self.phrasings[name][2] is None else 4  # as often over all values as the others
                by_form.setdefault(form_name, []).extend([(template, (name,))] * times)
            chunks.append(Chunk((index,), by_form))
        return chunks

    def usable(self, constraint: Constraint, pool: Pool) -> list[tuple[str, str, str]]:
        """(id, form, template) of the pool's phrasings that say this constraint."""
        if constraint.op in ("any_of", "at_least"):
            return []  # only a crossing construction says these
        return [
            (name, form, template)
            for name, (kind, form, value, template) in self.phrasings.items()
            if name in pool.phrasings and kind == constraint.kind and value in (None, str(constraint.value))
        ]

    def pack_options(
        self, constraints: Sequence[Constraint], shape: Sequence[int], pool: Pool
    ) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
        """Every way to say the first shape[0] constraints before the noun and the others after it."""
        texts: list[tuple[str, tuple[str, ...]]] = [("", ())]
        for index, constraint in enumerate(constraints):
            wanted = "pre" if index < shape[0] else "post"
            ways = [(t, name) for name, form, t in self.usable(constraint, pool) if form == wanted]
            texts = [(f"{done}\n{renumber(t, index)}", (*ids, name)) for done, ids in texts for t, name in ways]
        return {f"pack{shape[0]}": texts} if texts else {}

    def lay_out(
        self, frame: str, chunks: Sequence[Chunk], constraints: Sequence[Constraint], rng: random.Random
    ) -> tuple[dict[str, list[tuple[str, tuple[int, ...]]]], list[str]] | None:
        """Templates for the places in a frame (pre, post, rest), and each constraint's phrasing id."""
        join, text = self.frames[frame]
        forms, limit = JOIN_FORMS[join], JOIN_LIMIT.get(join, 3)
        parts: dict[str, list[tuple[str, tuple[int, ...]]]] = {"pre": [], "post": [], "rest": []}
        ids = [""] * len(constraints)
        rest = list(chunks)
        if any(slot in text for slot in ("{np}", "{bare}", "{thing}")):
            heads = [c for c in rest if noun_forms(c, "{thing}" in text)]
            inside = [c for c in heads if not any(form in c.options for form in forms)] or heads
            if inside and (len(rest) == 1 or rng.random() < 0.85 or inside is not heads):
                head = rng.choice(inside)
                rest.remove(head)
                shapes = noun_forms(head, "{thing}" in text)
                form, template, names = rng.choice([(form, *way) for form in shapes for way in head.options[form]])
                place_in_noun_phrase(parts, form, template, head, constraints)
                record(ids, head, names)
        bare_np = not parts["pre"] and not parts["post"]
        if (not rest and (bare_np or "{rest}" in text.split("[")[0])) or (bare_np and "{thing}" in text):
            return None
        if len(rest) > limit:
            return None
        rng.shuffle(rest)
        for chunk in rest:
            ways = [way for form in forms for way in chunk.options.get(form, []) if not set(way[1]) & set(ids)]
            ways = [way for way in ways if join != "so" or "," not in way[0]]
            if not ways:
                return None
            template, names = rng.choice(ways)
            parts["rest"].append((template, chunk.indices))
            record(ids, chunk, names)
        return parts, ids

    def name_values(
        self, constraints: Sequence[Constraint], pool: Pool, rng: random.Random
    ) -> list[list[dict[str, str]]]:
        """For each constraint and each of its values, the words that templates may use."""
        price = rng.choice(pool.surfaces["price", ""])
        if pool.rare.get(("price", "")) and rng.random() < 0.35:
            price = rng.choice(pool.rare["price", ""])
        fields = []
        for constraint in constraints:
            table = "no_spice" if constraint.kind == "no_spice" else constraint.attribute
            named = []
            for value in constraint.values():
                if table == "price":
                    said = {"v": price.format(n=value, words=WORDS[value]), "n": str(value)}
                else:
                    names = pool.surfaces[table, value]
                    rare = pool.rare.get((table, value))
                    if rare and rng.random() < 0.35:
                        names = rare
                    name = rng.choice([names[0], *names])  # the plain name somewhat more often
                    entry = self.menu[table][value]
                    said = {k: v for k, v in entry.items() if isinstance(v, str)} | agree(name)
                named.append(said)
            fields.append(named)
        return fields


def record(ids: list[str], chunk: Chunk, names: Sequence[str]) -> None:
    """Note which phrasing says each of the chunk's constraints."""
    for index, name in zip(chunk.indices, names, strict=True):
        ids[index] = name


def noun_forms(chunk: Chunk, only_post: bool) -> list[str]:
    """The forms in which the chunk may stand around the noun, or only after it."""
    forms = ("post", "pack0") if only_post else ("pre", "post", "pack0", "pack1", "pack2")
    return [form for form in forms if form in chunk.options]


def place_in_noun_phrase(
    parts: dict[str, list[tuple[str, tuple[int, ...]]]],
    form: str,
    template: str,
    head: Chunk,
    constraints: Sequence[Constraint],
) -> None:
    """Put a head's templates before and after the noun, in the order English likes."""
    if not form.startswith("pack"):
        parts[form].append((template, head.indices))
        return
    pieces = list(zip(head.indices, template.strip("\n").split("\n"), strict=True))
    pre = int(form[4:])
    before = sorted(pieces[:pre], key=lambda piece: PRE_ORDER.index(constraints[piece[0]].kind))
    after = sorted(pieces[pre:], key=lambda piece: POST_ORDER.index(constraints[piece[0]].kind))
    parts["pre"] += [(text, head.indices) for _, text in before]
    parts["post"] += [(text, head.indices) for _, text in after]


def renumber(template: str, index: int) -> str:
    """{v} as {1.v}, so that a template keeps its constraint when several stand in one noun phrase."""
    return VARIABLE.sub(lambda found: "{" + f"{index + 1}.{found.group(2) or 'v'}" + "}", template)


def fill(template: str, at: tuple[int, ...], fields: Sequence[Sequence[dict[str, str]]]) -> str:
    """The template with its variables filled; `at` are the constraints that its slots 1, 2, ... name."""

    def word(found: re.Match[str]) -> str:
        slot, key = found.group(1) or "1", found.group(2) or "v"
        named = fields[at[int(slot[0]) - 1]]
        return named[1 if slot.endswith("b") else 0][key]

    return VARIABLE.sub(word, template)
