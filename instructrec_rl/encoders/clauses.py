"""Split an instruction into clauses, so that each holds as few requirements as can be told from the surface alone.

Rules, not a parser: what is ambiguous ("no onions and peppers": are peppers wanted?) stays in one clause for the
encoder to read. "X or Y" is one requirement and stays whole, but under a negation it is two: "no X or Y" gives
"no X" and "no Y".
"""

from __future__ import annotations

import re

_ABBREVIATIONS = re.compile(r"(?:e\.g|i\.e|etc|vs|approx|mrs?|ms|dr|st|min|max|oz|lbs?|inc|a\.m|p\.m|u\.s)", re.I)

_PUNCTUATION = re.compile(
    r"[.!?…]+(?=[\s\"')\]]|$)|[;:](?=\s|$)|(?P<comma>,(?=\s|$)|(?<=[^\W\d]),(?=[^\W\d]))"
    r"|[，。；！？：（）\n\r]|(?P<list>、)|(?<!\w)[(\[]|(?<!\w\(\w)[)\]](?!\w)|\s[-–—]+\s|—|(?:但是|而且|并且|以及)"
)
# Joiners that say no more than "next": dropped. The second group carries meaning ("except", "rather than") and stays.
_JOINER = re.compile(
    r"\s+(?:and\s+also|but\s+also|as\s+well\s+as|and|but|also|plus|&|\+)\s+"
    r"|\s+(?=(?:though|although|while|whereas|however|except|excluding|because|unless|rather\s+than|instead\s+of"
    r"|preferably|ideally|as\s+long\s+as|provided|nor)\s)",
    re.I,
)
_OPENING = re.compile(r"^(?:and|but|also|plus|then|or|&|\+)\s+(?=\S)", re.I)
_MONEY = r"(?:under|below|less\s+than|at\s+(?:most|least)|not?\s+more\s+than|up\s+to|over|above|around|about)"
_BREAK = re.compile(
    r"\s+(?=(?:with|without|on\s+an?|in\s+an?|that's|that\s+(?:is|are|has|have|comes?|costs?)"
    r"|which\s+(?:is|are|has|have|comes?|costs?)|costing|priced|served|containing|featuring"
    r"|avoid|(?:skip|hold)\s+(?:the|any)|leave\s+(?:out|off)|no\s+(?!more\b|less\b|longer\b|one\b|matter\b|to\b)\w+"
    rf")\b|(?:(?:for|at)\s+)?{_MONEY}\s+[$€£]?\d)",
    re.I,
)
# "is without", "want no", "in no time", "can you skip": the break would tear a phrase.
_NEVER_BEFORE_BREAK = re.compile(
    r"(?:\b(?:\w+ly|no|and|but|or|for|at|with|in|on|of|by|under|to|is|are|was|be|been|being|go|has|have|had|having|want|wants"
    r"|need|contains?|say|make|see|get|there|must|should|can|could|will|would|i|you|we|they)|'s|'re|'ll|'d|'ve)$",
    re.I,
)
_NEGATOR = re.compile(
    r"\b(?:no|not|never|without|nor|nothing|none|nobody|neither|cannot|avoid|hate|skip)\b|n't\b", re.I
)
# After these a "with" or "that is" belongs to what is negated: "I don't want anything with onions".
_OPEN_NEGATOR = re.compile(r"\b(?:not|never|nothing|none|nobody|cannot|avoid|hate|skip)\b|n't\b", re.I)
# What a coordinated negation repeats before each of its members; the negator and, for a verb, the verb.
_CARRIED = re.compile(
    r"(?:\b(?:i|we|he|she|they|you|it)\s+)?"
    r"(?:\b(?:do|does|did|would|could|can|will|should|is|are|am)(?:n't|\s+not)|\b(?:cannot|can't|won't))\s+"
    r"(?:really\s+)?(?:want|like|need|eat|have|include|add|put|use|stand|tolerate|handle|take|contain|be)\s+(?:any\s+)?"
    r"|\b(?:no|not|never|without|avoid|hate|skip|hold)\s+(?:any\s+|the\s+|too\s+|very\s+|overly\s+)?",
    re.I,
)
_NO_LIST = re.compile(r"(?:more|less|fewer|later|earlier|bigger|smaller|longer|matter|problem|idea|only|sure)\b", re.I)
_OR = re.compile(r"(?:^|\s+)(?:or|nor)\s+(?!so\b|less\b|more\b|under\b|below\b|fewer\b|not\b|otherwise\b)", re.I)
_TOO = re.compile(r"\s*(?:[\w-]+\s+){1,3}(?:too|either|likewise|as\s+well)(?=\s*(?:[.,;!?)]|$))", re.I)
_TO_BE = re.compile(r"\b(?:be|is|are|was|were)\s+$", re.I)
_NEITHER = re.compile(r"\bneither\s+(?P<first>.+?)\s*,?\s+(?P<rest>nor\s+.+)", re.I)
_NOR_VERB = re.compile(
    r"nor\s+(?:do|does|did|am|is|are|was|can|could|should|shall|will|would|have|has|may|must)\b", re.I
)
_NOT_A_NOUN = re.compile(r"(?:too|very|so|overly|really|an?|the|in|on|with|from|at|for|my|more|less)\b", re.I)
_HAN_NEGATOR = re.compile(r"(?:不要|不想要|不放|不加|不吃|不含|别放|别加|没有)")
_HAN_OR = re.compile(r"或者|或")


def split_clauses(text: str, max_clauses: int = 8) -> list[str]:
    """1 to `max_clauses` clauses of a text, in its order; what is over the limit is joined to the last one.

    Every word of content is in some clause; only joiners (and, but, also, plus) and the words that a negator replaces
    ("neither ... nor" -> "no ..., no ...") are not. A blank text gives [""]. Raises ValueError for max_clauses < 1.
    """
    if max_clauses < 1:
        raise ValueError(f"max_clauses is {max_clauses}, expected at least 1")
    clauses = [clause for piece in _carry_over_commas(_pieces(text)) for clause in _split_piece(piece)]
    clauses = [clause for clause in map(_tidy, clauses) if any(c.isalnum() for c in clause)] or [text.strip()]
    if len(clauses) > max_clauses:
        clauses[max_clauses - 1 :] = [", ".join(clauses[max_clauses - 1 :])]
    return clauses


def _pieces(text: str) -> list[tuple[str, str]]:
    """(the mark before it, piece) at punctuation that ends a clause: not in 12.50, e.g. or 1,000."""
    text = text.replace("’", "'").replace("\t", " ")
    text = re.sub(r",(\s+n?or\s)", r"\1", text) if re.search(r",\s+n?or\s", text) else text
    pieces, begin, mark = [], 0, ""
    for match in _PUNCTUATION.finditer(text):
        before = text[begin : match.start()]
        if match.group() == "." and _abbreviated(before):
            continue
        if match.group() == ":" and len(before.split()) <= 2:  # "size: small" is one requirement
            continue
        if match.lastgroup == "comma" and _TOO.match(text, match.end()):  # "keep the beef off, the ham too"
            continue
        pieces.append((mark, text[begin : match.start()].strip()))
        mark = match.lastgroup or "stop"
        begin = match.end()
    pieces.append((mark, text[begin:].strip()))
    return [(mark, piece) for mark, piece in pieces if piece]


def _abbreviated(before: str) -> bool:
    words = before.rsplit(None, 1)
    return bool(words) and _ABBREVIATIONS.fullmatch(words[-1].lstrip("(\"'")) is not None


def _carry_over_commas(pieces: list[tuple[str, str]]) -> list[str]:
    """Join the members of a negated list, "no A, B or C", into "no A or B or C", which is then split as one.

    A list that ends in "and" is joined too, but as it stands: whether B and C are negated is left to the reader.
    """
    out: list[str] = []
    i = 0
    while i < len(pieces):
        piece = pieces[i][1]
        end = _list_end(pieces, i)
        if end > i:
            members = [piece, *(p for _, p in pieces[i + 1 : end + 1])]
            last = members[-1]
            if pieces[i + 1][0] == "list":
                negator = _HAN_NEGATOR.search(piece)
                out += [piece, *((negator.group() if negator else "") + member for member in members[1:])]
            else:
                out.append((" or " if _OR.search(last) else ", ").join(_OPENING.sub("", m) for m in members[:-1]))
                out[-1] += (" or " + _OPENING.sub("", last)) if _OR.search(last) else ", " + last
            i = end + 1
        else:
            out.append(piece)
            i += 1
    return out


def _list_end(pieces: list[tuple[str, str]], i: int) -> int:
    """The last piece of the negated list that piece i opens; i itself when it opens none."""
    if _HAN_NEGATOR.search(pieces[i][1]):
        end = i
        while end + 1 < len(pieces) and pieces[end + 1][0] == "list":
            end += 1
        return end
    if not _carried(pieces[i][1]):
        return i
    for j in range(i + 1, len(pieces)):
        mark, piece = pieces[j]
        head = _BREAK.split(piece)[0]  # "or onions on a thin crust": the list ends with the onions
        words = head.split()
        if mark != "comma" or len(words) > 5 or _NEGATOR.search(head):
            return i
        if _OR.search(head) or re.fullmatch(r"(?:\w+\s+)?and\s+\w+", head, re.I):
            return j
        if len(words) > 2 or head != piece:
            return i
    return i


def _carried(piece: str) -> re.Match[str] | None:
    """The last negator of the piece that could open a list, unless it opens "no more than", "not only" and so on."""
    matches = [m for m in _CARRIED.finditer(piece) if not _NO_LIST.match(piece, m.end())]
    return matches[-1] if matches and matches[-1].end() < len(piece) else None


def _split_piece(piece: str) -> list[str]:
    neither = _NEITHER.search(piece)
    if neither:
        head = piece[: neither.start()]
        members = [m for m in re.split(r"\s*,\s*|\s+or\s+", neither["first"]) if m] or [neither["first"]]
        if _TO_BE.search(head):  # "the crust is neither thin nor stuffed": what is said of it needs it
            rest = re.split(r"\s*\bnor\s+", neither["rest"], flags=re.I)[1:]
            return [part for one in (*members, *rest) for part in _split_piece(f"{head}not {one}")]
        return [head + _negated(members[0]), *map(_negated, members[1:]), *_split_piece(neither["rest"])]
    return [clause for part in _at_joiners(piece) for clause in _at_breaks(part)]


def _negated(words: str) -> str:
    return ("not " if _NOT_A_NOUN.match(words) else "no ") + words


def _at_joiners(piece: str) -> list[str]:
    parts, begin = [], 0
    for match in _JOINER.finditer(piece):
        left, joiner, right = piece[begin : match.start()], match.group().strip().lower(), piece[match.end() :]
        if not left.strip() or _bound(left, joiner, right):
            continue
        parts.append(left)
        begin = match.end()
    return [*parts, piece[begin:]]


def _bound(left: str, joiner: str, right: str) -> bool:
    """Whether a joiner holds its sides together rather than starting a new clause."""
    if joiner == "but":
        return bool(
            re.search(
                r"\b(?:nothing|anything|everything|(?:all|any|every|no)(?:\s+\w+)?|none|not\s+only\b.*|\w+one)$",
                left,
                re.I,
            )
        )
    if joiner in ("and", "&", "+"):
        numbers = re.search(r"\d$", left) and re.match(r"[$€£]?\d", right)
        if numbers or re.search(r"\b(?:between|from)\s+\S+$", left, re.I):
            return True
        return _carried(left) is not None and len(re.split(r"\s+(?:and|but|with|on|for)\s+", right)[0].split()) == 1
    return False


def _at_breaks(part: str) -> list[str]:
    parts, begin = [], 0
    for match in _BREAK.finditer(part):
        left = part[begin : match.start()].strip()
        if not left or _OPEN_NEGATOR.search(left) or _NEVER_BEFORE_BREAK.search(left):
            continue
        parts.append(left)
        begin = match.end()
    return [clause for one in [*parts, part[begin:]] for clause in _distribute(one)]


def _distribute(clause: str) -> list[str]:
    """ "no X or Y" -> "no X", "no Y"; "nor Y" -> "no Y"."""
    nor = re.match(r"\s*nor\s+", clause, re.I)
    if nor and not _NOR_VERB.match(clause.strip()):
        return _distribute(_negated(clause[nor.end() :]))
    han = _HAN_NEGATOR.search(clause)
    if han:
        first, *others = [one for one in _HAN_OR.split(clause) if one]
        return [first, *(han.group() + other for other in others)]
    match = _carried(clause)
    if match is None:
        return [clause]
    members = [member for member in _OR.split(clause[match.end() :]) if member.strip()]
    if len(members) < 2 or any(len(member.split()) > 4 for member in members[:-1]):
        return [clause]
    return [clause[: match.end()] + members[0], *(match.group() + member for member in members[1:])]


def _tidy(clause: str) -> str:
    clause = " ".join(clause.split()).strip(" \"'“”‘,;:")
    while True:
        shorter = _OPENING.sub("", clause)
        if shorter == clause:
            return clause
        clause = shorter
