"""One checksum of named arrays, to be kept in a safetensors file's head beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

KEY = "sha256"  # in the file's metadata


def sha256_of(arrays: Mapping[str, Any], text: str = "") -> str:
    """The sha256, in hexadecimal, of arrays of numpy or tensors of torch by name, and of a text."""
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(value: Any) -> Any:
    """The bytes of an array or a tensor, without a copy where it lies in one piece."""
    if hasattr(value, "detach"):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return flat.view(flat[:0].byte().dtype).numpy().data  # as bytes: numpy knows no bfloat16
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
