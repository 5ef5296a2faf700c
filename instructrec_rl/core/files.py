"""Where things are found, and how files are read and written. Only the standard library and PyYAML."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.core.json_reader import parse_json, parse_object
from instructrec_rl.core.yaml_reader import MOST_BYTES, YamlError, parse_yaml

PACKAGE = Path(__file__).resolve().parents[1]  # instructrec_rl/
PATH_VARIABLE = "INSTRUCTREC_PATH"
MOST_PACKED = 1 << 26  # bytes of a line in a file of gzip, where little can stand for much


def search_path() -> list[Path]:
    """The folders that may hold envs/, rewards/ and experiments/, first wins.

    The current directory, then each folder of $INSTRUCTREC_PATH (unset when empty), then the bundle: the folder
    `bundle` inside an installed wheel, or the repository's root in a checkout.
    """
    package = PACKAGE
    bundle = package / "bundle"
    return list(dict.fromkeys([*_users_folders(), bundle if bundle.is_dir() else package.parent]))


def _users_folders() -> list[Path]:
    named = [Path(p).expanduser() for p in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if p.strip()]
    return [Path.cwd(), *named]


def cache_base() -> Path:
    """The folder of what can be made again: in $XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "instructrec-rl"


def feedback_folders() -> list[Path]:
    """The folders whose *.jsonl, at any depth, are feedback: rewards/ of the search path, without the bundle's."""
    return list(dict.fromkeys((folder / "rewards").resolve() for folder in _users_folders()))


def find_envs() -> dict[str, Path]:
    """Environments by name: the folders `envs/<name>/` that hold an env.yaml."""
    return {p.parent.name: p.parent for p in _found("envs", ("*/env.yaml",), lambda p: p.parent.name)}


def find_rewards() -> dict[str, Path]:
    """Rewards by name: the files `rewards/<name>.py` and `rewards/<name>.yaml`."""
    return {p.stem: p for p in _found("rewards", ("*.py", "*.yaml"), lambda p: p.stem)}


def find_experiments() -> dict[str, Path]:
    """Experiments by name: the files `experiments/<name>.yaml`."""
    return {p.stem: p for p in _found("experiments", ("*.yaml",), lambda p: p.stem)}


def find_algorithms() -> list[str]:
    """The names of the modules in instructrec_rl/algorithms/."""
    folder = PACKAGE / "algorithms"
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def _found(kind: str, patterns: tuple[str, ...], name_of: Any) -> list[Path]:
    """One path a name, sorted by name: the first folder of the search path that has it wins."""
    first: dict[str, Path] = {}
    for folder in search_path():
        for pattern in patterns:
            for path in sorted((folder / kind).glob(pattern)):
                if not name_of(path).startswith(("_", ".")):
                    first.setdefault(name_of(path), path)
    return [first[name] for name in sorted(first)]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top is a mapping with text keys. Raises InputError with the path and line."""
    try:
        content = parse_yaml(read_text(path, MOST_BYTES))
    except YamlError as error:
        raise InputError(f"broken YAML: {error}", path, error.line) from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise InputError(f"expected a mapping (key: value), found {found}", path)
    for key in content:
        if not isinstance(key, str):
            raise InputError(f"the key {str(key)[:80]} is not text; put it in quotes", path)
    return content


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes. Raises InputError where it cannot be read or is not a regular file.

    A named pipe, a device or a folder in a file's place would be waited for, or read, without end.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return os.fdopen(handle, "rb")
        os.close(handle)
    except OSError as error:
        raise _cannot("read", path, error) from error
    raise InputError("cannot read: not a regular file", path)


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The bytes of a regular file. Raises InputError as `open_regular` does, and where there are more than `most`."""
    with open_regular(path) as stream, reading(path):
        data = stream.read() if most is None else stream.read(most + 1)
    if most is not None and len(data) > most:
        raise InputError(f"longer than the {most:,} bytes that such a file may have", path)
    return data


def read_text(path: Path, most: int | None = None) -> str:
    """The UTF-8 text of a regular file, without a byte order mark. Raises InputError as `read_bytes` does."""
    data = read_bytes(path, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path, data.count(b"\n", 0, error.start) + 1) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises InputError, with the line, where it cannot be read or is something else."""
    return parse_object(read_bytes(path), path)


def read_json_value(path: Path) -> Any:
    """Read any JSON value, as `read_json` does."""
    return parse_json(read_bytes(path), path)


def flattened(content: Mapping[str, Any], separator: str = ".", prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{env: {name: x}}` as `env.name, x`: the values of nested mappings with the path of each."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flattened(value, separator, f"{prefix}{key}{separator}")
        else:
            yield f"{prefix}{key}", value


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream (line number from 1, record) from a file with one JSON object a line, or one of gzip (`.gz`) that holds
    such lines; blank lines are skipped.

    Raises InputError with the path and line for bad UTF-8, broken JSON and lines that are not objects.
    """
    with open_regular(path) as raw:
        stream = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        number = 0
        while True:
            try:
                line = stream.readline(MOST_PACKED) if stream is not raw else raw.readline()
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise InputError(f"damaged: not a whole file of gzip ({error})", path, number + 1) from error
            except OSError as error:
                raise _cannot("read", path, error) from error
            if not line:
                return
            number += 1
            if stream is not raw and len(line) == MOST_PACKED:
                raise InputError(f"a line of more than {MOST_PACKED:,} bytes", path, number)
            if line.strip():
                yield number, parse_object(line, path, number)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the OSError of a full, read-only or otherwise unfit disk into an InputError that names the path."""
    try:
        yield
    except OSError as error:
        raise _cannot("write", path, error) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the OSError of a file that cannot be read into an InputError that names it."""
    try:
        yield
    except OSError as error:
        raise _cannot("read", path, error) from error


def _cannot(verb: str, path: Path, error: OSError) -> InputError:
    return InputError(f"cannot {verb}: {(error.strerror or str(error)).lower()}", path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write; what is there at the end becomes `path`, whole, and synced to the disk.

    The path holds the old content or the new, never a part, also after kill -9; after an exception the old one, and
    what was written aside is removed. Makes the folder where it is missing. A link is followed; a device or a pipe is
    written to itself, as a file in its place would take it away. Raises InputError where the disk refuses.
    """
    named, path = path, Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with writing(named):
            yield path
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(named):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(b"")
            mode = temporary.stat().st_mode & 0o777  # by the umask; safetensors makes files that only their owner reads
            yield temporary
            os.chmod(temporary, mode)
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            # gone after the rename; after a failure the first error is the one to show
            with contextlib.suppress(OSError):
                temporary.unlink()
        if os.name != "nt":  # a folder cannot be opened there
            _sync(path.parent)  # else a power cut may take the new name back


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk. A full one may answer only here."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a file as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes_atomic` does."""
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """Write JSON, indented, as `write_text_atomic` does. Raises ValueError for NaN and infinities."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl_atomic(path: Path, records: Iterable[Any]) -> None:
    """Write one JSON value a line, atomically."""
    write_text_atomic(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Add one line by a single `os.write` in append mode, so that several writers never mix within a line.

    Raises InputError where the disk refuses, ValueError for NaN and infinities.
    """
    append_bytes(path, (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())


def append_bytes(path: Path, data: bytes) -> None:
    """Add whole lines by a single `os.write` in append mode. Raises InputError where the disk refuses."""
    with writing(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            written = os.write(handle, data)
        finally:
            os.close(handle)
    if written != len(data):
        raise InputError(f"cannot write: the disk took {written} of {len(data)} bytes", path)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal. Raises InputError where it cannot be read."""
    with open_regular(path) as stream, reading(path):
        return hashlib.file_digest(stream, "sha256").hexdigest()
