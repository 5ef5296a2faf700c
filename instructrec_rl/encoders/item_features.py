"""What a policy sees of an item: its attributes as numbers, its text's embedding, or only which item it is."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from instructrec_rl.core import InputError, Item
from instructrec_rl.core.json_reader import is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

MAX_THRESHOLDS = 32
MAX_WORDS = 2_048  # values of one attribute that become indicators, the most frequent ones
MAX_INDICATED = 4_096  # items up to which each has an indicator of its own, which makes A x A numbers

TEXT_LENGTH = 3.0  # Euclidean length of an item's text features
PRIOR = 0.5  # Q at the start is this times the cosine: well inside the range of a reward in [0, 1]


def item_features(
    items: Sequence[Item], kind: str, embed: Callable[[], np.ndarray]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The action side of Q: features x (A, F) float32, the first column constant, and a zero-shot start P (F, D).

    With P, the untrained Q(s, a) = x(a) . P e(s) is half the cosine between instruction and item text, less its mean.
    Exploration then begins at what the words alone suggest. P is None where the features do not hold the text: Q then
    starts at zero.

    kind: `attributes` (categories as indicators, lists as several, numbers as "at most t" for each threshold t),
    `text` (the text's embedding beside an indicator of the item, the embedding alone over `MAX_INDICATED` items),
    `ids` (the indicator alone), or `auto`: attributes where the catalog has any, with the text beside
    them where they do not tell all items apart, else text. embed: gives the texts'
    embeddings (A, D); called for the text only. Raises InputError for `ids` over `MAX_INDICATED` items.
    """
    parts = [np.ones((len(items), 1), dtype=np.float32)]
    if kind in ("auto", "attributes") and (columns := _attribute_columns(items)):
        parts += [np.stack(columns, axis=1)]
        alike = _alike(parts[-1])
        if alike:
            _say_alike([items[position] for position in alike], kind)
        if kind == "attributes" or not alike:
            return np.concatenate(parts, axis=1), None
    # an indicator of each item, and its text
    indicated = len(items) <= MAX_INDICATED
    if kind == "ids" and not indicated:
        raise InputError(
            f"algo.item_features=ids: an indicator for each of {len(items):,} items would take {len(items):,} squared "
            f"numbers; expected at most {MAX_INDICATED:,} items, or algo.item_features=attributes or text"
        )
    identity = np.eye(len(items), dtype=np.float32) if indicated else np.empty((len(items), 0), dtype=np.float32)
    if kind == "ids":
        return np.concatenate([*parts, identity], axis=1), None
    vectors = embed()
    spread = vectors - vectors.mean(0)  # texts of one catalog share most of their direction
    # as long as a row of attributes is: entries of unit variance made DQN's updates unstable
    scale = max(float(np.linalg.norm(spread, axis=1).mean()), 1e-6) / TEXT_LENGTH
    first = sum(part.shape[1] for part in parts)
    features = np.concatenate([*parts, spread / scale, identity], axis=1)
    prior = np.zeros((features.shape[1], vectors.shape[1]), dtype=np.float32)
    prior[first : first + vectors.shape[1]] = PRIOR * scale * np.eye(vectors.shape[1])
    return features, prior


def _alike(columns: np.ndarray) -> list[int]:
    """Positions of the first two items that have the same attributes, or nothing where all differ."""
    first: dict[bytes, int] = {}
    for position, row in enumerate(columns):
        before = first.setdefault(row.tobytes(), position)
        if before != position:
            return [before, position]
    return []


def _say_alike(pair: Sequence[Item], kind: str) -> None:
    said = "their texts are read too" if kind == "auto" else "they can never be told apart; use algo.item_features=auto"
    log.warning('items with the same attributes, "%s" and "%s" among them: %s', pair[0].id, pair[1].id, said)


def _attribute_columns(items: Sequence[Item]) -> list[np.ndarray]:
    """Indicators that tell items apart. Free text (a value of its own for most items) is no attribute."""
    names = sorted({name for item in items for name in item.attributes})
    columns: list[np.ndarray] = []
    for name in names:
        values = [item.attributes.get(name) for item in items]
        if all(is_number(value) for value in values):
            distinct = np.unique(np.array(values, dtype=np.float64))
            if len(distinct) > MAX_THRESHOLDS:
                distinct = np.unique(np.quantile(distinct, np.linspace(0, 1, MAX_THRESHOLDS + 1), method="lower"))
            columns += [np.array(values) <= threshold for threshold in distinct[:-1]]
            continue
        members = [_members(value) for value in values]
        vocabulary = sorted({member for each in members for member in each})
        if len(vocabulary) > len(items) / 2 and not any(isinstance(value, list) for value in values):
            continue
        if len(vocabulary) > MAX_WORDS:
            counts = Counter(member for each in members for member in each)
            vocabulary = sorted(sorted(vocabulary, key=lambda word: (-counts[word], word))[:MAX_WORDS])
        columns += [np.array([word in each for each in members]) for word in vocabulary]
    return [column.astype(np.float32) for column in columns if 0 < column.sum() < len(items)]


def _members(value: Any) -> set[str]:
    if value is None:
        return set()
    return {str(member) for member in (value if isinstance(value, list) else [value])}
