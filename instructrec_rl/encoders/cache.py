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
from instructrec_rl.core.files import cache_base, write_bytes_atomic

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
        self._refresh()
        self._merge_small()

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """The rows (N,) int64 of N keys, -1 where there is none."""
        rows = self._look_up(keys)
        if (rows < 0).any():
            self._refresh()  # another process, or another encoder of this one, may have written them since
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
        if self._writable:
            try:
                write_bytes_atomic(path, save({name: np.ascontiguousarray(part) for name, part in arrays.items()}))
            except InputError as error:
                self._writable = False
                log.warning("the embedding cache cannot be written (%s); going on without", error)

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
            if path not in self._shards:
                try:
                    self._join(path, _open_shard(path, self.columns))
                except FileNotFoundError:
                    continue  # merged into another by a second process
                except (OSError, ValueError, KeyError, TypeError) as error:
                    log.warning("%s: damaged cache file (%s); its texts are encoded again", path, error)
                    if os.access(self.folder, os.W_OK):
                        path.unlink(missing_ok=True)

    def _merge_small(self) -> None:
        """One shard a call adds up when texts come one by one: join the small ones. A reader keeps its mapped files."""
        small = {path: arrays for path, arrays in self._shards.items() if len(arrays["keys"]) < SHARD_TEXTS // 8}
        if len(small) > MANY_SMALL and os.access(self.folder, os.W_OK):
            keys = list(dict.fromkeys(key for arrays in small.values() for key in _as_bytes(arrays["keys"])))
            self.add(keys, self.gather(self._look_up(keys)))
            for path in small if self._writable else ():
                path.unlink(missing_ok=True)


def _as_bytes(keys: np.ndarray) -> list[bytes]:
    data = keys.tobytes()
    return [data[i : i + KEY_BYTES] for i in range(0, len(data), KEY_BYTES)]


def _ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """begins, begins + 1, ... for each of n ranges, joined: (sum of lengths,)."""
    ends = np.cumsum(lengths)
    return np.repeat(begins - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def _open_shard(path: Path, columns: Columns) -> Arrays:
    """Map a shard's arrays without reading them. Raises ValueError where the file is not what was written."""
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
    return arrays
