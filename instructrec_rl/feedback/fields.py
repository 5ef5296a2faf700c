"""A row of another tool's export, and its texts."""

from __future__ import annotations

from typing import Any

from instructrec_rl.core import InputError

Fields = dict[str, Any]


def text_of(fields: Fields, names: tuple[str, ...]) -> str:
    """The text of the first of `names` that is there. Raises InputError for none of them, and for what is no text."""
    for name in names:
        if name in fields:
            if not isinstance(fields[name], str):
                raise InputError(f"{name}: expected text, got {fields[name]!r:.60}")
            return str(fields[name])
    raise InputError(f"has none of the fields {', '.join(names)}")
