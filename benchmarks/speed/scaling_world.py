"""Catalog environments of any size for scaling.py: furniture by eight attributes, asked for by two to five of them.

Instructions are made of a few hundred clauses ("made of oak", "nothing over 40 coins"), so that with `state: clauses`
the encoder reads those and not a million sentences. Nothing else about them is easier: every text, record and set of
right items is written out, and read, checked and stored as any other environment's is.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

VALUES = {
    "kind": ["chair", "table", "lamp", "shelf", "desk", "bench", "stool", "cabinet", "wardrobe", "mirror"],
    "material": ["oak", "steel", "glass", "bamboo", "leather", "marble", "pine", "copper", "wool", "plastic"],
    "colour": ["red", "green", "blue", "yellow", "black", "white", "grey", "purple", "orange", "brown"],
    "style": [
        "baroque",
        "modern",
        "rustic",
        "nordic",
        "gothic",
        "japanese",
        "tropical",
        "colonial",
        "minimalist",
        "industrial",
    ],
    "room": ["kitchen", "bedroom", "bathroom", "office", "garage", "garden", "hallway", "nursery", "attic", "cellar"],
    "maker": ["Aldo", "Brenna", "Corvin", "Delphi", "Ettore", "Fjord", "Galen", "Hanko", "Ibsen", "Juno"],
    "feature": ["wheels", "drawers", "cushions", "hooks", "lights", "handles", "hinges", "stripes", "cables", "locks"],
}
PRICES = range(10, 60, 5)
WAYS = {
    "kind": ("a {} is what I need", "it has to be a {}", "show me a {}"),
    "material": ("made of {}", "{} as the material", "built from {}"),
    "colour": ("in {}", "painted {}", "the colour {}"),
    "style": ("with a {} look", "in {} style", "something {}"),
    "room": ("for the {}", "to put in my {}", "it goes into the {}"),
    "maker": ("from the maker {}", "signed by {}", "a {} original"),
    "feature": ("with {}", "it must have {}", "{} are a must"),
    "price": ("nothing over {} coins", "for at most {} coins", "I can pay {} coins"),
}
OPENERS = ("hello", "good morning", "hi there", "excuse me", "one question", "listen", "please help", "dear shop")
MAX_BEST = 20  # right items that are written down for an instruction
HEADER = """name: scaling
version: 1
format: catalog
action: choose
state: clauses
metrics: [constraints, exact_match]
description: Furniture by eight attributes, made by benchmarks/speed/scaling_world.py
"""


def write_world(folder: Path, num_items: int, num_instructions: int, seed: int = 0) -> None:
    """Write env.yaml, items.jsonl and instructions.jsonl into `folder`; a tenth each is validation and test."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "env.yaml").write_text(HEADER)
    names = [*VALUES, "price"]
    codes = rng.integers(10, size=(num_items, len(names)))
    with (folder / "items.jsonl").open("w") as file:
        for number, row in enumerate(codes.tolist()):
            file.write(json.dumps(item(number, row)) + "\n")
    # which items have each value, as bits: sets of right items are then a few ANDs
    holders = np.stack([[np.packbits(_fits(codes[:, k], value, name)) for value in range(10)]
                        for k, name in enumerate(names)])  # fmt: skip
    with (folder / "instructions.jsonl").open("w") as file:
        for number in range(num_instructions):
            target = codes[rng.integers(num_items)]
            asked = rng.permutation(len(names))[: rng.integers(2, 6)].tolist()
            bits = holders[asked[0], target[asked[0]]]
            for k in asked[1:]:
                bits = bits & holders[k, target[k]]
            best = np.flatnonzero(np.unpackbits(bits, count=num_items))[:MAX_BEST].tolist()
            file.write(json.dumps(instruction(number, {names[k]: int(target[k]) for k in asked}, best, rng)) + "\n")


def item(number: int, codes: list[int]) -> dict[str, object]:
    held: dict[str, object] = {name: VALUES[name][code] for name, code in zip(VALUES, codes)}
    text = " ".join(str(value) for value in held.values())
    return {"id": f"i{number}", "name": f"No. {number}", "text": f"No. {number} {text} {PRICES[codes[-1]]} coins",
            **held, "price": PRICES[codes[-1]]}  # fmt: skip


def instruction(number: int, asked: dict[str, int], best: list[int], rng: np.random.Generator) -> dict[str, object]:
    clauses, constraints = [OPENERS[rng.integers(len(OPENERS))]], []
    for name, code in asked.items():
        value: str | int = PRICES[code] if name == "price" else VALUES[name][code]
        clauses.append(WAYS[name][rng.integers(3)].format(value))
        op = "at_most" if name == "price" else "is"
        constraints.append({"kind": name, "attribute": name, "op": op, "value": value})
    split = ("validation", "test")[number % 10] if number % 10 < 2 else "train"
    return {"id": f"r{number}", "instruction": ", ".join(clauses), "split": split,
            "best": [f"i{place}" for place in best], "constraints": constraints}  # fmt: skip


def clauses() -> list[str]:
    """Every clause that an instruction may hold."""
    values = {**VALUES, "price": [str(price) for price in PRICES]}
    written = (way.format(value) for name, ways in WAYS.items() for way, value in itertools.product(ways, values[name]))
    return [*OPENERS, *written]


def _fits(column: np.ndarray, value: int, name: str) -> np.ndarray:
    return column <= value if name == "price" else column == value
