"""Zero-shot TF-IDF: the item whose text shares the most telling words with the instruction. No embedding, no label."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.core.forms import Form, read_form
from instructrec_rl.rewards.tokens import WORD_RULES, WORDS_VERSION, word_rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import BaselineConfig
    from instructrec_rl.core import Item
    from instructrec_rl.encoders.states import Asked
    from instructrec_rl.env.environment import Environment

FILE = "tfidf.json"


class About(Form):
    """tfidf.json: each known word's inverse document frequency, which is at least 1, and the rule that finds words."""

    idf: Annotated[dict[str, Annotated[float, Field(ge=1, lt=1e6)]], Field(min_length=1)]
    words: int = 1  # files older than the second rule do not name it


@dataclass
class TfidfPolicy:
    """idf: each known word's inverse document frequency, in the vocabulary's order; texts: the items' (A).

    words: the rule of WORD_RULES that finds words.
    """

    idf: Mapping[str, float]
    texts: list[str]
    words: int = WORDS_VERSION
    _fitted: tuple[Any, Any] | None = field(default=None, repr=False)

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`. Where no word is shared, the menu's first item."""
        return menu[self.scores(asked, menu, context).argmax(1)]

    def scores(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The score of each item on the menu, (B, M)."""
        if self._fitted is None:
            vectorizer = _vectorizer(self.words, vocabulary={word: column for column, word in enumerate(self.idf)})
            vectorizer.idf_ = np.array(list(self.idf.values()))
            self._fitted = vectorizer, vectorizer.transform(self.texts)
        vectorizer, items = self._fitted
        return (vectorizer.transform(asked.texts) @ items[menu].T).toarray()

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        write_json_atomic(folder / FILE, {"idf": self.idf, "words": self.words})


def _vectorizer(rule: int = WORDS_VERSION, **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(tokenizer=WORD_RULES[rule], token_pattern=None, **options)


def learn(env: Environment, config: BaselineConfig, recorder: Recorder) -> TfidfPolicy:
    """Count in how many texts (the items' and the training instructions') each word stands."""
    texts = list(env.item_texts)
    vectorizer = _vectorizer().fit(texts + list(env.instructions[env.spec.rows("train")]))
    words = vectorizer.get_feature_names_out()
    return TfidfPolicy(dict(zip(words.tolist(), vectorizer.idf_.tolist())), texts)


def load(folder: Path, items: list[Item], dim: int | None = None) -> TfidfPolicy:
    """Read what `save` wrote."""
    about = read_form(folder / FILE, About)
    return TfidfPolicy(about.idf, [item.text for item in items], word_rule({"words": about.words}, folder / FILE))
