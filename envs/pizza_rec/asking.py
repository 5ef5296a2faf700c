"""Draw what to ask for: sets of constraints that some pizza on offer meets, held out for one split or another."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from catalog import Menu, Record
from wording import Constraint, Pool

SEED = 20261
WORDING_SHARES = (0.70, 0.12, 0.18)  # of sets, frames, phrasings and crossings: train, validation only, test only
PAIR_SHARES = (0.80, 0.08, 0.12)  # of attribute-value pairs
TIERS = ("train", "validation", "test")

KINDS = {  # kind -> attribute, operation, how often it is asked for, most in one instruction
    "topping": ("toppings", "has", 18, 2),
    "no_topping": ("toppings", "lacks", 18, 2),
    "diet": ("diet", "has", 11, 1),
    "spice": ("spice", "is", 8, 1),
    "no_spice": ("spice", "is_not", 9, 1),
    "crust": ("crust", "is", 8, 1),
    "no_crust": ("crust", "is_not", 8, 1),
    "sauce": ("sauce", "is", 7, 1),
    "size": ("size", "is", 7, 1),
    "price": ("price", "at_most", 12, 1),
    "allergen": ("allergens", "lacks", 10, 2),
}
KIND_NAMES = list(KINDS)
KIND_WEIGHTS = list(itertools.accumulate(row[2] for row in KINDS.values()))


@dataclass(frozen=True)
class Catalog:
    """A menu, its pizzas, and what an instruction over it may look like."""

    suffix: str
    menu: Menu
    items: list[Record]
    regular: int  # the first so many items are on offer in every split
    counts: tuple[int, ...]  # weights of 1, 2, 3 and 4 constraints
    most_best: int  # instructions with more right answers than this are too easy to be worth asking


@dataclass(frozen=True)
class Plan:
    """What one group of rows draws from: whose sets, which pairs, which wording."""

    sets: str
    pairs: str
    pool: Pool
    cold: bool = False


def satisfies(item: Record, constraint: Constraint) -> bool:
    """Whether the item's attribute, taken as a list, meets the constraint."""
    found, value = item[constraint.attribute], constraint.value
    if constraint.op in ("at_most", "at_least"):
        return found <= value if constraint.op == "at_most" else found >= value
    if constraint.op in ("has", "lacks"):
        return (value in found) == (constraint.op == "has")
    if constraint.op in ("is", "is_not"):
        return (found == value) == (constraint.op == "is")
    if constraint.op == "any_of":
        return bool(set(value) & set(found if isinstance(found, list) else [found]))
    raise ValueError(f"unknown operation {constraint.op}")


@cache
def tier(key: str, shares: tuple[float, float, float]) -> str:
    """train, validation or test, by a hash of the key: no order of drawing can change it."""
    point = int.from_bytes(hashlib.sha256(f"{SEED}:{key}".encode()).digest()[:8], "big") / 2**64
    return TIERS[0] if point < shares[0] else TIERS[1] if point < shares[0] + shares[1] else TIERS[2]


def set_key(constraints: Iterable[Constraint]) -> str:
    return " & ".join(sorted(f"{c.attribute} {c.op} {c.value}" for c in constraints))


def units(constraints: Iterable[Constraint]) -> list[str]:
    """The attribute-value units that a set of constraints names."""
    return sorted({f"{c.attribute}={value}" for c in constraints for value in c.values()})


def pair_tiers(constraints: Iterable[Constraint]) -> set[str]:
    pairs = itertools.combinations(units(constraints), 2)
    return {tier(f"pair {a} {b}", PAIR_SHARES) for a, b in pairs}


class Asker:
    """Draws sets of constraints that some pizza on offer meets."""

    def __init__(self, catalog: Catalog, crossings: dict[str, dict[str, Any]]):
        self.catalog, self.crossings = catalog, crossings
        self.offer = (1 << catalog.regular) - 1
        self.masks: dict[Constraint, int] = {}
        self.values: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        for item in catalog.items:
            for attribute in ("toppings", "diet", "spice", "crust", "sauce", "size", "allergens"):
                known, found = list(catalog.menu[attribute]), item[attribute]
                has = [value for value in known if value in found] if isinstance(found, list) else [found]
                self.values[item["id"], attribute] = (has, [value for value in known if value not in has])

    def best(self, constraints: Iterable[Constraint]) -> int:
        """The items that satisfy all, as bits."""
        found = (1 << len(self.catalog.items)) - 1
        for constraint in constraints:
            if constraint not in self.masks:
                bits = [1 << at for at, item in enumerate(self.catalog.items) if satisfies(item, constraint)]
                self.masks[constraint] = sum(bits)
            found &= self.masks[constraint]
        return found

    def draw(
        self, crossing: str | None, count: int, plan: Plan, rng: random.Random
    ) -> tuple[list[Constraint], list[str]] | None:
        """Constraints (a crossing's own come first) and the ids of the best items; None if this draw will not do."""
        regular, items = self.catalog.regular, self.catalog.items
        item = rng.choice(items[regular:] if plan.cold else items[:regular])
        constraints = []
        for slot in self.slots(crossing, count, rng):
            made = self.make(slot, item, rng)
            if made is None:
                return None
            constraints.append(made)
        best = self.best(constraints)
        if plan.cold:
            if best & self.offer:
                return None
        else:
            best &= self.offer
            if best.bit_count() > self.catalog.most_best:
                return None
        if redundant(constraints, self.catalog.menu):
            return None
        tiers = pair_tiers(constraints)
        if tiers - {"train", plan.pairs} or (plan.pairs != "train" and plan.pairs not in tiers):
            return None
        if not plan.cold and tier(f"set {set_key(constraints)}", WORDING_SHARES) != plan.sets:
            return None
        return constraints, [entry["id"] for at, entry in enumerate(items) if best >> at & 1]

    def slots(self, crossing: str | None, count: int, rng: random.Random) -> list[str]:
        """The kinds to ask for: those of the crossing, then others up to `count`."""
        form = self.crossings[crossing] if crossing else {}
        slots: list[str] = list(form.get("slots", []))
        count = max(count, len(slots), sum(form.get("pack", [])))
        while len(slots) < count:
            kind = rng.choices(KIND_NAMES, cum_weights=KIND_WEIGHTS)[0]
            taken = [slot.split(":")[0] for slot in slots]
            partner = kind.removeprefix("no_") if kind.startswith("no_") else f"no_{kind}"
            if taken.count(kind) < KINDS[kind][3] and (kind in ("topping", "no_topping") or partner not in taken):
                slots.append(kind)
        return slots

    def make(self, slot: str, item: Record, rng: random.Random) -> Constraint | None:
        """A constraint of this kind that the item meets."""
        kind, _, several = slot.partition(":")
        if kind == "price_min":
            return Constraint("price", "price", "at_least", int(item["price"]) - rng.randint(0, 2))
        attribute, op, _, _ = KINDS[kind]
        if kind == "price":
            return Constraint(kind, attribute, op, int(item["price"]) + 1 + rng.randint(0, 2))
        has, lacks = self.values[item["id"], attribute]
        if several:
            values = [rng.choice(has), rng.choice(lacks)]
            return Constraint(kind, attribute, "any_of", tuple(rng.sample(values, 2)))
        allowed = lacks if op in ("lacks", "is_not") else has
        return Constraint(kind, attribute, op, rng.choice(allowed)) if allowed else None


def redundant(constraints: list[Constraint], menu: Menu) -> bool:
    """Whether a value is named twice, or one constraint makes another pointless ("vegan, no ham")."""
    named = [f"{c.attribute}={value}" for c in constraints for value in c.values() if c.attribute != "price"]
    if len(named) > len(set(named)):
        return True
    prices = {c.op: c.value for c in constraints if c.attribute == "price"}
    if len(prices) == 2 and prices["at_most"] - prices["at_least"] < 2:
        return True
    diets = [c.value for c in constraints if c.kind == "diet"]
    free = {c.value for c in constraints if c.kind == "allergen"}
    groups = {group for diet in diets for group in menu["diet"][diet]["excludes"]}
    if ("cheese" in groups and "dairy" in free) or ("fish" in groups and free & {"fish", "shellfish"}):
        return True
    for constraint in constraints:
        if constraint.attribute == "toppings" and constraint.op != "has":
            for value in constraint.values():
                entry = menu["toppings"][value]
                if entry["group"] in groups or free & set(entry.get("allergens", [])):
                    return True
    return False
