"""Supervised learning with full information on word 1- and 2-grams: what the words alone give, with no embeddings.

Ridge regression from the instruction's TF-IDF vector to one target an item: 1 where the item is among the best, else 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field
from safetensors.numpy import save

from instructrec_rl.core.files import write_bytes_atomic, write_json_atomic
from instructrec_rl.core.forms import Form, read_form
from instructrec_rl.core.tensor_files import read_tensors
from instructrec_rl.rewards.tokens import WORD_RULES, WORDS_VERSION, word_rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import BaselineConfig
    from instructrec_rl.core import Item
    from instructrec_rl.encoders.states import Asked
    from instructrec_rl.env.environment import Environment

FILES = "ngrams.safetensors", "ngrams.json"
STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # of the penalty; the one that is best on validation is kept


class About(Form):
    """ngrams.json: each known word's inverse document frequency, which is at least 1, and the rule that finds words."""

    idf: Annotated[dict[str, Annotated[float, Field(ge=1, lt=1e6)]], Field(min_length=1)]
    words: int = 1  # files older than the second rule do not name it


@dataclass
class NgramsPolicy:
    """idf: each n-gram's inverse document frequency, in the vocabulary's order (V).

    weights: (V, A) and bias: (A,), float32; known: (A,) uint8, 0 for items that are right for no training instruction.
    """

    idf: Mapping[str, float]
    weights: np.ndarray
    bias: np.ndarray
    known: np.ndarray
    words: int = WORDS_VERSION  # the rule of WORD_RULES that finds words
    _vectorizer: Any = field(default=None, repr=False)

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`. An item never seen as right is chosen only where the menu has no other."""
        return menu[self.scores(asked, menu, context).argmax(1)]

    def scores(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The score of each item on the menu, (B, M)."""
        if self._vectorizer is None:
            self._vectorizer = _new_vectorizer({gram: column for column, gram in enumerate(self.idf)}, self.words)
            self._vectorizer.idf_ = np.array(list(self.idf.values()))
        values = self._vectorizer.transform(asked.texts).astype(np.float32) @ self.weights[:, menu] + self.bias[menu]
        return np.where(self.known[menu], values, -np.inf)

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        write_bytes_atomic(folder / FILES[0], save({"weights": self.weights, "bias": self.bias, "known": self.known}))
        write_json_atomic(folder / FILES[1], {"idf": self.idf, "words": self.words})


def _new_vectorizer(vocabulary: dict[str, int] | None = None, rule: int = WORDS_VERSION) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        tokenizer=WORD_RULES[rule], token_pattern=None, ngram_range=(1, 2), sublinear_tf=True, vocabulary=vocabulary
    )


def learn(env: Environment, config: BaselineConfig, recorder: Recorder) -> NgramsPolicy:
    """Fit on the training split, once for each of STRENGTHS; keep the best on validation by the first task metric."""
    from sklearn.linear_model import Ridge

    recorder.load_checkpoint()  # there is none; what a stopped run logged is dropped
    rows = env.spec.rows("train")
    vectorizer = _new_vectorizer()
    counts = vectorizer.fit_transform(env.instructions[rows])
    idf = dict(zip(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.tolist()))
    right = np.zeros((len(rows), len(env.items)))
    for place, row in enumerate(rows):
        right[place, list(env.examples[row].best)] = 1.0
    known = (right.sum(0) > 0).astype(np.uint8)
    scored: list[tuple[float, NgramsPolicy]] = []
    for number, strength in enumerate(STRENGTHS, start=1):
        model = Ridge(alpha=strength, solver="sparse_cg", tol=1e-3).fit(counts, right)
        weights = np.ascontiguousarray(model.coef_.reshape(len(env.items), -1).T, dtype=np.float32)
        policy = NgramsPolicy(idf, weights, np.broadcast_to(model.intercept_, len(env.items)).astype(np.float32), known)
        scores = recorder.validate(policy)
        scored.append((scores[env.spec.metrics[0]], policy))
        recorder.log(number * len(rows), **{f"validation/{name}": value for name, value in scores.items()})
        recorder.progress(number, len(STRENGTHS), "")
        if recorder.stopping and number < len(STRENGTHS):
            raise KeyboardInterrupt
    return max(scored, key=lambda pair: pair[0])[1]


def load(folder: Path, items: list[Item], dim: int | None = None) -> NgramsPolicy:
    """Read what `save` wrote."""
    path = folder / FILES[1]
    about = read_form(path, About)
    expected = {"weights": ("F32", len(about.idf), "A"), "bias": ("F32", "A"), "known": ("U8", "A")}
    tensors = read_tensors(folder / FILES[0], expected, A=len(items))
    return NgramsPolicy(about.idf, **tensors, words=word_rule({"words": about.words}, path))
