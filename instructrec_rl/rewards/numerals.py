"""The last number of a text as people and models write it: group marks, signs, any script's digits, powers of ten.

Every pattern takes time linear in the text: what repeats is possessive or bounded, and what stands beside a number is
looked at in a window of a few characters.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal

# Runs of digits with one mark between, a group mark or a decimal one: `_last_of` says which. Then exponents.
NUMBER = re.compile(
    r"(?:(?<![\w.])\.(?=[0-9]))?[0-9]++(?:[ ,.'_][0-9]++)*+"
    r"(?:[eE](?P<scale>[-+]?[0-9]++)(?!\w))?+(?:(?:\s?\^\s?|\*\*)(?P<power>[-+]?[0-9]++))?+"
)
WINDOW = 40  # characters looked at before a number
DASHES = "\u2212\u02d7\u2796"  # those that are not among Unicode's dashes (Pd)
APOSTROPHES = "\u2018\u2019\u02bc\u00b4"
TIMES = "\u00d7\u00b7\u22c5\u2219\u2715\u2716\u2a2f"
OTHERS = {"\u066c": ",", "\u066b": ".", **dict.fromkeys(APOSTROPHES, "'"), **dict.fromkeys(TIMES, "\u00d7")}
COMPATIBLE = ("<wide>", "<narrow>", "<small>", "<font>")  # as full-width letters and marks
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
POWER_OF_TEN = re.compile(r"(?<![0-9.,])10([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
LATEX = (
    (re.compile(r"\{([,.-])\}"), r"\1"),
    (re.compile(r"\\!|\\(?:left|right)(?![A-Za-z])"), ""),
    (re.compile(r"\{?\\[,:; ]\}?|~|\\(?:thinspace|enspace)(?![A-Za-z])"), " "),
    (re.compile(r"\\([$%#_])"), r"\1"),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "\u00d7"),
)
HTML = (
    (re.compile(r"(?<![0-9.,])10<sup>\s?([-+]?[0-9]{1,20})\s?</sup>", re.I), r"10^\1"),
    (re.compile(r"<su[bp]>[^<>]{0,40}</su[bp]>", re.I), ";"),
)
EXPONENTS = (
    (re.compile(r"\^\s?(?:\{\s?([-+]?[0-9]+)\s?\}|\(\s?([-+]?[0-9]+)\s?\))"), r"^\1\2"),
    (re.compile(r"\^\s?(?:\{[^{}]*\}|\([^()]*\))"), "^?"),  # an exponent that is not a number
)
FOOTNOTE = re.compile(r"\[\^?[0-9]{1,3}(?:\s?[,;-]\s?[0-9]{1,3})*\]")
SAYS = re.compile(r"\b(?:is|are|was|were|be|equals?|of|to|at|by|from|about|than|and|or)\Z", re.I)

CODES = "USD|EUR|GBP|CHF|JPY|CNY|RMB|INR|RUB|KRW|BRL|MXN|AUD|CAD|NZD|SEK|NOK|DKK|PLN|TRY|ZAR|Rs"
CURRENCY = rf"(?:[A-Z]{{0,3}}\$|(?:{CODES})\.?)"
SIGN = re.compile(
    rf"(?:{CURRENCY}\s{{0,3}})?(?:-|\b(?P<word>(?i:minus|negative)))(?P<gap>\s{{0,3}})(?:{CURRENCY}\s{{0,3}})?[({{]?\Z"
)
BULLET = re.compile(r"(?m)^[ \t]*-[ \t]")
DROW = re.compile(r"(?P<word>[^\W\d_]+)(?P<command>\\)?(?P<times>\s?[0-9])?")  # a word read backwards
SUBSCRIPT = re.compile(r"[^\W_][)}]?_+\{?\Z|[)}]_+\{?\Z")
FORMULAS = frozenset(("sqrt", "log", "ln", "lg", "exp", "pi", "sin", "cos", "tan"))  # commands that a number belongs to
IS_EXPONENT = re.compile(r"\^[\s({+-]{0,3}\Z|[\w)\]}]\*\*[-+]?\Z")
IS_UNDER_ROOT = re.compile(r"(?:\u221a|\\sqrt(?:\[[^\]]{0,8}\])?)\s?[{(]?\Z")
HAS_EXPONENT = re.compile(r"[)\]}\s]{0,3}\^")
HAS_ROOT = re.compile(r"\s?(?:\u221a\s?[\w({]|\\sqrt)")
TIMES_BETWEEN = re.compile(r"\s{0,3}[xX*\u00d7\u0445\u0425]\s{0,3}")

MOST_PASSED = 10_000  # parts of names and formulas after the last number; behind more, there is none
MOST_DIGITS = 8  # of an exponent: what is larger is a formula
MOST_RESULT = 1000  # digits of a power that is worked out
EXACT = Context(prec=MOST_RESULT + 100, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def last_number(text: str, decimal: str = ".") -> Decimal | None:
    """The last number of a text, always finite; None where there is none.

    decimal: the mark before the fraction, "." or ",". A mark of a footnote counts only where there is no other number.
    """
    text = _normal(text, decimal)
    found = None
    if "[" in text:
        found = _last(FOOTNOTE.sub(_hide_footnote, text))
    return _last(text) if found is None else found


def _normal(text: str, decimal: str) -> str:
    """The text with ASCII digits, dashes, blanks, marks and `^`, and without what LaTeX and HTML put between them."""
    if not text.isascii():
        text = POWER_OF_TEN.sub(lambda found: f"10^{found[1].translate(SUPERSCRIPTS)}", text)
        text = text.translate({ord(char): _ascii(char) for char in set(text) if not char.isascii()})
    for sign, rules in (("\\", LATEX), ("{", LATEX), ("~", LATEX), ("<", HTML), ("^", EXPONENTS)):
        if sign in text:
            for pattern, plain in rules:
                text = pattern.sub(plain, text)
    return text.translate({ord(","): ".", ord("."): ","}) if decimal == "," else text


def _ascii(char: str) -> str:
    """What a character that is not ASCII stands for in a number; itself where that is nothing."""
    kind = unicodedata.category(char)
    if kind == "Nd":
        return str(unicodedata.decimal(char))
    if char in OTHERS:
        return OTHERS[char]
    if kind == "Pd" or char in DASHES:
        return "-"
    if kind in ("Zs", "Sc", "Cf"):
        return {"Zs": " ", "Sc": "$", "Cf": ""}[kind]
    if unicodedata.decomposition(char).startswith(COMPATIBLE):
        plain = unicodedata.normalize("NFKC", char)
        return plain if plain.isascii() else char
    return char


def _hide_footnote(found: re.Match[str]) -> str:
    """Nothing in place of [1] behind a word or number; [5] behind "=", ":" or "is", or in front, stays."""
    before = found.string[max(0, found.start() - WINDOW) : found.start()]
    said = before.rstrip()
    if found[0][1] == "^":
        return ";"
    stays = not said or said[-1] in "=:([{,<>$" or (said[-1].isalpha() and SAYS.search(said))
    return found[0] if stays else ";"


def _last(text: str) -> Decimal | None:
    matches = list(NUMBER.finditer(text))
    for place in range(len(matches) - 1, max(len(matches) - 1 - MOST_PASSED, -1), -1):
        value = _value(text, matches[place], matches[place - 1] if place else None)
        if value is not None:
            return value
    return None


def _value(text: str, match: re.Match[str], previous: re.Match[str] | None) -> Decimal | None:
    """The last number of a match with its sign and exponents; None where it belongs to a name, unit or formula."""
    before, after = text[max(0, match.start() - WINDOW) : match.start()], text[match.end() : match.end() + 8]
    if after and (HAS_EXPONENT.match(after) or HAS_ROOT.match(after)):
        return None
    belongs = _belongs_to_a_word(before) or _belongs_to_a_formula(before)
    digits, is_first = _last_of(match, belongs, before[-1:], after[:1])
    if digits is None:
        return None
    value = _raised(Decimal(digits), match["scale"], match["power"])
    if value is None or not is_first:
        return value
    times = previous is not None and TIMES_BETWEEN.fullmatch(text, previous.end(), match.start())
    if previous is not None and times and match["power"] and digits == "10":
        factor = _value(text, previous, None)
        if factor is not None:  # 5 x 10^3
            return _scaled(factor, match["power"])
    return value.copy_negate() if _is_negative(text, before) else value  # "-" would round it


def _raised(value: Decimal, scale: str | None, power: str | None) -> Decimal | None:
    """value * 10^scale, or value^power; None where it is too large to be meant as a number."""
    for exponent in filter(None, (scale, power)):
        if len(exponent.lstrip("+-").lstrip("0")) > MOST_DIGITS:
            return None
    scaled = _scaled(value, scale) if scale else value
    if not power or scaled is None:
        return scaled
    if (value := scaled) == 10:
        return Decimal((0, (1,), int(power)))
    if len(value.as_tuple().digits) * abs(int(power)) > MOST_RESULT:
        return None
    raised = EXACT.power(value, int(power))
    return raised if raised.is_finite() else None


def _scaled(value: Decimal, power: str) -> Decimal | None:
    """value * 10^power, exactly; None for more digits than are kept."""
    return value.scaleb(int(power), EXACT) if len(value.as_tuple().digits) <= MOST_RESULT else None


def _last_of(match: re.Match[str], belongs: bool, opened: str, closed: str) -> tuple[str | None, bool]:
    """The digits of the last number in a run of pieces and marks, and whether it begins the run.

    belongs: what begins the run belongs to what stands before it, up to the first blank. opened, closed: the
    characters around the run.
    """
    run = re.match(r"[0-9 ,.'_]*", match[0])[0]  # type: ignore[index]
    begins = True
    if belongs:
        begins, (_, _, run) = False, run.partition(" ")
        if not run:
            return None, False
    if run[0] == ".":
        run = "0" + run
    pieces, marks = re.findall("[0-9]+", run), re.findall("[^0-9]", run)
    last = len(pieces) - 1
    mark, further = (marks[-1] if last else ""), (marks[-2] if last > 1 else "")
    start = _group_start(pieces, marks, last)
    fraction = ""
    if mark == "." and not (further == "." and start < last - 1):
        start = last
        if further != ".":  # of 1.2.3 only the 3
            start, fraction = _group_start(pieces, marks, last - 1), "." + pieces.pop()
    elif mark == "," and (start == last or further in (".", "'")):
        whole = _group_start(pieces, marks, last - 1) if further in (".", "'", " ") and further else last - 1
        bare = not set(opened) & set("([{") and not set(closed) & set(")]},")
        zero = pieces[last - 1] == "0" and further in ("", " ") and bare
        if whole < last - 1 or zero:  # 1.234,5 and 0,5: the comma can only be the decimal mark
            start, fraction = whole, "." + pieces.pop()
    return "".join(pieces[start:]) + fraction, begins and start == 0


def _group_start(pieces: list[str], marks: list[str], last: int) -> int:
    """Where the number begins that ends with pieces[last]: pieces before it are its groups, of three digits or two as
    in India, where all between have the same mark; else `last` itself.
    """
    if last == 0 or len(pieces[last]) != 3:
        return last
    mark, first = marks[last - 1], last - 1
    while first > 0 and marks[first - 1] == mark:
        first -= 1
    sizes = set(map(len, pieces[first + 1 : last]))
    lead = pieces[first]
    grouped = sizes <= {3} or (mark == "," and sizes == {2} and len(lead) <= 2)
    free = first == 0 or marks[first - 1] == " "
    return first if grouped and free and len(lead) <= 3 and lead[0] != "0" else last


def _belongs_to_a_word(before: str) -> bool:
    """Whether a number right after this is part of a name or unit, as in x2, H2O, m2, x_2; scripts that have no case
    write without blanks.
    """
    last = before[-1:]
    if last in ("_", "{"):
        return SUBSCRIPT.search(before) is not None
    if last.lower() == last.upper():
        return False
    found = DROW.match(before[::-1])
    if found is None or (found["times"] and not found["command"] and found["word"] in "xXхХ"):
        return False
    word = found["word"][::-1]
    return word in FORMULAS if found["command"] else word not in CODES.split("|")


def _belongs_to_a_formula(before: str) -> bool:
    """Whether a number right after this is an exponent or under a root."""
    if ("^" in before or "*" in before) and IS_EXPONENT.search(before):
        return True
    return ("\u221a" in before or "\\sqrt" in before) and IS_UNDER_ROOT.search(before) is not None


def _is_negative(text: str, before: str) -> bool:
    """Whether what stands before a number ends with its sign: "16-3" and "16 - 3" are differences, "a - 3" a remark."""
    sign = SIGN.search(before)
    if sign is None:
        return False
    if (sign["word"] or "").lower() == "negative":
        return True
    left = before[: sign.start()]
    said = left.rstrip()
    last, is_apart, gap = said[-1:], left != said, bool(sign["gap"])
    if not said or "\n" in left[len(said) :]:
        return not gap or len(BULLET.findall(text)) < 2
    if not is_apart and (last.isalnum() or last in "_)]}%\u00b0.!"):
        return False
    if gap and (last.isalnum() or last in ")]}%\u00b0"):
        return SAYS.search(said) is not None
    return True
