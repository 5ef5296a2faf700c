"""A stage's weights as a file, and a folder in which runs find the stages that others have done.

Runs that differ only in what comes after their warm start (ppo, grpo and rloo of one seed, say) make the same one.
With `algo.stage_cache=DIR` the first of them keeps it and the others take it. A stage is found by the sha256 of
everything that goes into it: the weights before it, the pairs it learns from, its settings, seed, threads, kind of
processor and code. What is taken is then bit for bit what would have been computed, the random generator included.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from instructrec_rl.algorithms.language.trained_weights import save_trained, trained_of
from instructrec_rl.core import InputError
from instructrec_rl.core.checksums import KEY, sha256_of
from instructrec_rl.core.files import open_regular
from instructrec_rl.core.fingerprints import digest, sha256_of_code
from instructrec_rl.core.inert import printable
from instructrec_rl.core.json_reader import parse_object
from instructrec_rl.core.leftovers import SHARED_AFTER_S, remove_abandoned
from instructrec_rl.core.locks import locked
from instructrec_rl.policies.language.generate import Ids

GENERATOR = "torch_rng_state"  # beside the weights: a critic's first weights are drawn after the last stage


def save_stage(path: Path, model: nn.Module, spent: dict[str, float]) -> None:
    """Write the trained weights, whole or not at all. spent: the seconds that the stage took, kept in the file."""
    kept, text = {**trained_of(model), GENERATOR: torch.get_rng_state()}, json.dumps(spent)
    save_trained(kept, path, spent=text, **{KEY: sha256_of(kept, text)})


def load_stage(path: Path, model: nn.Module) -> dict[str, float] | None:
    """Read what `save_stage` wrote into the model; returns the seconds that the stage took where it was done.

    None, a line on stderr and nothing changed where the file is damaged: the stage is then to be done again.
    """
    try:
        kept, text = _read(path)
        spent = parse_object(text, path)
    except InputError as error:
        print(printable(f"{error}; the stage is done again"), file=sys.stderr, flush=True)
        return None
    if GENERATOR in kept:
        torch.set_rng_state(kept.pop(GENERATOR))
    model.load_state_dict(kept, strict=False)
    return spent


def _read(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The weights in a file and what its head says. Raises InputError where it is damaged."""
    open_regular(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            head = file.metadata() or {}
        kept = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"damaged: not a whole stage ({str(error)[:80]})", path) from error
    text = head.get("spent", "{}")
    if KEY in head and head[KEY] != sha256_of(kept, text):  # those of 0.1.0 have none
        raise InputError("damaged: not as it was written (sha256)", path)
    return kept, text


def key_of_stage(model: nn.Module, pairs: tuple[list[Ids], list[Ids]], settings: dict[str, object]) -> str:
    """The sha256 of all that supervised training on (prompt, answer) pairs depends on, in hexadecimal.

    The model's buffers count too: one of them holds the state vectors that prompts refer to.
    """
    found = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for side in pairs:
        found.update(np.array([len(ids) for ids in side], dtype=np.int64).tobytes())
        found.update(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in side]).tobytes())
    machine = f"{torch.get_num_threads()} {torch.backends.cpu.get_cpu_capability()} {next(model.parameters()).device}"
    return digest([found.hexdigest(), json.dumps(settings, sort_keys=True), machine, sha256_of_code()])


@contextlib.contextmanager
def alone(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keep others from making the same file meanwhile; a kill lets go. waiting: called while another makes it.

    Raises InputError where the folder cannot be written.
    """
    with locked(path.with_suffix(".lock"), waiting=waiting):
        remove_abandoned(path.parent, SHARED_AFTER_S)
        yield
