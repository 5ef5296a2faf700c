"""What a policy sees of a text: a set of frozen embeddings (the sentence, its clauses, or its tokens).

All three are one form: a pool of distinct vectors and, for each text, the positions of its members. A clause that a
thousand instructions share is encoded and stored once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from instructrec_rl.core.files import sha256_file
from instructrec_rl.core.terminal import counted
from instructrec_rl.encoders import clauses
from instructrec_rl.encoders.clauses import split_clauses

if TYPE_CHECKING:
    from instructrec_rl.encoders.bert import Encoder

MAX_CLAUSES = 8
MAX_TOKENS = 48
BLOCK = 8_192  # texts at once, where states are made that do not fit into memory
MAX_ROWS = 16_384  # instructions put to a policy at once
MAX_CELLS = 1 << 25  # of an array (instructions, items): 128 MB in float32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class States:
    """N texts as sets of vectors.

    kind: sentence, clauses or tokens. vectors: (U, D) float32 (float16 for tokens), each of length 1: the pool.
    index: (N, K) int32, positions in the pool, -1 where a text has fewer than K members (K is 1 for sentences).
    """

    kind: str
    vectors: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: np.ndarray) -> States:
        """The states of some texts, over the same pool."""
        return States(self.kind, self.vectors, self.index[rows])

    def dense(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Members (B, K, D) float32 with zeros where there is none, and their mask (B, K) int8."""
        index = self.index[rows]
        mask = index >= 0
        members = self.vectors.take(index, axis=0, mode="clip").astype(np.float32, copy=False)
        members[~mask] = 0.0
        return members, mask.astype(np.int8)


class Asked:
    """B instructions put to a policy: their texts, and their states at whatever granularity the policy wants.

    rows: positions in the environment's examples, or None for plain texts that no environment knows. Only the oracle
    may look anything up by them.
    """

    def __init__(self, texts: Sequence[str], states: Callable[[str], States], rows: np.ndarray | None = None):
        self.texts, self.rows = texts, rows
        self.states = cache(states)  # a policy asks for them twice: for its table, and for its prompts

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def from_texts(cls, texts: Sequence[str], encoder: Encoder) -> Asked:
        """Plain texts, encoded when a policy asks for their states."""
        return cls(texts, lambda kind: encode_states(texts, encoder, kind))


def row_blocks(rows: np.ndarray, num_items: int) -> list[np.ndarray]:
    """`rows` (N,) in parts that a policy can answer at once with so many items on offer; few rows are one part."""
    step = max(1, min(MAX_ROWS, MAX_CELLS // num_items))
    return [rows[i : i + step] for i in range(0, len(rows), step)] or [rows]


def encode_states(texts: Sequence[str], encoder: Encoder, kind: str) -> States:
    """Encode texts at a granularity: `sentence`, `clauses` (at most 8) or `tokens` (at most 48, in context)."""
    if kind == "sentence":
        pool, index = _distinct([[text] for text in texts], 1)
        return States(kind, encoder.encode(pool), index)
    if kind == "clauses":
        pool, index = _distinct([split_clauses(text, MAX_CLAUSES) for text in texts], MAX_CLAUSES)
        return States(kind, encoder.encode(pool), index)
    distinct, positions = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    offsets, vectors = encoder.encode_tokens(list(distinct))[:2]
    lengths_of = np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    vectors = (vectors / np.maximum(lengths_of, 1e-6)).astype(np.float16)  # half the memory; unit length, like the rest
    lengths = np.minimum(np.diff(offsets), MAX_TOKENS)
    columns = np.arange(MAX_TOKENS)
    index = np.where(columns < lengths[:, None], offsets[:-1, None] + columns, -1).astype(np.int32)
    return States(kind, vectors, index[positions])


def stored_states(texts: Sequence[str] | np.ndarray, encoder: Encoder, kind: str, key: str) -> States:
    """`encode_states` of many texts, made once and from then on memory-mapped from a folder beside the embeddings.

    key: names the texts' contents. Tokens are not stored, as their vectors are some twenty for each text. Where the
    folder cannot be written, a warning, and the states are made in memory.
    """
    if kind == "tokens":
        return encode_states(list(texts), encoder, kind)
    # what decides the states beside the texts and the encoder's own fingerprint, which names the folder
    decides = [key, sha256_file(Path(clauses.__file__)), str(MAX_CLAUSES), str(encoder.config.max_unknown)]
    name = hashlib.sha256("\n".join(decides).encode()).hexdigest()[:32]
    folder = encoder.folder / f"states-{kind}-{name}"
    if folder.is_dir():
        try:
            return _mapped(folder, kind)
        except (OSError, ValueError) as error:
            log.warning("%s: damaged cache (%s); made anew", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        _store(part, texts, encoder, kind)
        part.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            log.warning("states cannot be stored (%s); going on in memory", error)
            return encode_states(list(texts), encoder, kind)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _mapped(folder, kind)


def _mapped(folder: Path, kind: str) -> States:
    # "c": torch wants arrays that may be written; the files themselves are never changed
    return States(kind, *(np.load(folder / f"{each}.npy", mmap_mode="c") for each in ("vectors", "index")))


def _store(folder: Path, texts: Sequence[str] | np.ndarray, encoder: Encoder, kind: str) -> None:
    """Write vectors.npy (U, D) and index.npy (N, K), block by block."""
    position: dict[str, int] = {}
    width, rest = 1 if kind == "sentence" else MAX_CLAUSES, iter(texts)
    with (
        counted(f"states, {kind}", "instructions", len(texts)) as advance,
        _array_file(folder / "index.npy", "<i4", (len(texts), width)) as file,
    ):
        while block := list(islice(rest, BLOCK)):
            members = [[text] if kind == "sentence" else split_clauses(text, MAX_CLAUSES) for text in block]
            file.write(_positions(members, width, position).tobytes())
            advance(len(block))
    pool = list(position)
    with (
        counted("their vectors", "texts", len(pool)) as advance,
        _array_file(folder / "vectors.npy", "<f4", (len(pool), encoder.dim)) as file,
    ):
        for begin in range(0, len(pool), BLOCK):
            part = pool[begin : begin + BLOCK]
            file.write(encoder.encode(part, progress=False).tobytes())
            advance(len(part))


@contextmanager
def _array_file(path: Path, dtype: str, shape: tuple[int, int]) -> Iterator[BinaryIO]:
    """A .npy file after its header. Not a memory map: writing to one ends the process where the disk is full."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        yield file


def _distinct(members: Sequence[Sequence[str]], width: int) -> tuple[list[str], np.ndarray]:
    position: dict[str, int] = {}
    index = _positions(members, width, position)
    return list(position), index


def _positions(members: Sequence[Sequence[str]], width: int, position: dict[str, int]) -> np.ndarray:
    """Positions (N, width) int32 in the pool, -1 where there is no member; texts new to the pool are added to it."""
    index = np.full((len(members), width), -1, dtype=np.int32)
    for row, texts in enumerate(members):
        for column, text in enumerate(texts[:width]):
            index[row, column] = position.setdefault(text, len(position))
    return index
