"""Who may come in: one token for everybody, or one for each person, by which the server knows who answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from instructrec_rl.core import InputError

TOKEN_VARIABLE = "INSTRUCTREC_ANNOTATE_TOKEN"
MIN_LENGTH, MAX_LENGTH = 12, 128
MAX_NAME = 64
_TOKEN = re.compile(rf"[0-9A-Za-z._~-]{{{MIN_LENGTH},{MAX_LENGTH}}}")


@dataclass(frozen=True)
class Keys:
    """secret: "" where nothing needs to be shown; people: the token of each person by name, if they have one each."""

    secret: str = ""
    people: Mapping[str, str] = field(default_factory=dict)

    @property
    def cookie(self) -> str:
        """The cookie's name: browsers keep the cookies of one machine's ports together, so each secret has its own."""
        return f"instructrec_{hashlib.sha256(self.secret.encode()).hexdigest()[:8]}"

    @property
    def links(self) -> dict[str, str]:
        """The tokens to give out, by the name they stand for; "" for anybody."""
        return dict(self.people) or {"": self.secret}

    def person(self, shown: str) -> str | None:
        """Whom a token lets in: a person's name, "" for anybody; None where it is no token of these."""
        given = shown.encode("utf-8", "replace")
        if not self.secret:
            return ""
        # all are compared, so that the time tells nothing
        found = [name for name, token in self.links.items() if hmac.compare_digest(given, token.encode())]
        return found[0] if found else None


def make_keys(names: Sequence[str] = (), needed: bool = False) -> Keys:
    """Keys by $INSTRUCTREC_ANNOTATE_TOKEN, or new ones where they are needed: for several people, or beyond loopback.

    A person's token follows from the secret and the name, so that it stays the same where the variable is set. Raises
    InputError for a variable that is no token.
    """
    secret = os.environ.get(TOKEN_VARIABLE, "")
    if secret and not _TOKEN.fullmatch(secret):
        raise InputError(
            f"${TOKEN_VARIABLE}: a token has {MIN_LENGTH} to {MAX_LENGTH} characters, each a letter from A to Z, a "
            f"digit, or one of . _ ~ -; this one has {len(secret)}" + _strange(secret)
        )
    if not secret and (needed or names):
        secret = secrets.token_urlsafe(24)
    return Keys(secret, {name: _token_of(secret, name) for name in names})


def _strange(secret: str) -> str:
    """Which character does not belong, without the others: they are a secret."""
    found = next((character for character in secret if not re.fullmatch("[0-9A-Za-z._~-]", character)), None)
    return "" if found is None else f", one of them {found!a}"


def _token_of(secret: str, name: str) -> str:
    digest = hmac.new(secret.encode(), b"annotator\0" + name.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest[:24]).decode()


def people_of(text: str) -> list[str]:
    """The names in `people=ann,bob`. Raises InputError for names that cannot be told apart, or shown."""
    if not text.strip():
        return []
    names = [unicodedata.normalize("NFC", " ".join(name.split())) for name in text.split(",")]
    for i, name in enumerate(names):
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise InputError(f"people={text[:80]!a}: name {i + 1} has {len(name)} characters; expected 1 to {MAX_NAME} "
                             "that can be shown, with commas between the names")  # fmt: skip
    folded = [name.casefold() for name in names]
    if twice := next((name for name in folded if folded.count(name) > 1), None):
        raise InputError(f"people={text[:80]!a}: {twice!a} is there twice")
    return names
