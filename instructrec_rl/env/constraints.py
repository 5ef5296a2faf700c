"""What it means for an item to satisfy a constraint. The `constraints` reward and the environments share it.

A constraint is a record {"kind", "attribute", "op", "value"}; `kind` is a label for reports and decides nothing. Values
are equal as `core.same_text.same_value` has it: `true` is not 1, and a text's Unicode form does not count.

| op | value | attribute | satisfied where | item without the attribute |
|---|---|---|---|---|
| has, lacks | one value | list | the value is (is not) in the list | has: no, lacks: yes |
| is, is_not | one value | one value | they are equal (differ) | is: no, is_not: yes |
| any_of, none_of | list | one value or list | they overlap (do not) | any_of: no, none_of: yes |
| at_most, at_least | number | number | attribute <= value (>= value) | no |
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from instructrec_rl.core import InputError, Item, nearest
from instructrec_rl.core.json_reader import is_number
from instructrec_rl.core.same_text import comparable

OPS = ("has", "lacks", "is", "is_not", "any_of", "none_of", "at_most", "at_least")
NEGATIVE = {"lacks": "has", "is_not": "is", "none_of": "any_of"}


def satisfies(constraint: dict[str, Any], items: Sequence[Item]) -> np.ndarray:
    """Which items satisfy the constraint: (A,) bool.

    Raises InputError for a missing field, an unknown op, an attribute that no item has, and a value or an attribute
    of a type that the op cannot compare. An attribute that is null counts as one that the item does not have.
    """
    attribute, op, value = _fields(constraint)
    if not any(item.attributes.get(attribute) is not None for item in items):
        known = {key for item in items for key, held in item.attributes.items() if held is not None}
        raise InputError(f'no item has the attribute "{attribute}".{nearest(attribute, known)}')
    test = _test(NEGATIVE.get(op, op), value)
    result = np.zeros(len(items), dtype=bool)
    for position, item in enumerate(items):
        held = item.attributes.get(attribute)
        if held is not None:
            try:
                result[position] = test(held)
            except TypeError as error:
                raise InputError(f'item "{item.id}": {attribute} is {held!r}, but op "{op}" needs {error}') from error
    return ~result if op in NEGATIVE else result


def constraint_matrix(constraints: Sequence[dict[str, Any]], items: Sequence[Item]) -> np.ndarray:
    """`satisfies` for K constraints: (K, A) bool."""
    rows = [satisfies(constraint, items) for constraint in constraints]
    return np.stack(rows) if rows else np.zeros((0, len(items)), dtype=bool)


def _fields(constraint: dict[str, Any]) -> tuple[str, str, Any]:
    if not isinstance(constraint, dict):
        raise InputError(f"a constraint is a record with attribute, op and value, got {constraint!r}")
    for field in ("attribute", "op", "value"):
        if field not in constraint:
            raise InputError(f'a constraint lacks "{field}": {constraint!r}')
    if constraint["op"] not in OPS:
        raise InputError(f'unknown op "{constraint["op"]}" in a constraint.{nearest(str(constraint["op"]), OPS)}')
    return str(constraint["attribute"]), constraint["op"], constraint["value"]


def _test(op: str, value: Any) -> Callable[[Any], bool]:
    """The test for one positive op. It raises TypeError, whose text is what the op needs, on an unfit attribute."""
    if op in ("at_most", "at_least"):
        if not is_number(value) or value != value:
            raise InputError(f'op "{op}" needs a number as value, got {value!r}')
        compare = operator.le if op == "at_most" else operator.ge
        return lambda held: bool(compare(_number(held), value))
    if op == "any_of":
        if not isinstance(value, list | tuple):
            raise InputError(f'op "any_of" or "none_of" needs a list as value, got {value!r}')
        wanted = [comparable(one) for one in value]
        return lambda held: any(
            comparable(one) in wanted for one in (held if isinstance(held, list | tuple) else [held])
        )
    if isinstance(value, list | tuple | dict):
        raise InputError(f'op "{op}" or its negative needs one value, got {value!r}')
    one_wanted = comparable(value)
    if op == "has":
        return lambda held: one_wanted in map(comparable, _list(held))
    return lambda held: comparable(_single(held)) == one_wanted


def _number(held: Any) -> Any:
    if not is_number(held) or held != held:
        raise TypeError("a number")
    return held


def _listed(held: Any) -> Sequence[Any]:
    return held if isinstance(held, list | tuple) else [held]


def _list(held: Any) -> Sequence[Any]:
    if not isinstance(held, list | tuple):
        raise TypeError("a list")
    return held


def _single(held: Any) -> Any:
    if isinstance(held, list | tuple | dict):
        raise TypeError("one value, not a list")
    return held
