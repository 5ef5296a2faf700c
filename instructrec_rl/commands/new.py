"""`instructrec-rl new env NAME` and `new reward NAME`: working files to start from, in the current directory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError, Item, nearest
from instructrec_rl.core.command_line import Parser
from instructrec_rl.core.files import write_text_atomic

ENV_YAML = """name: {name}
version: 1
description: Recommend a tea (made by `instructrec-rl new env`; put your own items and instructions here)
format: catalog
action: choose
metrics: [constraints, exact_match, rouge]
"""

README = """# {name}

What is asked, who wrote it, and under which licence: say so here.

- `items.jsonl`: what can be recommended. A line has `id`, `name`, `text` (what the policy answers) and any attributes.
- `instructions.jsonl`: what is asked. A line has `id`, `instruction` and `best` (ids of the right items); `constraints`
  (what the wording demands of an item's attributes) is needed by `reward=constraints` only.
- No line has a `split`, so a hash of the ids makes train, validation and test, 80/10/10.

    instructrec-rl check env {name}
    python -m instructrec_rl.run env={name}
"""

TEAS: list[dict[str, Any]] = [
    {"id": "mint", "name": "Mint", "kind": "herbal", "caffeine": "no", "flavours": ["fresh"], "price": 4},
    {"id": "rooibos", "name": "Rooibos", "kind": "herbal", "caffeine": "no", "flavours": ["sweet"], "price": 5},
    {"id": "sencha", "name": "Sencha", "kind": "green", "caffeine": "low", "flavours": ["fresh", "grassy"], "price": 8},
    {"id": "earl_grey", "name": "Earl Grey", "kind": "black", "caffeine": "high", "flavours": ["citrus"], "price": 6},
    {"id": "chai", "name": "Chai", "kind": "black", "caffeine": "high", "flavours": ["spicy", "sweet"], "price": 7},
]

# An instruction with what it demands: (attribute, op, value), in the ops of instructrec_rl/constraints.py.
ASKED: list[tuple[str, list[tuple[str, str, Any]]]] = [
    ("I'd like something without caffeine.", [("caffeine", "is", "no")]),
    ("A black tea, please.", [("kind", "is", "black")]),
    ("Anything with a citrus note?", [("flavours", "has", "citrus")]),
    ("Something sweet, but no caffeine.", [("flavours", "has", "sweet"), ("caffeine", "is", "no")]),
    (
        "I want a fresh taste and I don't mind a little caffeine.",
        [("flavours", "has", "fresh"), ("kind", "is", "green")],
    ),
    ("A herbal tea under five dollars.", [("kind", "is", "herbal"), ("price", "at_most", 4)]),
    ("Wake me up with something spicy.", [("caffeine", "is", "high"), ("flavours", "has", "spicy")]),
    ("Black tea, not spicy.", [("kind", "is", "black"), ("flavours", "lacks", "spicy")]),
    ("Neither black nor green.", [("kind", "none_of", ["black", "green"])]),
    ("The budget is six dollars and I need caffeine.", [("price", "at_most", 6), ("caffeine", "is_not", "no")]),
    ("Fresh and free of caffeine.", [("flavours", "has", "fresh"), ("caffeine", "is", "no")]),
    ("Do you have a green tea?", [("kind", "is", "green")]),
    ("Sweet, with plenty of caffeine.", [("flavours", "has", "sweet"), ("caffeine", "is", "high")]),
    ("Something grassy.", [("flavours", "has", "grassy")]),
    (
        "I can spend up to five dollars, and I don't like mint's fresh taste.",
        [("price", "at_most", 5), ("flavours", "lacks", "fresh")],
    ),
]

REWARD_PY = '''"""Token overlap: the F1 of the words that a response shares with its best reference."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from instructrec_rl.core import Batch


@dataclass
class Config:
    """Options, set on the command line as `reward.fold_case=false`."""

    fold_case: bool = True


def score(batch: Batch, config: Config) -> np.ndarray:
    """(B,) floats in [0, 1]: 1 where a response has exactly the words of a reference, 0 where it shares none."""
    texts = {{*batch.responses, *chain.from_iterable(batch.references)}}
    words = {{text: frozenset((text.casefold() if config.fold_case else text).split()) for text in texts}}
    best = [
        max((_f1(words[response], words[reference]) for reference in references), default=0.0)
        for response, references in zip(batch.responses, batch.references, strict=True)
    ]
    return np.array(best, dtype=np.float64)


def _f1(response: frozenset[str], reference: frozenset[str]) -> float:
    """2 |A and B| / (|A| + |B|), the harmonic mean of precision and recall (Dice 1945)."""
    total = len(response) + len(reference)
    return 2 * len(response & reference) / total if total else 1.0
'''


def main(argv: list[str]) -> None:
    """Write the files and print what to run next. Raises InputError for a bad name and for one that is taken."""
    parser = Parser(prog="instructrec-rl new", description="Write a working environment or reward to start from.")
    parser.add_argument("kind", help="env or reward")
    parser.add_argument("name", help="lower case letters, digits and _")
    arguments = parser.parse_args(argv)
    makers = {"env": new_env, "reward": new_reward}
    if arguments.kind not in makers:
        raise InputError(f'new: there is no kind "{arguments.kind}".{nearest(arguments.kind, makers)}')
    if not re.fullmatch(r"[a-z][a-z0-9_]*", arguments.name):
        raise InputError(
            f'new: the name "{arguments.name}" must be lower case letters, digits and _, and begin with a letter'
        )
    makers[arguments.kind](arguments.name)


def new_env(name: str) -> None:
    """Write ./envs/<name>/ with 5 items and 15 instructions."""
    folder = Path("envs") / name
    _refuse_existing(folder)
    write_text_atomic(folder / "items.jsonl", _lines(_items()))
    write_text_atomic(folder / "instructions.jsonl", _lines(_instructions()))
    write_text_atomic(folder / "README.md", README.format(name=name))
    write_text_atomic(folder / "env.yaml", ENV_YAML.format(name=name))  # last: from here on it is found
    print(f"wrote {folder}/ with {len(TEAS)} items and {len(ASKED)} instructions")
    print(f"next: python -m instructrec_rl.run env={name}")


def new_reward(name: str) -> None:
    """Write ./rewards/<name>.py."""
    path = Path("rewards") / f"{name}.py"
    _refuse_existing(path)
    _refuse_existing(path.with_suffix(".yaml"))
    write_text_atomic(path, REWARD_PY.format())
    print(f"wrote {path}")
    print(f"next: python -m instructrec_rl.run reward={name}")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InputError("exists already; choose another name, or remove it first", path)


def _lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _items() -> list[dict[str, Any]]:
    text = "{name}: {kind}, {caffeine} caffeine, {flavour}, ${price}"
    return [{**tea, "text": text.format(flavour=" and ".join(tea["flavours"]), **tea)} for tea in TEAS]


def _instructions() -> list[dict[str, Any]]:
    """The instructions with every item that satisfies all their constraints as `best`."""
    from instructrec_rl.env.constraints import satisfies

    items = [Item(tea["id"], tea["name"], "", tea) for tea in TEAS]
    records = []
    for number, (instruction, demands) in enumerate(ASKED, start=1):
        constraints = [{"kind": a, "attribute": a, "op": op, "value": value} for a, op, value in demands]
        right = [satisfies(constraint, items) for constraint in constraints]
        best = [item.id for i, item in enumerate(items) if all(row[i] for row in right)]
        records.append({"id": f"i{number:02d}", "instruction": instruction, "best": best, "constraints": constraints})
    return records
