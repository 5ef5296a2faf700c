"""Write pizza_rec's items and instructions from one seed: `python generate.py [--check] [--out DIR]`.

The words are in menu.yaml and wording.yaml. The same seed and words give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from asking import SEED, TIERS, WORDING_SHARES, Asker, Catalog, Plan
from catalog import Menu, Record, make_items, small_menu
from typos import misspell
from wording import Pool, Writer

HERE = Path(__file__).resolve().parent
TYPO_SHARE, CROSSING_SHARE = 0.15, 0.30
ROWS = {"train": 5200, "validation": 900} | dict.fromkeys(("iid", "frame", "phrase", "combo", "both", "cold"), 320)
PARTS = ("iid", "frame", "phrase", "combo")


def cut(names: list[str], rng: random.Random) -> dict[str, list[str]]:
    """The names, shuffled and cut in the wording shares."""
    names = rng.sample(names, len(names))
    first, second = (round(len(names) * sum(WORDING_SHARES[: n + 1])) for n in range(2))
    return {"train": sorted(names[:first]), "validation": sorted(names[first:second]), "test": sorted(names[second:])}


def make_pools(writer: Writer, wording: dict[str, Any], menu: Menu) -> dict[str, Pool]:
    """Pools by use: train, and a held-out frame or phrase pool for validation and for test."""
    rng = random.Random(f"{SEED}:pools")
    frames, crossings = cut(sorted(writer.frames), rng), cut(sorted(wording["crossings"]), rng)
    phrasings: dict[str, set[str]] = {name: set() for name in TIERS}
    for kind in wording["phrasings"]:
        for special in (False, True):  # a template is held out in every form that it stands in
            mine = {
                n: row[3] for n, row in writer.phrasings.items() if row[0] == kind and (row[2] is not None) == special
            }
            for name, templates in cut(sorted(set(mine.values())), rng).items():
                phrasings[name] |= {n for n, template in mine.items() if template in templates}
    tables = ("toppings", "diet", "spice", "no_spice", "crust", "sauce", "size", "allergens")
    surfaces = {(table, value): entry["say"] for table in tables for value, entry in menu[table].items()}
    surfaces["price", ""] = menu["price"]
    shared, rare = {}, {"validation": {}, "test": {}}  # type: ignore[var-annotated]
    for key, names in surfaces.items():
        others = rng.sample(names[1:], len(names) - 1)
        held = others[:2] if len(others) > 2 else others[:1]
        shared[key] = [name for name in names if name not in held]
        rare["test"][key] = held[:1]
        rare["validation"][key] = held[1:]
    pools = {"train": Pool(frames["train"], phrasings["train"], crossings["train"], shared)}
    for name in ("validation", "test"):
        pools[f"{name} frame"] = Pool(frames[name], phrasings["train"], crossings["train"], shared)
        pools[f"{name} phrase"] = Pool(frames["train"], phrasings[name], crossings[name], shared, rare[name])
    return pools


def make_plan(split: str, part: str, pools: dict[str, Pool]) -> Plan:
    name = "validation" if split == "validation" else "train" if split == "train" else "test"
    wanted = part if split == "validation" else split
    pool = {"frame": f"{name} frame", "phrase": f"{name} phrase", "both": f"{name} phrase"}.get(wanted, "train")
    return Plan(name, name if wanted in ("combo", "both") else "train", pools[pool], wanted == "cold")


def make_rows(catalog: Catalog, writer: Writer, pools: dict[str, Pool], known: frozenset[str]) -> list[Record]:
    asker = Asker(catalog, writer.crossings)
    rows: list[Record] = []
    seen: set[str] = set()
    for split, count in ROWS.items():
        rng = random.Random(f"{SEED}:{catalog.suffix}:{split}")
        crossed = marks(count, CROSSING_SHARE, rng)
        typos = marks(count, TYPO_SHARE, rng)
        for at in range(count):
            part = PARTS[at % len(PARTS)] if split == "validation" else ""
            plan = make_plan(split, part, pools)
            row = make_row(asker, writer, plan, crossed[at], typos[at], known, seen, rng)
            seen.add(row["instruction"].lower())
            head = {"id": f"{split}-{at + 1:04d}", "instruction": row.pop("instruction"), "split": split}
            rows.append(head | ({"part": part} if part else {}) | row)
    return rows


def marks(count: int, share: float, rng: random.Random) -> list[bool]:
    flags = [at < round(count * share) for at in range(count)]
    rng.shuffle(flags)
    return flags


def make_row(
    asker: Asker,
    writer: Writer,
    plan: Plan,
    crossed: bool,
    typo: bool,
    known: frozenset[str],
    seen: set[str],
    rng: random.Random,
) -> Record:
    """One instruction that has not been written before."""
    while True:
        crossing = rng.choice(plan.pool.constructions) if crossed else None
        count = rng.choices([1, 2, 3, 4], asker.catalog.counts)[0]
        drawn = next((d for _ in range(500) if (d := asker.draw(crossing, count, plan, rng))), None)
        written = drawn and writer.write(drawn[0], crossing, plan.pool, rng)
        if not drawn or not written:
            continue
        text, frame, phrasings = written
        slipped = misspell(text, known, rng) if typo else text
        if slipped is None or slipped.lower() in seen:
            continue
        return {
            "instruction": slipped,
            "best": drawn[1],
            "constraints": [constraint.record() for constraint in drawn[0]],
            "wording": "crossing" if crossed else "simple",
            "construction": crossing,
            "frame": frame,
            "phrasings": phrasings,
            "typo": typo,
        }


def to_jsonl(rows: list[Record]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)


def build() -> dict[str, str]:
    """File name -> content."""
    menu = yaml.safe_load((HERE / "menu.yaml").read_text("utf-8"))
    text = (HERE / "wording.yaml").read_text("utf-8")
    wording = yaml.safe_load(text)
    writer = Writer(wording, menu)
    pools = make_pools(writer, wording, menu)
    known = frozenset(re.findall(r"[a-zè-ñ]+", (text + json.dumps(menu, ensure_ascii=False)).lower()))
    files = {}
    for suffix, this_menu, regular, cold, counts, most_best in (
        ("", small_menu(menu), 60, 15, (12, 36, 33, 19), 10),
        (".large", menu, 500, 100, (0, 15, 45, 40), 15),
    ):
        items = make_items(this_menu, regular, cold, random.Random(f"{SEED}:items{suffix}"))
        catalog = Catalog(suffix, this_menu, items, regular, counts, most_best)
        files[f"items{suffix}.jsonl"] = to_jsonl(items)
        files[f"instructions{suffix}.jsonl"] = to_jsonl(make_rows(catalog, writer, pools, known))
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this one)")
    options = parser.parse_args()
    stale = []
    for name, content in build().items():
        path = options.out / name
        if options.check:
            if not path.exists() or path.read_bytes() != content.encode():
                stale.append(name)
            continue
        partial = path.with_name(name + ".partial")
        partial.write_bytes(content.encode())
        os.replace(partial, path)
    if stale:
        print(f"not what the seed gives: {', '.join(stale)}; run python {Path(__file__).name}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
