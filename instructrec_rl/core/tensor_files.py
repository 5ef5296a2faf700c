"""Safetensors files that are not trusted: what the header claims is compared with what must be there before any tensor
takes memory, and a number that is not finite is an error.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instructrec_rl.core import InputError
from instructrec_rl.core.files import open_regular


class Tensor(NamedTuple):
    """What a header says of a tensor: its type (`F32`) and its shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors that a safetensors file holds. The library checks that the file is exactly as long as they take.

    Raises InputError for whatever is not such a file, whole.
    """
    with _opened(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return {name: Tensor(each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}


def read_tensors(
    path: Path, expected: Mapping[str, Sequence[str | int]], framework: str = "numpy", **sizes: int | None
) -> dict[str, Any]:
    """The tensors of a file, as arrays of numpy or tensors of torch (`pt`) in memory of their own.

    expected: each tensor's type and sizes, as `("F32", "A", "D")`. A letter stands for one number wherever it is used:
    the one in `sizes`, else the first that is found. Raises InputError where the file holds anything else, less, or
    numbers that are not finite.
    """
    header = read_header(path)
    check_header(path, header, expected, sizes)
    with _opened(path, framework) as file:
        tensors = {name: file.get_tensor(name) for name in header}
    if framework == "pt":
        tensors = {name: value.clone() for name, value in tensors.items()}  # not a view of the file, which may change
    for name, value in tensors.items():
        check_finite(path, name, value)
    return tensors


def check_header(
    path: Path,
    header: Mapping[str, Tensor],
    expected: Mapping[str, Sequence[str | int]],
    sizes: Mapping[str, int | None] | None = None,
) -> None:
    """Raise InputError where a header is not as `read_tensors` expects it."""
    known = {letter: size for letter, size in (sizes or {}).items() if size is not None}
    for name in sorted(expected.keys() ^ header.keys()):
        raise InputError(
            f'the tensor "{name[:80]}" is {"missing" if name in expected else "not one of a policy"}', path
        )
    for name, (dtype, *shape) in expected.items():
        found = header[name]
        if len(shape) == len(found.shape):
            for letter, size in zip(shape, found.shape):
                if isinstance(letter, str):
                    known.setdefault(letter, size)
        wanted = Tensor(str(dtype), tuple(size if isinstance(size, int) else known.get(size, 0) for size in shape))
        if found != wanted:
            raise InputError(f'the tensor "{name[:80]}" is {found}, expected {wanted}', path)


def check_finite(path: Path, name: str, value: Any) -> None:
    """Raise InputError where an array of numpy, or a tensor of torch, has a number that is not finite."""
    finite = value.isfinite() if hasattr(value, "isfinite") else np.isfinite(value)
    if not finite.all():
        raise InputError(f'the tensor "{name[:80]}" holds numbers that are not finite', path)


def num_numbers(header: Mapping[str, Tensor]) -> int:
    """How many numbers a file's tensors have together."""
    return sum(math.prod(tensor.shape) for tensor in header.values())


@contextlib.contextmanager
def _opened(path: Path, framework: str) -> Iterator[Any]:
    """A safetensors file, open, with the library's errors as InputError."""
    from safetensors import SafetensorError, safe_open

    open_regular(path).close()  # a named pipe would be waited for without end
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"not a whole safetensors file ({str(error)[:120]})", path) from error
