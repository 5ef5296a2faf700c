"""A small part of JSON Schema (draft 2020-12), enough to say what shape an answer must have.

Known keywords: type, enum, const, required, properties, additionalProperties (true or false), items, minItems,
maxItems, minLength, maxLength, pattern, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf. `title`,
`description`, `$schema`, `default` and `examples` say nothing about a value. Any other keyword is refused: an ignored
one would pass what it should not. A pattern means what ECMA 262 says (ecma_patterns.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.json_reader import is_number
from instructrec_rl.rewards.ecma_patterns import PatternError, ecma_pattern, found_in

Schema = Mapping[str, Any]


TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": is_number,
    "integer": lambda value: is_number(value) and (isinstance(value, int) or value.is_integer()),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _same(left: Any, right: Any) -> bool:
    """JSON's equality: 1 is 1.0 but not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(held, right[key]) for key, held in left.items())
    return bool(left == right)


def _is_multiple(value: float, of: float) -> bool:
    """Whether value / of is an integer, as the numbers are written: 0.3 is a multiple of 0.1."""
    exact, unit = (Fraction(number) if isinstance(number, int) else Fraction(repr(number)) for number in (value, of))
    return (exact / unit).denominator == 1


# Keyword -> (the type it speaks of, "" for any; the value fits it). As in JSON Schema, other types pass.
RULES: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "type": ("", lambda value, kind: any(TYPES[one](value) for one in ([kind] if isinstance(kind, str) else kind))),
    "enum": ("", lambda value, allowed: any(_same(value, one) for one in allowed)),
    "const": ("", _same),
    "required": ("object", lambda value, keys: all(key in value for key in keys)),
    "properties": (
        "object",
        lambda value, inner: all(fits(value[key], schema) for key, schema in inner.items() if key in value),
    ),
    "items": ("array", lambda value, schema: all(fits(one, schema) for one in value)),
    "minItems": ("array", lambda value, low: len(value) >= low),
    "maxItems": ("array", lambda value, high: len(value) <= high),
    "minLength": ("string", lambda value, low: len(value) >= low),
    "maxLength": ("string", lambda value, high: len(value) <= high),
    "pattern": (
        "string",
        lambda value, pattern: found_in(ecma_pattern(pattern), value, f"the schema's pattern {pattern}"),
    ),
    "minimum": ("number", lambda value, low: value >= low),
    "maximum": ("number", lambda value, high: value <= high),
    "exclusiveMinimum": ("number", lambda value, low: value > low),
    "exclusiveMaximum": ("number", lambda value, high: value < high),
    "multipleOf": ("number", _is_multiple),
}
SILENT = {"title", "description", "$schema", "default", "examples", "additionalProperties"}
COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
OPERANDS = {"required": list, "properties": dict, "enum": list, "items": dict, "pattern": str}


def fits(value: Any, schema: Schema) -> bool:
    """Whether a value read from JSON has the shape that a schema, checked by `check_schema`, asks for."""
    for keyword, operand in schema.items():
        if keyword in SILENT:
            continue
        kind, rule = RULES[keyword]
        if (not kind or TYPES[kind](value)) and not rule(value, operand):
            return False
    if schema.get("additionalProperties", True) is False and isinstance(value, dict):
        return value.keys() <= schema.get("properties", {}).keys()
    return True


def check_schema(schema: Any, where: str = "schema") -> None:
    """Raises InputError, with the place in the schema, for a keyword that is not known or holds the wrong thing."""
    if not isinstance(schema, Mapping):
        raise InputError(f"{where}: expected an object, got {schema!r}")
    for keyword, operand in schema.items():
        if keyword not in RULES and keyword not in SILENT:
            raise InputError(f'{where}: the keyword "{keyword}" is not supported.{nearest(str(keyword), RULES)}')
        wanted = OPERANDS.get(keyword)
        if wanted and not isinstance(operand, Mapping if wanted is dict else wanted):
            raise InputError(f"{where}.{keyword}: expected a {wanted.__name__}, got {operand!r}")
        if wanted is list and keyword == "required" and not all(isinstance(key, str) for key in operand):
            raise InputError(f"{where}.required: expected a list of texts, got {operand!r}")
        if keyword in (*COUNTS, *BOUNDS) and not (is_number(operand) and (operand - operand == 0)):  # nor inf, nor nan
            raise InputError(f"{where}.{keyword}: expected a number, got {operand!r}")
        if keyword in COUNTS and (operand < 0 or operand % 1):
            raise InputError(f"{where}.{keyword}: expected a count of at least 0, got {operand!r}")
    if not isinstance(schema.get("additionalProperties", True), bool):
        raise InputError(f"{where}.additionalProperties: expected true or false")
    if schema.get("multipleOf", 1) <= 0:
        raise InputError(f"{where}.multipleOf: expected a number above 0, got {schema['multipleOf']!r}")
    _check_type_and_pattern(schema, where)
    for key, inner in schema.get("properties", {}).items():
        check_schema(inner, f"{where}.properties.{key}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}.items")


def _check_type_and_pattern(schema: Schema, where: str) -> None:
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in TYPES:
            raise InputError(f'{where}.type: "{kind}" is not a type.{nearest(str(kind), TYPES)}')
    try:
        ecma_pattern(schema.get("pattern", ""))
    except PatternError as error:
        raise InputError(f"{where}.pattern: not a regular expression of ECMA 262: {error}") from error
