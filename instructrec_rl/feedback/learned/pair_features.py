"""Numbers that describe an answer to an instruction: its meaning, its words, its form, and how both go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instructrec_rl.encoders.bert import refused
from instructrec_rl.rewards.tokens import words

if TYPE_CHECKING:
    from instructrec_rl.encoders.bert import Encoder

MAX_WORDS = 2048  # of the vocabulary
BASIS_TEXTS = 2000  # texts from which principal directions are taken
DIRECTIONS = {"meaning": 192, "words": 256, "together": 64}


class TextTable:
    """Vectors of distinct texts, each computed once. `rows(texts)` gives positions in what the other methods index.

    meaning: (n, D) sentence embeddings, zeros where the encoder cannot read a text; words: (n, V) TF-IDF, of length 1,
    sparse, over the vocabulary of the responses it was made with.
    """

    def __init__(self, encoder: Encoder, responses: Sequence[str]):
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.encoder = encoder
        self.tfidf = TfidfVectorizer(
            tokenizer=words, token_pattern=None, sublinear_tf=True, max_features=MAX_WORDS, dtype=np.float32
        )
        self.has_words = any(self.tfidf.build_analyzer()(text) for text in responses)
        if self.has_words:
            self.tfidf.fit(responses)
        self.place: dict[str, int] = {}
        self.meaning = np.zeros((0, encoder.dim), dtype=np.float32)
        self.words: Any = None
        self.length = np.zeros(0, dtype=np.float32)
        self.unique = np.zeros(0, dtype=np.float32)
        self.rows(responses)

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """Positions (B,) of texts; new ones are computed."""
        new = list(dict.fromkeys(text for text in texts if text not in self.place))
        if new:
            self._add(new)
        return np.fromiter((self.place[text] for text in texts), np.int64, len(texts))

    def _add(self, texts: list[str]) -> None:
        from scipy.sparse import csr_matrix, vstack

        unreadable = refused(self.encoder.encode, texts)
        meaning = np.zeros((len(texts), self.encoder.dim), dtype=np.float32)
        good = np.array([text not in unreadable for text in texts])
        meaning[good] = self.encoder.encode([text for text in texts if text not in unreadable])
        words = self.tfidf.transform(texts) if self.has_words else csr_matrix((len(texts), 1), dtype=np.float32)
        split = [self.tfidf.build_analyzer()(text) for text in texts]
        for text in texts:
            self.place[text] = len(self.place)
        self.meaning = np.concatenate([self.meaning, meaning])
        self.words = words if self.words is None else vstack([self.words, words], format="csr")
        self.length = np.append(self.length, np.log1p([len(each) for each in split])).astype(np.float32)
        unique = [len(set(each)) / max(1, len(each)) for each in split]
        self.unique = np.append(self.unique, unique).astype(np.float32)


class _Basis:
    """Principal directions of rows that were seen, scaled so that these have a mean squared length of 1."""

    def __init__(self, rows: np.ndarray, directions: int):
        self.mean = rows.mean(0)
        centred = rows - self.mean
        self.scale = 1 / max(float(np.sqrt((centred**2).sum(1).mean())), 1e-9)
        if len(rows) < rows.shape[1]:  # the smaller Gram matrix of the two
            values, vectors = np.linalg.eigh(centred @ centred.T)
            kept = np.flatnonzero(values > 1e-6 * max(float(values[-1]), 1e-12))[-directions:]
            self.directions = (centred.T @ vectors[:, kept]) / np.sqrt(values[kept])
        else:
            values, vectors = np.linalg.eigh(centred.T @ centred)
            kept = np.flatnonzero(values > 1e-6 * max(float(values[-1]), 1e-12))[-directions:]
            self.directions = vectors[:, kept]

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (B, k), and the squared length (B,) of what lies outside the directions."""
        centred = (rows - self.mean) * self.scale
        inside = centred @ self.directions
        return inside, ((centred**2).sum(1) - (inside**2).sum(1)).clip(0)


class PairFeatures:
    """Features of (instruction, response) pairs, in blocks each of which has mean squared length 1 over the pairs seen.

    meaning: the response's sentence embedding; words: its TF-IDF; form: its length, the share of its words that differ,
    and, where instructions differ, how alike instruction and response are in meaning and in words; together: the
    elementwise product of both embeddings. The last two give what no sum of parts can: an order of the responses that
    depends on the instruction. constant: a column of ones, the last. blocks: the columns of each by name; size: F.
    """

    def __init__(self, encoder: Encoder, instructions: Sequence[str], responses: Sequence[str]):
        distinct = list(dict.fromkeys(responses))
        self.table = TextTable(encoder, distinct)
        self.several = len(set(instructions)) > 1
        few = _spread(len(distinct), BASIS_TEXTS)
        self.bases = {
            "meaning": _Basis(self.table.meaning[few], DIRECTIONS["meaning"]),
            "words": _Basis(self.table.words[few].toarray(), DIRECTIONS["words"]),
        }
        chosen = _spread(len(responses), BASIS_TEXTS)
        asked = self.table.rows([instructions[i] for i in chosen])
        answered = self.table.rows([responses[i] for i in chosen])
        form = self._form(asked, answered)
        self.form_mean, self.form_scale = form.mean(0), 1 / np.maximum(form.std(0), 1e-6) / form.shape[1] ** 0.5
        if self.several:
            self.bases["together"] = _Basis(self._together(asked, answered), DIRECTIONS["together"])
        sizes = {name: basis.directions.shape[1] for name, basis in self.bases.items()}
        sizes |= {"form": form.shape[1], "constant": 1}
        self.size = sum(sizes.values())
        ends = np.cumsum(list(sizes.values()))
        self.blocks = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends)}

    def __call__(self, instructions: Sequence[str], responses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Features (B, F) float32, and the squared length (B,) of what of each pair they do not hold."""
        asked, answered = self.table.rows(instructions), self.table.rows(responses)
        used, place = np.unique(answered, return_inverse=True)
        parts, outside = [], np.zeros(len(answered))
        for name, rows in (("meaning", self.table.meaning[used]), ("words", self.table.words[used].toarray())):
            inside, rest = self.bases[name](rows)
            parts.append(inside[place])
            outside += rest[place]
        if self.several:
            inside, rest = self.bases["together"](self._together(asked, answered))
            parts.append(inside)
            outside += rest
        parts.append((self._form(asked, answered) - self.form_mean) * self.form_scale)
        parts.append(np.ones((len(answered), 1)))
        return np.concatenate(parts, axis=1).astype(np.float32), outside

    def _together(self, asked: np.ndarray, answered: np.ndarray) -> np.ndarray:
        return self.table.meaning[asked] * self.table.meaning[answered]

    def _form(self, asked: np.ndarray, answered: np.ndarray) -> np.ndarray:
        table = self.table
        columns = [table.length[answered], table.unique[answered]]
        if self.several:
            columns += [
                (table.meaning[asked] * table.meaning[answered]).sum(1),
                np.asarray(table.words[asked].multiply(table.words[answered]).sum(1)).ravel(),
                table.length[answered] - table.length[asked],
            ]
        return np.stack(columns, axis=1)


def _spread(size: int, most: int) -> np.ndarray:
    """At most `most` positions spread evenly over `size`."""
    return np.unique(np.linspace(0, max(0, size - 1), min(size, most)).round().astype(np.int64))
