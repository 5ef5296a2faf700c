"""ONNX Runtime under an encoder: the model is exported once, held against torch, and kept in the cache.

Measured on one thread against sentence-transformers (docs: results/peers): 1.4 to 1.9 times its rate. In float32 its
result for a text is the same bit for bit in any company, so no small batch is filled up. Groups over `MOST_TEXTS` lose.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from instructrec_rl.core import InputError
from instructrec_rl.core.files import cache_base, replacing

MOST_TEXTS = 16  # of a group; their products stay in the processor's cache
WORTHWHILE = 40_000_000  # bytes of weights from which `auto` exports: a small model is quick enough as it is
LEAST_COSINE = 0.99999  # of torch's and the exported model's vectors, token by token
OPSET = 17
INPUTS = ("input_ids", "attention_mask")

Model = Callable[..., tuple[Any]]


def is_installed() -> bool:
    """Whether ONNX Runtime can be imported here."""
    return importlib.util.find_spec("onnxruntime") is not None


def load(model: Callable[[], Any], fingerprint: str, vocabulary: int, most_tokens: int) -> Model:
    """The exported model, called as the model itself is: (input_ids, attention_mask) (B, T) -> ((B, T, D) float32,).

    model: gives torch's, with its attention written out; asked for only where nothing is exported yet. fingerprint: of
    its weights and configuration; vocabulary, most_tokens: what it can read. Raises InputError where it cannot be
    exported, or not to the same function.
    """
    import torch
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidProtobuf

    path = cache_base() / "onnx" / f"{fingerprint[:32]}.onnx"
    if not path.is_file():
        with replacing(path) as temporary:
            original = model()
            _export(original, temporary)
            _compare(original, _session(temporary), vocabulary, most_tokens, path)
    try:
        session = _kept_session(path, path.stat().st_mtime_ns)
    except (Fail, InvalidProtobuf) as error:
        raise InputError(f"the exported model cannot be read ({str(error)[:120]}); delete it", path) from error

    def run(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        given = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return (torch.from_numpy(session.run(None, given)[0]),)

    return run


@functools.lru_cache(maxsize=2)
def _kept_session(path: Path, mtime_ns: int) -> Any:
    return _session(path)


def _session(path: Path) -> Any:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _export(model: Any, path: Path) -> None:
    import torch

    class Plain(torch.nn.Module):
        """The model as a function of two tensors to one."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]

    example = torch.ones(2, 8, dtype=torch.long)
    axes = {name: {0: "texts", 1: "tokens"} for name in (*INPUTS, "states")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, about shapes; what it made is compared with torch's
        try:
            torch.onnx.export(
                Plain().eval(), (example, example), str(path), input_names=list(INPUTS), output_names=["states"],
                dynamic_axes=axes, opset_version=OPSET, dynamo=False,
            )  # fmt: skip
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise InputError(f"the encoder cannot be exported ({reason}); use encoder.engine=torch") from error


def _compare(model: Any, session: Any, vocabulary: int, most_tokens: int, path: Path) -> None:
    """Raise InputError where the exported model is not the same function, on token ids at random, some left out."""
    import torch

    rng = np.random.default_rng(0)
    for texts, tokens in ((1, min(8, most_tokens)), (3, min(24, most_tokens)), (5, min(40, most_tokens))):
        ids = rng.integers(vocabulary, size=(texts, tokens))
        mask = (np.arange(tokens) < rng.integers(1, tokens + 1, size=(texts, 1))).astype(np.int64)
        with torch.inference_mode():
            ours = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))[0].numpy()
        theirs = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        a, b = ours[mask > 0], theirs[mask > 0]
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        if not cosine.min() >= LEAST_COSINE:
            raise InputError(f"the exported model differs from torch's (cosine {cosine.min():.5f}); use "
                             "encoder.engine=torch", path)  # fmt: skip
