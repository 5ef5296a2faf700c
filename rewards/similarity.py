"""Closeness in meaning by a frozen encoder: cosine of sentence vectors, or greedy matching of token vectors."""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.options import option
from instructrec_rl.encoders.bert import refused
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.rewards import RewardContext
from instructrec_rl.rewards.pairs import Pairs, distinct_pairs

CHUNK_PAIRS = 4096  # pairs whose vectors are in memory at a time
CELLS = 1 << 22  # numbers of token vectors that one multiplication reads: 16 MB
PAD_TO = 8
PICTURE = regex.compile(r"[[\p{Extended_Pictographic}\p{RI}\p{EMod}]--[\x00-\xff]]", regex.V1)


@dataclass
class Config:
    """variant "greedy" is BERTScore's matching, without its idf weights and without rescaling."""

    variant: str = option(
        "cosine", "cosine of sentence vectors, or greedy matching of tokens", choices=("cosine", "greedy")
    )
    multi: str = option("max", "over several references: the best, or the mean", choices=("max", "mean"))
    unreadable: str = option(
        "raise", "a response that the encoder cannot read: raise, or score it zero", choices=("raise", "zero")
    )


class Reward:
    """max(0, cos(h(response), h(reference))), or the F1 of greedy token matching. The encoder keeps every vector."""

    def __init__(self, config: Config, context: RewardContext):
        self.config, self.context = config, context

    @functools.cached_property
    def encoder(self) -> Any:
        """The environment's encoder, or the packaged one."""
        return self.context.encoder or load_encoder()

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,). A blank response scores 0, and a text equal to its reference 1.

        Raises InputError, with the row, for a text that the encoder cannot read.
        """
        pairs = distinct_pairs(batch)
        compare = self._cosines if self.config.variant == "cosine" else self._greedy
        values = np.empty(len(pairs.response))
        for start in range(0, len(values), CHUNK_PAIRS):
            left, right = pairs.response[start : start + CHUNK_PAIRS], pairs.reference[start : start + CHUNK_PAIRS]
            used, place = np.unique(np.concatenate([left, right]), return_inverse=True)
            texts = [with_names(pairs.texts[text]) for text in used.tolist()]
            readable = self._readable(texts, pairs, batch)
            left, right = place[: len(left)], place[len(left) :]
            found = compare(texts, left, right, readable)
            values[start : start + CHUNK_PAIRS] = np.where(left == right, 1.0, found) * readable[left]
        return pairs.over_references(values, self.config.multi)

    def _readable(self, texts: list[str], pairs: Pairs, batch: Batch) -> np.ndarray:
        """Which texts the encoder can read, (T,) bool; encodes them. Raises for those that must be readable."""
        encode = self.encoder.encode if self.config.variant == "cosine" else self.encoder.encode_tokens
        unreadable = refused(encode, texts)
        for row, (response, references) in enumerate(zip(batch.responses, batch.references) if unreadable else ()):
            for reference in references:
                if (reason := unreadable.get(with_names(reference))) is not None:
                    raise InputError(f"row {row}: the reference: {reason}")
            reason = unreadable.get(with_names(response))
            if reason is not None and self.config.unreadable == "raise":
                raise InputError(f"row {row}: the response: {reason} (or set unreadable=zero)")
        return np.array([text not in unreadable for text in texts])

    def _cosines(self, texts: list[str], left: np.ndarray, right: np.ndarray, readable: np.ndarray) -> np.ndarray:
        """max(0, cosine) (P,) of pairs of texts given by position."""
        vectors = np.zeros((len(texts), self.encoder.dim))
        vectors[readable] = self.encoder.encode([text for text, good in zip(texts, readable) if good], progress=False)
        blank = np.array([not text.strip() for text in texts])  # its vector would resemble everything a little
        cosines = (vectors[left] * vectors[right]).sum(1)
        lengths = np.linalg.norm(vectors, axis=1)
        cosines /= np.maximum(lengths[left] * lengths[right], 1e-12)
        return np.where(blank[left] | blank[right], 0.0, cosines.clip(0.0, 1.0))

    def _greedy(self, texts: list[str], left: np.ndarray, right: np.ndarray, readable: np.ndarray) -> np.ndarray:
        """F1 (P,) of greedy matching (Zhang et al. 2020) of pairs of texts given by position.

        P = mean_i max_j cos(x_i, y_j) over the response's tokens x, R the same over the reference's tokens y,
        F1 = 2 P R / (P + R). Pairs are multiplied in groups of one padded shape, each padded to the next multiple of
        8 of its own length, so that no pair changes another's last bits.
        """
        import torch

        device = self._device()
        tokens = self.encoder.encode_tokens(
            [text if good else "" for text, good in zip(texts, readable)], progress=False
        )
        states = torch.from_numpy(np.ascontiguousarray(tokens.states)).to(device).float()
        states = torch.nn.functional.normalize(states, dim=1)
        counts = np.diff(tokens.offsets)
        padded = -(-counts // PAD_TO) * PAD_TO
        values = np.zeros(len(left))
        live = np.flatnonzero((counts[left] > 0) & (counts[right] > 0))
        shapes = padded[left[live]] * (int(padded.max(initial=0)) + 1) + padded[right[live]]
        for shape in np.unique(shapes).tolist():
            group = live[shapes == shape]
            size = max(1, CELLS // (self.encoder.dim * int(padded[left[group[0]]] + padded[right[group[0]]])))
            for start in range(0, len(group), size):
                part = group[start : start + size]
                x, real_x = _gather(states, tokens.offsets, counts, left[part], int(padded[left[part[0]]]))
                y, real_y = _gather(states, tokens.offsets, counts, right[part], int(padded[right[part[0]]]))
                values[part] = _f1(torch.bmm(x, y.transpose(1, 2)), real_x, real_y).cpu().numpy()
        return values

    def _device(self) -> str:
        """Where to match: the encoder's device where it names one, else a GPU where there is one."""
        import torch

        asked = self.encoder.config.device
        return asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def with_names(text: str) -> str:
    """The text with Unicode's names in place of emoji, which an encoder of English cannot tell apart."""
    if text.isascii():
        return text
    return PICTURE.sub(lambda found: f" {unicodedata.name(found[0], found[0]).lower()} ", text)


def _gather(states: Any, offsets: np.ndarray, counts: np.ndarray, texts: np.ndarray, length: int) -> tuple[Any, Any]:
    """Token vectors (G, T, D) of G texts padded to `length`, and which are real (G, T) bool."""
    import torch

    real = np.arange(length) < counts[texts, None]
    rows = np.where(real, offsets[texts, None] + np.arange(length), 0)
    return states[torch.from_numpy(rows).to(states.device)], torch.from_numpy(real).to(states.device)


def _f1(cosines: Any, real_x: Any, real_y: Any) -> Any:
    """F1 (G,) in [0, 1] from cosines (G, X, Y) and which tokens are real (G, X) and (G, Y)."""
    best_x = cosines.masked_fill(~real_y[:, None], -1.0).amax(2).masked_fill(~real_x, 0.0)
    best_y = cosines.masked_fill(~real_x[:, :, None], -1.0).amax(1).masked_fill(~real_y, 0.0)
    precision = (best_x.sum(1) / real_x.sum(1)).clamp(0.0, 1.0)
    recall = (best_y.sum(1) / real_y.sum(1)).clamp(0.0, 1.0)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)
