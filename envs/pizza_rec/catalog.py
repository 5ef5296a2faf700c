"""Invent the pizzas: recipes, prices, allergens and diets that agree with each other, and their texts."""

from __future__ import annotations

import random
from typing import Any

Menu = dict[str, Any]
Record = dict[str, Any]
SPICE_WORDS = {"mild": "mild", "medium": "medium spice", "hot": "hot"}  # "medium" alone is a size


def small_menu(menu: Menu) -> Menu:
    """The menu without the values that only the large catalog has."""
    tables = ("toppings", "crust", "sauce", "allergens")
    return menu | {name: {k: v for k, v in menu[name].items() if not v.get("large")} for name in tables}


def make_items(menu: Menu, regular: int, cold: int, rng: random.Random) -> list[Record]:
    """`regular` pizzas that every split offers, then `cold` ones that only the cold split does."""
    total = regular + cold
    names = [f"{first} {second}" for first in menu["names"]["first"] for second in menu["names"]["second"]]
    names = rng.sample(names, total)
    themes = spread([(theme["groups"], theme["share"]) for theme in menu["themes"]], total, rng)
    sizes = spread([(size, 1) for size in menu["size"]], total, rng)
    used = dict.fromkeys([*menu["toppings"], *menu["sauce"], *menu["crust"]], 0)
    items: list[Record] = []
    seen: set[str] = set()
    while len(items) < total:
        at = len(items)
        item = make_item(menu, names[at], themes[at], sizes[at], used, rng)
        recipe = item["text"].rsplit(" | ", 1)[0]
        if recipe in seen:
            continue
        seen.add(recipe)
        for value in (*item["toppings"], item["sauce"], item["crust"]):
            used[value] += 1
        items.append(item)
    rng.shuffle(items)
    for at, item in enumerate(items):
        item["id"] = f"p{at + 1:03d}"
        if at >= regular:
            item["split"] = "cold"
    return [{"id": item.pop("id"), **item} for item in items]


def spread(shares: list[tuple[Any, int]], total: int, rng: random.Random) -> list[Any]:
    """`total` values in their shares, shuffled."""
    weights = sum(share for _, share in shares)
    values = [value for value, share in shares for _ in range(-(-total * share // weights))]
    rng.shuffle(values)
    return values[:total]


def make_item(menu: Menu, name: str, groups: list[str], size: str, used: dict[str, int], rng: random.Random) -> Record:
    toppings = pick_toppings(menu, groups, used, rng)
    details = [menu["toppings"][topping] for topping in toppings]
    plain = groups == ["veg"]  # the vegan theme: nothing with milk under the toppings either
    sauce, crust = (pick_base(menu[table], plain, used, rng) for table in ("sauce", "crust"))
    parts = [*details, menu["sauce"][sauce], menu["crust"][crust]]
    found = {allergen for part in parts for allergen in part.get("allergens", [])}
    if not menu["crust"][crust].get("no_gluten"):
        found.add("gluten")
    kinds = {detail["group"] for detail in details} | ({"cheese"} if "dairy" in found else set())
    diet = [key for key, entry in menu["diet"].items() if not kinds & set(entry["excludes"])]
    fiery = any(detail.get("hot") for detail in details)
    spice = rng.choice(["medium", "hot"]) if fiery else rng.choice(["mild", "mild", "medium", "hot"])
    price = menu["sizes_base"][size] + rng.randint(0, 2) + len(toppings) // 2 + (crust in ("stuffed", "cauliflower"))
    item: Record = {
        "name": name,
        "toppings": toppings,
        "diet": diet,
        "spice": spice,
        "crust": crust,
        "sauce": sauce,
        "size": size,
        "price": price,
        "allergens": [allergen for allergen in menu["allergens"] if allergen in found],
    }
    return {"name": name, "text": plain_text(item), "chatty": chatty_text(item, menu), **item}


def pick_base(table: Menu, plain: bool, used: dict[str, int], rng: random.Random) -> str:
    """A sauce or a crust; those used least are likelier."""
    allowed = [key for key, entry in table.items() if not (plain and "dairy" in entry.get("allergens", []))]
    return rng.choices(allowed, [1 / (1 + used[key]) ** 2 for key in allowed])[0]


def pick_toppings(menu: Menu, groups: list[str], used: dict[str, int], rng: random.Random) -> list[str]:
    """3 to 5 toppings: one of every leading group, then any of the theme's; those used least are likelier."""
    count = rng.choices([3, 4, 5], [3, 4, 2])[0]
    chosen: list[str] = []
    for at in range(count):
        allowed = groups[at : at + 1] if at < 2 and at < len(groups) else groups
        if at < 2 and groups[0] != "veg" and at < len(groups) and groups[at] == "veg":
            allowed = groups
        left = [t for t, entry in menu["toppings"].items() if entry["group"] in allowed and t not in chosen]
        chosen.append(rng.choices(left, [1 / (1 + used[t]) ** 2 for t in left])[0])
    return [topping for topping in menu["toppings"] if topping in chosen]


def plain_text(item: Record) -> str:
    """The attributes in a fixed order, then the name. Of the diets only the strictest: it implies the others."""
    parts = [
        ", ".join(item["toppings"]),
        item["diet"][0] if item["diet"] else "no diet",
        SPICE_WORDS[item["spice"]],
        f"{item['crust']} crust",
        f"{item['sauce']} sauce" if item["sauce"] in ("tomato", "white", "barbecue", "curry") else item["sauce"],
        item["size"],
        f"${item['price']:.2f}",
        "contains " + ", ".join(item["allergens"]) if item["allergens"] else "no allergens",
        item["name"],
    ]
    return " | ".join(parts)


def chatty_text(item: Record, menu: Menu) -> str:
    """A friendly sentence for display; never scored."""
    toppings, allergens = listed(item["toppings"]), listed(item["allergens"])
    sauce, crust = menu["sauce"][item["sauce"]]["say"][0], menu["crust"][item["crust"]]["say"][0]
    text = f"Try our {item['name']}: a {item['size']} pizza with {toppings} over {sauce} on a {crust}"
    spice = {"mild": "mild", "medium": "medium-hot", "hot": "hot"}[item["spice"]]
    diet = f" and {item['diet'][0]}" if item["diet"] else ""
    ending = f" It contains {allergens}." if allergens else ""
    return f"{text}. It's {spice}{diet}, and yours for ${item['price']:.2f}.{ending}"


def listed(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}" if values else ""
