"""From the options of an encoder to one that is ready: its model's files are checked, the hardware is chosen."""

from __future__ import annotations

import re
from pathlib import Path

from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.hardware import pick_hardware
from instructrec_rl.encoders import model_files, onnx_engine
from instructrec_rl.encoders.bert import Encoder, EncoderConfig

MOST_TOKENS = 1 << 20


def load_encoder(config: EncoderConfig | None = None, fetch: bool = True) -> Encoder:
    """Check the model's files and settings and return an Encoder; the model itself is loaded at the first new text.

    fetch: whether the hub may be asked for a model that is not on this machine.
    Raises InputError for a wrong option, and for what `model_files.model_folder` refuses.
    """
    config = config or EncoderConfig()
    _check_choice("name", config.name, ("minilm", "hf"))
    _check_choice("pooling", config.pooling, ("auto", "mean", "cls", "max"))
    _check_choice("dtype", config.dtype, ("auto", "bf16", "fp32"))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise InputError(f'encoder.device is "{config.device}", expected auto, cpu, cuda or cuda:N')
    if not 3 <= config.max_tokens <= MOST_TOKENS or config.batch_size < 0 or not 0 <= config.max_unknown <= 1:
        raise InputError(
            "encoder: expected max_tokens >= 3 (and at most 1,048,576), batch_size >= 0 and max_unknown in [0, 1]"
        )
    folder = model_files.model_folder(config.name, config.model, fetch)
    pooling = model_files.trained_pooling(folder) if config.pooling == "auto" else config.pooling
    dtype, device = pick_hardware(config.dtype, config.device)
    return Encoder(config, folder, dtype, device, pooling, _pick_engine(config.engine, folder, dtype, device))


def _pick_engine(engine: str, folder: Path, dtype: str, device: str) -> str:
    """The engine that `auto` stands for here. Raises InputError where onnx is asked for and cannot be used."""
    _check_choice("engine", engine, ("auto", "torch", "onnx"))
    fits = dtype == "fp32" and device == "cpu"
    if engine == "onnx" and not fits:
        raise InputError(f"encoder.engine=onnx: computes in fp32 on a CPU, not in {dtype} on {device}")
    if engine == "onnx" and not onnx_engine.is_installed():
        raise InputError("encoder.engine=onnx: needs the extra: pip install 'instructrec-rl[onnx]'")
    if engine == "auto" and fits and model_files.weight_bytes(folder) >= onnx_engine.WORTHWHILE:
        return "onnx" if onnx_engine.is_installed() else "torch"
    return "torch" if engine == "auto" else engine


def _check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f'encoder.{key} is "{value}".{nearest(value, known)}')
