"""Overrides such as `algo.interactions=20000`, in Hydra's grammar. Hydra is imported when there are some to read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError

NO_TEXT = re.compile(r"(?i)null|true|false|[-+]?(?:nan|inf)|[-+.\d].*")  # Hydra reads it as something else
PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")  # what Hydra's grammar takes without quotes


@dataclass(frozen=True)
class Setting:
    """One `key=value`; `origin` is the experiment file it came from, None for the command line.

    text: the value as it was typed on the command line, where it was not in quotes: `1_000` is a number to Hydra, and
    for an option that is a text it is that text.
    """

    key: str
    value: Any
    origin: Path | None = None
    text: str = ""

    @property
    def name(self) -> str:
        """The value as a name: as it was typed."""
        return self.text or str(self.value)

    def error(self, reason: str) -> InputError:
        """An InputError that names the key, the value and the file."""
        return InputError(f"{self.key}={shown(self.value)}: {reason}", self.origin)


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(overrides: Iterable[str]) -> list[Setting]:
    """Command-line overrides in Hydra's grammar. Raises InputError for malformed ones and for sweeps."""
    from hydra.core.override_parser.types import OverrideType

    settings = []
    for text, parsed in zip(overrides, parse_grammar(overrides), strict=True):
        if parsed.type == OverrideType.DEL or parsed.package is not None:
            raise InputError(f'malformed override "{text}": expected key=value')
        if parsed.key_or_group.startswith("hydra"):
            raise InputError(f"{parsed.key_or_group}: options of Hydra's launchers need -m (a sweep)")
        if parsed.is_sweep_override():
            raise InputError(
                f'{text}: several values are a sweep, which needs -m; quote a text that has commas: "{_quoted(text)}"'
            )
        value = parsed.value()
        typed = text.partition("=")[2].strip() if isinstance(value, bool | int | float) else ""
        settings.append(Setting(parsed.key_or_group, value, text=typed))
    return settings


def _quoted(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key}='{value}'"


def parse_grammar(overrides: Iterable[str]) -> list[Any]:
    """Hydra's `Override` objects. Raises InputError for what is not key=value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            words = text.split(maxsplit=1)
            hint = f' Did you mean "{"=".join(words)}"?' if len(words) == 2 else " An example: env=pizza_rec"
            raise InputError(f'malformed override "{text}": expected key=value.{hint}')
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            hint = f' Quote a value with special characters: "{_quoted(text)}"' if key.strip() and value else ""
            raise InputError(f'malformed override "{text}": expected key=value.{hint}') from error
    return parsed


def override(key: str, value: Any) -> str:
    """`key=value` in Hydra's grammar, quoted where it must be."""
    return f"{key}={_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_written(key)}:{_written(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_written, value)) + "]"
    text = shown(value)
    if not isinstance(value, str) or (PLAIN.fullmatch(text) and not NO_TEXT.fullmatch(text)):
        return text
    slashes = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{slashes}'"
