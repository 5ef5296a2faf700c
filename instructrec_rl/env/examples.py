"""An environment's instructions: in memory where they are few, else in a memory-mapped Arrow file, read as needed.

The file holds what the checks of the JSONL let through, in batches of `BATCH` rows: id, instruction, best (positions in
the catalog), split, and the record as JSON. It is made once and named after the contents of the JSONL and the ids of
the items, so that a change of either makes a new one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from instructrec_rl.core import Example, Item
from instructrec_rl.core.files import cache_base, sha256_file
from instructrec_rl.core.terminal import counted

BATCH = 65_536
LAYOUT = "2"  # of the file; part of its name
SHOWN = 1_000  # rows between two movements of the progress bar

Read = Iterable[tuple[Example, str | None]]  # examples with the data's name of their split

log = logging.getLogger(__name__)


class ExampleList(list[Example]):
    """N examples in memory."""

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """(N,) object."""
        return np.array([example.id for example in self], dtype=object)

    @functools.cached_property
    def instructions(self) -> np.ndarray:
        """(N,) object."""
        return np.array([example.instruction for example in self], dtype=object)

    @functools.cached_property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Which items are right: positions (S,) and starts (N + 1,); row i has positions[starts[i] : starts[i + 1]]."""
        starts = np.cumsum([0, *(len(example.best) for example in self)])
        return np.array([item for example in self for item in example.best], dtype=np.int64), starts


class TextColumn(Sequence[str]):
    """A column of texts in a memory-mapped file: an int gives a text, an array of positions an object array (B,)."""

    def __init__(self, column: Any):
        self._chunks, self._length = column.chunks, len(column)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, which: int) -> str: ...

    @overload
    def __getitem__(self, which: np.ndarray | slice) -> Any: ...

    def __getitem__(self, which: int | slice | np.ndarray) -> Any:
        if isinstance(which, int | np.integer):
            return self._text(range(self._length)[which])
        if isinstance(which, slice):
            rows = np.arange(self._length)[which]
        else:  # a mask, or positions
            rows = np.flatnonzero(which) if which.dtype == bool else which
        found = np.empty(len(rows), dtype=object)
        found[:] = list(map(self._text, rows.tolist()))
        return found

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from chunk.to_pylist()

    def tolist(self) -> list[str]:
        """All of them in memory."""
        return list(self)

    def _text(self, row: int) -> str:
        return self._chunks[row // BATCH][row % BATCH].as_py()


class ExampleTable(Sequence[Example]):
    """N examples in a memory-mapped Arrow file: an `Example` is made when it is asked for. `key` names the contents."""

    def __init__(self, path: Path, items: Sequence[Item]):
        import pyarrow as pa

        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        self.key, self._item_texts = path.stem, [item.text for item in items]
        self.ids, self.instructions = TextColumn(table["id"]), TextColumn(table["instruction"])
        self._records, self._best, self._splits = TextColumn(table["record"]), table["best"], table["split"]

    @functools.cached_property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """See `ExampleList.best`."""
        lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in self._best.chunks]
        starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
        return np.concatenate([chunk.flatten().to_numpy() for chunk in self._best.chunks]), starts

    def splits(self) -> list[str | None]:
        """The data's name of each row's split, None where it has none."""
        found = self._splits.combine_chunks().dictionary_encode()
        names: list[str | None] = [*found.dictionary.to_pylist(), None]
        return [names[code] for code in found.indices.fill_null(len(names) - 1).to_pylist()]

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, row: int) -> Example: ...

    @overload
    def __getitem__(self, row: slice) -> list[Example]: ...

    def __getitem__(self, row: int | slice) -> Example | list[Example]:
        if isinstance(row, slice):
            return [self[i] for i in range(len(self))[row]]
        place = range(len(self))[row]
        record = json.loads(self._records[place])
        positions, starts = self.best
        best = tuple(positions[starts[place] : starts[place + 1]].tolist())
        references = tuple(record.get("references") or (self._item_texts[item] for item in best))
        return Example(record["id"], record["instruction"], best, references, record)


Examples = ExampleList | ExampleTable


def open_table(path: Path, items: Sequence[Item], read: Callable[[], Read]) -> ExampleTable | None:
    """The table of a JSONL file of instructions, made from what `read` gives where there is none yet.

    Raises what `read` raises. None, and a warning, where the cache cannot be written.
    """
    contents = json.dumps([LAYOUT, sha256_file(path), [item.id for item in items]])
    target = cache_base() / "instructions" / f"{hashlib.sha256(contents.encode()).hexdigest()[:32]}.arrow"
    if target.is_file():
        try:
            return ExampleTable(target, items)
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among these
            log.warning("%s: damaged cache file (%s); made anew", target, error)
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(part, path, read)
        os.replace(part, target)
    except OSError as error:
        log.warning("the cache of instructions cannot be written (%s); going on in memory", error)
        return None
    finally:
        with contextlib.suppress(OSError):  # gone after the rename; after a failure the first error is the one to show
            part.unlink()
    return ExampleTable(target, items)


def _write(part: Path, path: Path, read: Callable[[], Read]) -> None:
    import pyarrow as pa

    kinds = {"id": pa.string(), "instruction": pa.string(), "best": pa.list_(pa.int32()), "split": pa.string()}
    schema = pa.schema([*kinds.items(), ("record", pa.string())])
    rows: list[dict[str, Any]] = []
    with (
        counted(f"{path.name} into the cache", "instructions", _count_lines(path)) as advance,
        part.open("wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):

        def flush() -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
            rows.clear()

        number = 0
        for number, (example, split) in enumerate(read(), start=1):
            text = json.dumps(example.row, ensure_ascii=False)
            row = {"id": example.id, "instruction": example.instruction, "best": example.best, "split": split}
            rows.append({**row, "record": text})
            if len(rows) == BATCH:
                flush()
            if number % SHOWN == 0:
                advance(SHOWN)
        flush()
        advance(number % SHOWN)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
