"""What an encoder has encoded, kept on disk: shards of memory-mapped arrays, and an index from a text's key to its row.

A shard is a safetensors file of n texts: keys (n, 16) bytes, unknown (n,), offsets (n + 1,), and columns whose rows
offsets[i] to offsets[i + 1] belong to text i. It is written under a temporary name and renamed, and names are unique,
so a killed run leaves no half of one and several processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np

from instructrec_rl.core import InputError
from instructrec_rl.core.checksums import KEY, sha256_of
from instructrec_rl.core.files import cache_base, write_bytes_atomic
from instructrec_rl.core.leftovers import SHARED_AFTER_S, remove_abandoned

SHARD_TEXTS = 8192  # a killed run loses at most this many
MANY_SMALL = 32  # more small shards than this are merged when the cache is opened
KEY_BYTES = 16

Arrays = dict[str, np.ndarray]
Columns = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, trailing shape)

log = logging.getLogger(__name__)


def cache_folder(option: str) -> Path:
    """Where embeddings are kept: the folder given, else one in $XDG_CACHE_HOME or ~/.cache."""
    if option:
        return Path(option).expanduser()
    return cache_base() / "embeddings"


def text_keys(texts: Sequence[str]) -> list[bytes]:
    """The BLAKE2b digest (16 bytes) of each text."""
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    return [hashlib.blake2b(data, digest_size=KEY_BYTES).digest() for data in encoded]


class EmbeddingCache:
    """The shards `<folder>/<kind>-*.safetensors`. A folder that cannot be written is one warning, not an error."""

    def __init__(self, folder: Path, kind: str, columns: Columns):
        self.folder, self.kind, self.columns = folder, kind, columns
        self._writable = True
        self._shards: dict[Path, Arrays] = {}
        self._starts: list[int] = []  # the number of each shard's first row
        self._rows: dict[bytes, int] = {}
        self._sums: dict[Path, str | None] = {}  # what a shard says of itself; those of 0.1.0 say nothing
        self._checked: set[Path] = set()
        self._damaged: set[Path] = set()  # and could not be removed
        remove_abandoned(folder, SHARED_AFTER_S)
        self._refresh()
        self._merge_small()

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """The rows (N,) int64 of N keys, -1 where there is none."""
        rows = self._look_up(keys)
        if (rows < 0).any():
            self._refresh()  # another process, or another encoder of this one, may have written them since
            rows = self._look_up(keys)
        while self._drop_damaged(rows):
            rows = self._look_up(keys)
        return rows

    def gather(self, rows: np.ndarray) -> Arrays:
        """The columns of N rows, packed in the order asked, with their `offsets` (N + 1,) and `unknown` (N,)."""
        shards = list(self._shards.values())
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        lengths, unknown = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.float32)
        parts = []
        for shard in np.unique(shard_of):
            here, arrays = np.flatnonzero(shard_of == shard), shards[shard]
            local = rows[here] - self._starts[shard]
            begins = arrays["offsets"][local]
            lengths[here] = arrays["offsets"][local + 1] - begins
            unknown[here] = arrays["unknown"][local]
            parts.append((arrays, here, begins))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        found = {name: np.empty((offsets[-1], *tail), dtype) for name, (dtype, tail) in self.columns.items()}
        for arrays, here, begins in parts:
            source, target = _ranges(begins, lengths[here]), _ranges(offsets[here], lengths[here])
            for name, values in found.items():
                values[target] = arrays[name][source]
        return found | {"offsets": offsets, "unknown": unknown}

    def add(self, keys: Sequence[bytes], arrays: Arrays) -> None:
        """Keep n new texts: their columns, `offsets` (n + 1,) and `unknown` (n,)."""
        from safetensors.numpy import save

        arrays = {**arrays, "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)}
        path = self.folder / f"{self.kind}-{uuid.uuid4().hex}.safetensors"
        self._join(path, arrays)
        self._checked.add(path)
        if self._writable:
            try:
                whole = {name: np.ascontiguousarray(part) for name, part in arrays.items()}
                write_bytes_atomic(path, save(whole, {KEY: sha256_of(whole)}))
            except InputError as error:
                self._writable = False
                log.warning("the embedding cache cannot be written (%s); going on without", error)

    def _drop_damaged(self, rows: np.ndarray) -> bool:
        """Compare the shards that these rows are in with their checksums, each once; whether one had to go."""
        paths, known = list(self._shards), rows[rows >= 0]
        used = (paths[k] for k in np.unique(np.searchsorted(self._starts, known, side="right") - 1))
        damaged = []
        for path in used:
            if path not in self._checked:
                self._checked.add(path)
                expected = self._sums.get(path)
                if expected is not None and expected != sha256_of(self._shards[path]):
                    damaged.append(path)
        for path in damaged:
            self._forget(path, "not as it was written (sha256)")
        if damaged:
            rest = {path: arrays for path, arrays in self._shards.items() if path not in damaged}
            self._shards, self._starts, self._rows = {}, [], {}
            for path, arrays in rest.items():
                self._join(path, arrays)
        return bool(damaged)

    def _forget(self, path: Path, reason: object) -> None:
        log.warning("%s: damaged cache file (%s); its texts are encoded again", path, reason)
        self._damaged.add(path)
        if os.access(self.folder, os.W_OK):
            path.unlink(missing_ok=True)

    def _look_up(self, keys: Sequence[bytes]) -> np.ndarray:
        return np.fromiter(map(self._rows.get, keys, repeat(-1)), np.int64, len(keys))

    def _join(self, path: Path, arrays: Arrays) -> None:
        start = self._starts[-1] + len(next(reversed(self._shards.values()))["keys"]) if self._starts else 0
        self._shards[path] = arrays
        self._starts.append(start)
        self._rows.update(zip(_as_bytes(arrays["keys"]), range(start, start + len(arrays["keys"]))))

    def _refresh(self) -> None:
        """Open the shards that appeared since."""
        for path in sorted(self.folder.glob(f"{self.kind}-*.safetensors")):
            if path not in self._shards and path not in self._damaged:
                try:
                    arrays, self._sums[path] = _open_shard(path, self.columns)
                    self._join(path, arrays)
                except FileNotFoundError:
                    continue  # merged into another by a second process
                except (OSError, ValueError, KeyError, TypeError) as error:
                    self._forget(path, error)

    def _merge_small(self) -> None:
        """One shard a call adds up when texts come one by one: join the small ones. A reader keeps its mapped files."""
        small = {path: arrays for path, arrays in self._shards.items() if len(arrays["keys"]) < SHARD_TEXTS // 8}
        if len(small) > MANY_SMALL and os.access(self.folder, os.W_OK):
            keys = list(dict.fromkeys(key for arrays in small.values() for key in _as_bytes(arrays["keys"])))
            rows = self.find(keys)
            keys = [key for key, row in zip(keys, rows) if row >= 0]  # without what a damaged one held
            self.add(keys, self.gather(rows[rows >= 0]))
            for path in small if self._writable else ():
                path.unlink(missing_ok=True)


def _as_bytes(keys: np.ndarray) -> list[bytes]:
    data = keys.tobytes()
    return [data[i : i + KEY_BYTES] for i in range(0, len(data), KEY_BYTES)]


def _ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """begins, begins + 1, ... for each of n ranges, joined: (sum of lengths,)."""
    ends = np.cumsum(lengths)
    return np.repeat(begins - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def _open_shard(path: Path, columns: Columns) -> tuple[Arrays, str | None]:
    """Map a shard's arrays without reading them, with the checksum in its head.

    Raises ValueError where the file cannot be what was written.
    """
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if start > len(data):
        raise ValueError("cut short")
    header = json.loads(data[8:start].tobytes())
    wanted = {"keys": ("u1", (KEY_BYTES,)), "unknown": ("<f4", ()), "offsets": ("<i8", ()), **columns}
    arrays = {}
    for name, (dtype, tail) in wanted.items():
        begin, end = header[name]["data_offsets"]
        if start + end > len(data):
            raise ValueError("cut short")
        arrays[name] = data[start + begin : start + end].view(dtype).reshape(-1, *tail)
    offsets = arrays["offsets"]
    right = len(arrays["unknown"]) == len(arrays["keys"]) == len(offsets) - 1 and (np.diff(offsets) >= 0).all()
    if not right or any(len(arrays[name]) != offsets[-1] for name in columns):
        raise ValueError("sizes disagree")
    return arrays, header.get("__metadata__", {}).get(KEY)
