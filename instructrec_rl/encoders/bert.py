"""Sentence and token vectors from a frozen BERT-like encoder, each text once: a cache on disk holds what was encoded.

The vector of a text never depends on the texts beside it. Every text is padded to the next multiple of 8 of its own
length, never to its neighbour's, so on a CPU the result is the same bit for bit at any batch size and whatever the
cache held before.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instructrec_rl.core import InputError
from instructrec_rl.core.terminal import counted
from instructrec_rl.encoders import model_files as encoder_model
from instructrec_rl.encoders import onnx_engine
from instructrec_rl.encoders.cache import SHARD_TEXTS, Arrays, EmbeddingCache, cache_folder, text_keys

PAD_TO = 8
# A CPU's matrix product adds in another order where it has few rows: measured, under 16 with MKL in fp32 and under 384
# with oneDNN on AMX in bf16. A smaller batch is filled up with copies of its own texts, so that no vector feels it.
FEWEST_TOKENS = {"fp32": 16, "bf16": 384}
SHOW_FROM = 512  # texts; fewer take less than a second or two, and no bar is shown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderConfig:
    """Options of the encoder.

    name: "minilm" (packaged all-MiniLM-L6-v2) or "hf" (the BERT-like model named by `model`); model: a folder or a hub
    id; pooling: auto, mean, cls or max; max_tokens: longer texts are cut, special tokens included; batch_size: texts a
    forward pass, 0 is 64 on a CPU and 512 on a GPU; dtype: auto, bf16 or fp32; device: auto, cpu, cuda or cuda:N;
    engine: torch, onnx (the extra `onnx`, fp32 on a CPU), or auto: onnx where it is installed and pays; cache: a
    folder; max_unknown: the share of unknown tokens in [0, 1] above which a text is refused.
    """

    name: str = "minilm"
    model: str = ""
    pooling: str = "auto"
    max_tokens: int = 128
    batch_size: int = 0
    dtype: str = "auto"
    device: str = "auto"
    engine: str = "auto"
    cache: str = ""
    max_unknown: float = 0.3


class TokenStates(NamedTuple):
    """Contextual token vectors of N texts, packed: text i has the rows offsets[i] to offsets[i + 1].

    offsets (N + 1,) int64; states (S, D) float16, the last layer as it is, not normalised; spans (S, 2) int32, the
    characters [start, end) of each token in its text. Special tokens are left out, so an empty text has no row.
    """

    offsets: np.ndarray
    states: np.ndarray
    spans: np.ndarray


@dataclass(frozen=True)
class _Tokens:
    """Token ids of N texts, packed by offsets (N + 1,); `unknown` (N,) is each text's share of unreadable tokens."""

    ids: np.ndarray
    content: np.ndarray
    spans: np.ndarray
    offsets: np.ndarray
    unknown: np.ndarray


class Encoder:
    """Made by `load_encoder`. `dim` is D; `num_encoded` counts the texts really run through the model so far.

    model_fingerprint: what the vectors mean (weights, configuration, tokenizer, pooling, max_tokens), so whether a
    policy can read them; fingerprint: also dtype and kind of device, on which their last bits depend.
    """

    def __init__(self, config: EncoderConfig, folder: Path, dtype: str, device: str, pooling: str, engine: str):
        self.config, self._folder, self._dtype, self._device, self.pooling = config, folder, dtype, device, pooling
        self.engine = engine
        self._shape = encoder_model.read_shape(folder)
        self.dim = int(self._shape["hidden_size"])
        settings = (pooling, config.max_tokens)
        self.model_fingerprint = encoder_model.fingerprint(folder, *settings)
        by = () if engine == "torch" else (engine,)
        self.fingerprint = encoder_model.fingerprint(folder, *settings, dtype, device.split(":")[0], *by)
        self.num_encoded = 0
        self._caches: dict[str, EmbeddingCache] = {}

    def encode(self, texts: Sequence[str], progress: bool | None = None) -> np.ndarray:
        """Sentence vectors, (N, D) float32 of length 1. `progress`: None shows a bar on a terminal, False never.

        Raises InputError for a text the model cannot read.
        """
        return self._get("sentences", texts, progress)["states"]

    def encode_tokens(self, texts: Sequence[str], progress: bool | None = None) -> TokenStates:
        """Contextual vectors of every token; see TokenStates. Raises InputError for a text the model cannot read."""
        return TokenStates(**self._get("tokens", texts, progress))

    def _get(self, kind: str, texts: Sequence[str], progress: bool | None) -> Arrays:
        if isinstance(texts, str):
            raise InputError("the encoder expects a list of texts, got one string")
        cache, keys = self._cache(kind), text_keys(texts)
        rows = cache.find(keys)
        if (rows < 0).any():
            self._fill(cache, list(dict.fromkeys(texts[i] for i in np.flatnonzero(rows < 0).tolist())), progress)
            rows = cache.find(keys)
        found = cache.gather(rows)
        self._refuse_unknown(texts, found.pop("unknown"))
        return found

    def _cache(self, kind: str) -> EmbeddingCache:
        if kind not in self._caches:
            columns: dict[str, tuple[str, tuple[int, ...]]] = {"states": ("<f4", (self.dim,))}
            if kind == "tokens":
                columns = {"states": ("<f2", (self.dim,)), "spans": ("<i4", (2,))}
            self._caches[kind] = EmbeddingCache(self.folder, kind, columns)
        return self._caches[kind]

    @property
    def folder(self) -> Path:
        """Where this encoder's vectors are kept."""
        return cache_folder(self.config.cache) / self.fingerprint[:32]

    def _fill(self, cache: EmbeddingCache, texts: list[str], progress: bool | None) -> None:
        """Encode texts into the cache. All are read first: a text to refuse is found before any time is spent."""
        chunks = [texts[i : i + SHARD_TEXTS] for i in range(0, len(texts), SHARD_TEXTS)]
        tokens = [self._tokenize(chunk) for chunk in chunks]
        cut = sum(int((np.diff(t.offsets) >= self._max_tokens).sum()) for t in tokens)
        if cut:
            log.warning("%d of %d texts reach max_tokens=%d and may be cut", cut, len(texts), self._max_tokens)
        model = self._model()
        shown = len(texts) >= SHOW_FROM and sys.stderr.isatty() if progress is None else progress
        with counted("encode", "texts", len(texts), shown) as advance:
            for chunk, packed in zip(chunks, tokens):
                arrays = self._forward(model, packed, cache.kind, advance)
                cache.add(text_keys(chunk), arrays | {"unknown": packed.unknown})
                self.num_encoded += len(chunk)

    def _model(self) -> Any:
        torchs = functools.partial(encoder_model.load_model, self._folder, self._dtype, self._device)
        if self.engine == "torch":
            return torchs()
        weights = encoder_model.fingerprint(self._folder)
        read = self._shape["vocab_size"], self._max_tokens
        return onnx_engine.load(functools.partial(torchs, attention="eager"), weights, *read)

    def _tokenize(self, texts: list[str]) -> _Tokens:
        clean = [text.encode("utf-8", "replace").decode() for text in texts]  # a lone surrogate is not Unicode text
        read = self._tokenizer.encode_batch(clean)
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in read], dtype=np.int64)])
        size = int(offsets[-1])
        ids = np.fromiter(chain.from_iterable(one.ids for one in read), np.int64, size)
        if size and ids.max() >= self._shape.get("vocab_size", np.inf):
            raise InputError(
                "the tokenizer has tokens that the model does not know: they do not belong together", self._folder
            )
        special = np.fromiter(chain.from_iterable(one.special_tokens_mask for one in read), np.int8, size)
        pairs = chain.from_iterable(chain.from_iterable(one.offsets for one in read))
        spans = np.fromiter(pairs, np.int32, 2 * size).reshape(size, 2)
        content = (special == 0) | (ids == self._unknown_id)
        total = np.maximum(np.add.reduceat(content, offsets[:-1], dtype=np.int64), 1)
        unknown = np.zeros(len(texts), np.float32)
        owner = np.repeat(np.arange(len(texts)), np.diff(offsets))
        for k in np.flatnonzero(ids == self._unknown_id):  # an unknown emoji or symbol is no reason to refuse a text
            i, (start, end) = owner[k], spans[k]
            unknown[i] += any(c.isalpha() for c in clean[i][start:end])
        unknown /= total
        self._refuse_unknown(texts, unknown)
        return _Tokens(ids, content, spans, offsets, unknown)

    def _forward(self, model: Any, tokens: _Tokens, kind: str, advance: Callable[[int], None]) -> Arrays:
        """Run the model over one chunk. A group holds texts of one padded length, so no text pads another."""
        import torch

        lengths = np.diff(tokens.offsets)
        sentence = kind == "sentences"
        shape = (len(lengths) if sentence else len(tokens.ids), self.dim)
        states = np.empty(shape, np.float32 if sentence else np.float16)
        fewest = FEWEST_TOKENS[self._dtype] if self._device == "cpu" and self.engine == "torch" else 1
        for rows, length in self._groups(lengths):
            several = np.resize(rows, max(len(rows), -(-fewest // length)))
            mask = np.arange(length) < lengths[several, None]
            where = (tokens.offsets[several, None] + np.arange(length))[mask]
            ids = np.full(mask.shape, self._shape.get("pad_token_id") or 0, np.int64)
            ids[mask] = tokens.ids[where]
            real = torch.from_numpy(mask).to(self._device)
            with torch.inference_mode():
                read = model(input_ids=torch.from_numpy(ids).to(self._device), attention_mask=real.long())
                hidden = read[0].float()
                if sentence:
                    states[several] = _pool(hidden, real, self.pooling).cpu().numpy()
                else:
                    states[where] = hidden[real].cpu().numpy()
            advance(len(rows))
        if sentence:
            return {"states": states, "offsets": np.arange(len(lengths) + 1)}
        before = np.concatenate([[0], np.cumsum(tokens.content)])
        content = {"states": states[tokens.content], "spans": tokens.spans[tokens.content]}
        return content | {"offsets": before[tokens.offsets]}

    def _groups(self, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Rows of one padded length, at most a batch of them, and that length."""
        size = self.config.batch_size or (64 if self._device == "cpu" else 512)
        size = min(size, onnx_engine.MOST_TEXTS) if self.engine == "onnx" else size
        padded = -(-lengths // PAD_TO) * PAD_TO
        for length in np.unique(padded).tolist():
            group = np.flatnonzero(padded == length)
            yield from ((group[i : i + size], length) for i in range(0, len(group), size))

    @functools.cached_property
    def _max_tokens(self) -> int:
        # RoBERTa and its kin number positions from pad_token_id + 1
        positions = self._shape.get("max_position_embeddings", self.config.max_tokens)
        shift = 2 if self._shape.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
        return min(self.config.max_tokens, positions - shift)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return encoder_model.load_tokenizer(self._folder, self._max_tokens)

    @functools.cached_property
    def _unknown_id(self) -> int:
        """The id of the token that stands for what the tokenizer does not know, -1 where it has none."""
        known = (self._tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>"))
        return next((i for i in known if i is not None), -1)

    def _refuse_unknown(self, texts: Sequence[str], unknown: np.ndarray) -> None:
        over = np.flatnonzero(unknown > self.config.max_unknown)
        if over.size:
            text = texts[int(over[0])]
            short = text if len(text) <= 60 else text[:57] + "..."
            raise InputError(
                f'encoder {self.config.name} cannot read "{short}": {unknown[over[0]]:.0%} of its tokens are unknown, '
                f"at most {self.config.max_unknown:.0%} are allowed (encoder.max_unknown); for Chinese set encoder=hf "
                "and encoder.model to a Chinese or multilingual BERT-like model"
            )


def refused(encode: Callable[..., Any], texts: Sequence[str]) -> dict[str, str]:
    """The texts that the encoder refuses, with its reasons: found by halving, as they are few."""
    if not texts:
        return {}
    try:
        encode(texts)
    except InputError as error:
        if len(texts) == 1:
            return {texts[0]: error.reason}
        half = len(texts) // 2
        return refused(encode, texts[:half]) | refused(encode, texts[half:])
    return {}


def _pool(hidden: Any, real: Any, pooling: str) -> Any:
    """(B, T, D) float32 and (B, T) bool -> (B, D) of length 1."""
    import torch

    if pooling == "cls":
        vectors = hidden[:, 0]
    elif pooling == "max":
        vectors = hidden.masked_fill(~real[..., None], -torch.inf).amax(1)
    else:
        vectors = (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    return torch.nn.functional.normalize(vectors, dim=1)
