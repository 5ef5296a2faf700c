"""The English that does not depend on what is asked: agreement, order, and how clauses join."""

from __future__ import annotations

import random
import re

# The forms that a clause may take after the frame's noun phrase, and how many clauses the join carries well.
JOIN_FORMS = {
    "sent": ("say", "do", "frag", "ask"),
    "semi": ("say", "do", "frag"),
    "and": ("say", "do"),
    "but": ("say", "do"),
    "so": ("say",),
    "list": ("frag",),
    "dash": ("frag",),
    "brackets": ("frag",),
    "slash": ("frag",),
}
JOIN_LIMIT = {"and": 2, "but": 1, "so": 2}
JOIN_TEXT = {"semi": "; ", "and": ", and ", "so": " and ", "slash": " / "}
NOUNS = ("pizza", "pizza", "pizza", "pizza", "pie")
# In a noun phrase: adjectives in the order English likes; then what stands after the noun, exclusions and prices last.
PRE_ORDER = (
    "size", "no_spice", "spice", "diet", "allergen", "no_topping", "no_crust", "crust", "sauce", "topping", "price",
)  # fmt: skip
POST_ORDER = (
    "topping", "sauce", "allergen", "no_topping", "crust", "no_crust", "size", "diet", "spice", "no_spice", "price",
)  # fmt: skip
TEENS = ("ten", "eleven", "twelve", *(f"{n}teen" for n in ("thir", "four", "fif", "six", "seven", "eigh", "nine")))
UNITS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = ("zero", *UNITS[1:], *TEENS, "twenty", *(f"twenty-{unit}" for unit in UNITS[1:]), "thirty")


def agree(name: str) -> dict[str, str]:
    """The words that agree in number with a name."""
    head = name.split(" of ")[0]
    many = head.endswith("s") and not head.endswith("ss")
    if many:
        return {"v": name, "is": "are", "it": "them", "makes": "make", "dont": "don't"}
    return {"v": name, "is": "is", "it": "it", "makes": "makes", "dont": "doesn't"}


def compose(join: str, frame: str, parts: dict[str, list[str]], rng: random.Random) -> str:
    """The frame with its noun phrase and clauses set in."""
    after = ""
    for text in parts["post"]:
        words = text.replace("that's", "that is").split()
        linked = words[0] in ("with", "that") and words[0] in after.replace("that's", "that is").split()
        after += f" and {text}" if linked else f" {text}"  # "that's vegan and that isn't hot"
    bare = f"{' '.join([*parts['pre'], rng.choice(NOUNS)])}{after}"
    text = re.sub(r"\[(.*?)\]", r"\1" if parts["rest"] else "", frame.removeprefix("~"))
    if join == "sent":
        rest = " ".join(sentence(clause) for clause in parts["rest"])
    else:
        rest = JOIN_TEXT.get(join, ", ").join(parts["rest"])
    text = text.replace("{np}", f"a(n) {bare}").replace("{bare}", bare).replace("{thing}", f"something{after}")
    text = text.replace("{rest}", rest)
    text = re.sub(r"\ba\(n\) (?=(\S))", lambda found: "an " if found.group(1).lower() in "aeiou" else "a ", text)
    if frame.startswith("~"):
        return text.lower().removesuffix(".")
    return text[0].upper() + text[1:]


def sentence(clause: str) -> str:
    """A clause with a capital and an end."""
    return clause[0].upper() + clause[1:] + ("" if clause[-1] in ".?!" else ".")
