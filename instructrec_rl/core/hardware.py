"""What this machine has to compute with, and how many processes share a run. torch is imported where it is asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from instructrec_rl.core import InputError

if TYPE_CHECKING:
    import torch


def num_processes() -> int:
    """How many processes train this run together, as torchrun and accelerate say."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def pick_device(name: str = "auto") -> tuple[torch.device, bool]:
    """The device to learn on (a GPU where there is one), and whether it multiplies bfloat16 in hardware.

    name: auto, cpu, mps, cuda or cuda:N. Raises InputError for another one, and for one that is not there.
    """
    import torch

    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise InputError(f"algo.device={name}: expected auto, cpu, mps, cuda or cuda:N") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        raise InputError(f"algo.device={name}: torch finds no such device here; auto takes the best there is")
    return device, _multiplies_bf16(device.type)


def pick_hardware(dtype: str = "auto", device: str = "auto") -> tuple[str, str]:
    """The dtype (bf16 or fp32) and device that `auto` stands for here. Raises InputError where there is no such GPU."""
    if dtype != "auto" and device == "cpu":
        return dtype, device  # nothing to ask torch, whose import takes a second
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f'encoder.device is "{device}" but torch sees no GPU here')
    if dtype == "auto":
        dtype = "bf16" if _multiplies_bf16(device.partition(":")[0]) else "fp32"
    return dtype, device


def _multiplies_bf16(kind: str) -> bool:
    """Whether a kind of device does so in hardware, so that it pays."""
    import torch

    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # on a CPU AMX alone pays: AVX512-BF16 without it was measured at .5 to .8 of fp32 (benchmarks.speed.learning)
    return kind == "cpu" and bool(torch.cpu._is_amx_tile_supported())
