"""The bundled pizza data: it regenerates, its splits hold out what they say, and every label is right."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "envs" / "pizza_rec"
TESTS = ("iid", "frame", "phrase", "combo", "both", "cold")
CATALOGS = ["", ".large"]
Row = dict[str, Any]


@functools.cache
def read(name: str) -> list[Row]:
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


def items(suffix: str, split: str) -> list[Row]:
    return [item for item in read(f"items{suffix}.jsonl") if item.get("split", split) == split]


def rows(suffix: str, split: str, part: str | None = None) -> list[Row]:
    found = [row for row in read(f"instructions{suffix}.jsonl") if row["split"] == split]
    return found if part is None else [row for row in found if row["part"] == part]


def words(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


def meets(item: Row, constraint: Row) -> bool:
    found, value = item[constraint["attribute"]], constraint["value"]
    listed = found if isinstance(found, list) else [found]
    return {
        "has": lambda: value in listed,
        "lacks": lambda: value not in listed,
        "is": lambda: value == found,
        "is_not": lambda: value != found,
        "any_of": lambda: not set(value).isdisjoint(listed),
        "at_most": lambda: found <= value,
        "at_least": lambda: found >= value,
    }[constraint["op"]]()


def set_of(row: Row) -> frozenset[tuple[str, str, str]]:
    return frozenset((c["attribute"], c["op"], str(c["value"])) for c in row["constraints"])


def pairs_of(row: Row) -> set[tuple[Any, ...]]:
    units = set()
    for constraint in row["constraints"]:
        values = constraint["value"] if isinstance(constraint["value"], list) else [constraint["value"]]
        units |= {(constraint["attribute"], str(value)) for value in values}
    return set(itertools.combinations(sorted(units), 2))


def gather(found: list[Row], key: str) -> set[str]:
    values = [row[key] for row in found]
    return {v for value in values for v in (value if isinstance(value, list) else [value]) if v is not None}


@pytest.mark.slow
@pytest.mark.ci
def test_the_generator_gives_the_same_bytes(tmp_path):
    # a hash seed of its own: nothing may hang on the order of sets
    subprocess.run(
        [sys.executable, str(FOLDER / "generate.py"), "--out", str(tmp_path)],
        check=True,
        env={"PYTHONHASHSEED": "123", "PATH": ""},
        timeout=280,
    )
    for name in ("items.jsonl", "instructions.jsonl", "items.large.jsonl", "instructions.large.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_there_is_enough_wording():
    wording = words("wording.yaml")
    frames = [text for texts in wording["frames"].values() for text in texts]
    assert len(set(frames)) == len(frames) >= 60
    for kind, forms in wording["phrasings"].items():
        assert len({template for templates in forms.values() for template in templates}) >= 30, kind
    assert len(wording["crossings"]) >= 40
    used = read("instructions.jsonl")
    assert len(gather(used, "frame")) == len(frames)
    assert gather(used, "construction") == set(wording["crossings"])


@pytest.mark.parametrize("suffix", CATALOGS)
def test_items_are_distinct_and_counted(suffix):
    all_items = read(f"items{suffix}.jsonl")
    cold = [item for item in all_items if item.get("split") == "cold"]
    assert (len(all_items) - len(cold), len(cold)) == ((60, 15) if suffix == "" else (500, 100))
    assert all(item.get("split") == "cold" for item in all_items[-len(cold) :])
    for key in ("id", "name", "text", "chatty"):
        assert len({item[key] for item in all_items}) == len(all_items), key
    assert all(item["price"] % 1 == 0.5 for item in all_items)


@pytest.mark.parametrize("suffix", CATALOGS)
def test_diets_and_allergens_follow_from_the_recipe(suffix):
    menu = words("menu.yaml")
    for item in read(f"items{suffix}.jsonl"):
        parts = [menu["toppings"][topping] for topping in item["toppings"]]
        parts += [menu["sauce"][item["sauce"]], menu["crust"][item["crust"]]]
        allergens = {allergen for part in parts for allergen in part.get("allergens", [])}
        allergens |= set() if item["crust"] == "cauliflower" else {"gluten"}
        assert set(item["allergens"]) == allergens, item["id"]
        groups = {part["group"] for part in parts if "group" in part}
        milk = "dairy" in allergens
        assert ("vegan" in item["diet"]) == (groups <= {"veg"} and not milk), item["id"]
        assert ("vegetarian" in item["diet"]) == (groups <= {"veg", "cheese"}), item["id"]
        assert ("pescatarian" in item["diet"]) == (groups <= {"veg", "cheese", "fish"}), item["id"]
        assert ("halal" in item["diet"]) == ("pork" not in groups), item["id"]
        if "jalapeños" in item["toppings"]:
            assert item["spice"] != "mild", item["id"]


def test_every_value_is_met_by_some_items_but_not_by_most():
    regular = items("", "iid")
    for attribute, most in (("toppings", 0.4), ("spice", 0.5), ("crust", 0.4), ("sauce", 0.4), ("size", 0.5)):
        listed = [item[attribute] if isinstance(item[attribute], list) else [item[attribute]] for item in regular]
        for value in {v for values in listed for v in values}:
            assert 0.05 <= sum(value in values for values in listed) / len(regular) <= most, (attribute, value)


@pytest.mark.parametrize("suffix", CATALOGS)
def test_best_is_every_item_on_offer_that_meets_every_constraint(suffix):
    met: dict[str, set[str]] = {}  # constraint -> ids of the items that meet it
    for row in read(f"instructions{suffix}.jsonl"):
        for c in row["constraints"]:
            key = json.dumps(c)
            if key not in met:
                met[key] = {item["id"] for item in read(f"items{suffix}.jsonl") if meets(item, c)}
    for split in ("train", "validation", *TESTS):
        offer = [item["id"] for item in items(suffix, split)]
        for row in rows(suffix, split):
            right = set(offer).intersection(*(met[json.dumps(c)] for c in row["constraints"]))
            assert row["best"], row["id"]
            assert row["best"] == [name for name in offer if name in right], row["id"]
            assert len(right) <= (10 if suffix == "" else 15), row["id"]
    cold = {item["id"] for item in read(f"items{suffix}.jsonl") if item.get("split") == "cold"}
    assert all(set(row["best"]) <= cold for row in rows(suffix, "cold"))


@pytest.mark.parametrize("suffix", CATALOGS)
def test_sizes_and_shares(suffix):
    for split, count in {"train": 5200, "validation": 900, **dict.fromkeys(TESTS, 320)}.items():
        found = rows(suffix, split)
        assert len(found) == count
        assert sum(row["wording"] == "crossing" for row in found) / count >= 0.25
        assert sum(row["typo"] for row in found) / count == pytest.approx(0.15, abs=0.005)
        assert all(1 <= len(row["constraints"]) <= 4 for row in found)
        assert all(len(row["phrasings"]) == len(row["constraints"]) and all(row["phrasings"]) for row in found)
        assert all((row["construction"] is not None) == (row["wording"] == "crossing") for row in found)
    parts = [row["part"] for row in rows(suffix, "validation")]
    assert {part: parts.count(part) for part in parts} == dict.fromkeys(("iid", "frame", "phrase", "combo"), 225)


@pytest.mark.parametrize("suffix", CATALOGS)
def test_no_instruction_is_asked_twice_and_none_has_loose_ends(suffix):
    texts = [row["instruction"] for row in read(f"instructions{suffix}.jsonl")]
    assert len({text.lower() for text in texts}) == len(texts)
    for text in texts:
        assert not set("{}[]|_~") & set(text), text
        assert "a(n)" not in text, text
        assert "  " not in text, text
        assert text == text.strip(), text


@pytest.mark.parametrize("suffix", CATALOGS)
def test_each_split_holds_out_what_it_says(suffix):
    train, validation = rows(suffix, "train"), rows(suffix, "validation")
    for held, seen, get in (
        *((split, [*train, *validation], rows(suffix, split)) for split in TESTS),
        *((part, train, rows(suffix, "validation", part)) for part in ("iid", "frame", "phrase", "combo")),
    ):
        seen_sets = {set_of(row) for row in seen}
        seen_pairs = set().union(*(pairs_of(row) for row in seen))
        assert not seen_sets & {set_of(row) for row in get}, held
        # what the split is about is unseen, all else is seen
        assert gather(get, "frame").isdisjoint(gather(seen, "frame")) == (held == "frame")
        if held != "frame":
            assert gather(get, "frame") <= gather(train, "frame")
        if held in ("phrase", "both"):
            assert gather(get, "phrasings").isdisjoint(gather(seen, "phrasings"))
            assert gather(get, "construction").isdisjoint(gather(seen, "construction"))
        else:
            assert gather(get, "construction") <= gather(train, "construction")
            assert gather(get, "phrasings") <= gather(train, "phrasings")
        if held in ("combo", "both"):
            assert all(pairs_of(row) - seen_pairs for row in get)


@pytest.mark.parametrize("suffix", CATALOGS)
def test_no_template_is_in_two_pools(suffix):
    wording = words("wording.yaml")
    template = {
        f"{kind}.{form}.{at}": f"{kind}: {text}"
        for kind, forms in wording["phrasings"].items()
        for form, texts in forms.items()
        for at, text in enumerate(texts)
    }
    pools = [
        {template[name] for name in gather(found, "phrasings") if name in template}
        for found in (rows(suffix, "train"), rows(suffix, "validation", "phrase"), rows(suffix, "phrase"))
    ]
    for one, other in itertools.combinations(pools, 2):
        assert one.isdisjoint(other)


def test_the_check_option_names_the_stale_file(tmp_path):
    for name in ("generate.py", "asking.py", "catalog.py", "grammar.py", "typos.py", "wording.py", "menu.yaml"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    (tmp_path / "wording.yaml").write_bytes((FOLDER / "wording.yaml").read_bytes())
    code = (
        "import sys, generate; generate.build = lambda: {'items.jsonl': '{}\\n'};"
        "sys.argv = ['generate.py', '--check']; sys.exit(generate.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "not what the seed gives: items.jsonl" in done.stderr
