"""1 where the response equals a reference or names a right item, else 0."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np

from instructrec_rl.core import Batch
from instructrec_rl.core.options import option
from instructrec_rl.core.same_text import canonical
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.pairs import distinct_pairs

ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass
class Config:
    """Case, white space and invisible marks never count; these drop more before comparing, as SQuAD's script does."""

    punctuation: bool = option(False, "drop punctuation and symbols before comparing")
    articles: bool = option(False, "drop the English articles a, an, the before comparing")
    unicode: bool = option(False, "compare in Unicode's form NFKC: full-width letters, ligatures, composed accents")


class Reward:
    """Exact match after normalisation; where there is a catalog, an item's name or id counts as its text."""

    def __init__(self, config: Config, context: RewardContext):
        self.config, self.items = config, context.items
        self.find_items = ItemFinder(context.items)
        self.item_texts = [self._normalise(item.text) for item in context.items]

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,), each 0 or 1."""
        pairs = distinct_pairs(batch)
        texts = list(map(self._normalise, pairs.texts))
        items = self.find_items(pairs.texts)
        named = [self.item_texts[item] if item >= 0 else text for item, text in zip(items, texts)]
        ids = {text: place for place, text in enumerate(dict.fromkeys([*texts, *named]))}
        as_text, as_item = (np.array([ids[text] for text in column]) for column in (texts, named))
        response, reference = pairs.response, pairs.reference
        right = (as_text[response] == as_text[reference]) | (as_item[response] == as_item[reference])
        # where both name an item, the items decide: their texts may differ by case alone
        both = (items[response] >= 0) & (items[reference] >= 0)
        right = np.where(both, items[response] == items[reference], right)
        scores = pairs.best(right)
        if batch.rows is not None and self.items:
            scores = scores | self._names_best(batch)
        return scores.astype(np.float64)

    def _names_best(self, batch: Batch) -> np.ndarray:
        """Where the item named is among the row's `best` ids (references may be worded freely): (B,) bool."""
        rows = batch.rows or []
        named = self.find_items(batch.responses).tolist()
        return np.array(
            [item >= 0 and self.items[item].id in row.get("best", ()) for item, row in zip(named, rows)], dtype=bool
        )

    def _normalise(self, text: str) -> str:
        if self.config.unicode:
            text = unicodedata.normalize("NFKC", text)
        text = canonical(text).casefold()
        if self.config.punctuation:
            text = "".join(char for char in text if unicodedata.category(char)[0] not in "PS")
        if self.config.articles:
            text = ARTICLES.sub(" ", text)
        return " ".join(text.split())
