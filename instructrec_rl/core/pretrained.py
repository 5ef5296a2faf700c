"""A transformers model's folder that is not trusted: what its config claims is held against the weights before any
memory is taken, weights are safetensors and nothing else, and no file names another one outside the folder.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_json
from instructrec_rl.core.tensor_files import Tensor, check_finite, num_numbers, read_header

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
JSON_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", INDEX)
# what a config may say without a tensor that shows it: how many modules, or names, are to be made
COUNTS = re.compile(r"(num_.*layers|n_layers?|layers|.*num_experts|n_.*experts|num_local_experts|num_labels)")
SLACK = 1 << 26  # numbers that a model may have beside its weights: tables of positions, a new layer


def check_model_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model's folder, by their headers.

    Raises InputError for adapters in the model's place, weights that are not safetensors, a file that is broken, and a
    config that names more layers than there are tensors or a file that is not in the folder.
    """
    if (folder / "adapter_config.json").exists():
        raise InputError("adapters are not a model; expected the folder of the whole model", folder)
    found = {name: read_json(folder / name) for name in JSON_FILES if (folder / name).exists()}
    if "config.json" not in found:
        raise InputError("no config.json: not the folder of a model", folder)
    if found["config.json"].get("transformers_weights") is not None:
        raise InputError('"transformers_weights" is not followed: the weights are model.safetensors', folder)
    listed = found.get("tokenizer_config.json", {}).get("fast_tokenizer_files") or []
    _check_names(listed if isinstance(listed, list) else [listed], folder / "tokenizer_config.json")
    header: dict[str, Tensor] = {}
    for path in _weight_files(folder, found.get(INDEX)):
        header |= read_header(path)
    most = max(len(header), *(size for tensor in header.values() for size in tensor.shape), 1)
    for key, value in found["config.json"].items():
        if COUNTS.fullmatch(key) and isinstance(value, int) and value > most:
            raise InputError(f'"{key}" is {str(value)[:40]}; the weights have no so many', folder / "config.json")
    return header


def _weight_files(folder: Path, index: dict[str, Any] | None) -> list[Path]:
    """The one safetensors file, or those that the index names."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if index is None:
        raise InputError("no model.safetensors (weights in other formats are not loaded)", folder)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError('"weight_map": expected an object of tensors and files', folder / INDEX)
    _check_names(list(places.values()), folder / INDEX)
    return [folder / name for name in sorted(set(places.values()))]


def _check_names(names: list[Any], path: Path) -> None:
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(f'"{str(name)[:80]}" is not the name of a file in this folder', path)


def load_whole(auto: Any, folder: Path, may_lack: str = "", settings: Any = None, **options: Any) -> Any:
    """`auto.from_pretrained(folder)`, locally and of safetensors alone, with every weight in the file and finite.

    may_lack: a pattern of the weights that may be missing, and are drawn at random; settings: options of the config.
    Raises InputError for whatever cannot be loaded so.
    """
    header = check_model_folder(folder)
    own: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    with _in_one_line(folder), quiet():
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, **own, **(settings or {}))
        _check_claims(auto, config, header, folder, options)
        model, found = auto.from_pretrained(
            folder, config=config, use_safetensors=True, output_loading_info=True, **own, **options
        )
        lacking = [name for name in sorted(found["missing_keys"]) if not (may_lack and re.search(may_lack, name))]
        if lacking:
            raise InputError(f'the weights lack "{lacking[0][:80]}"', folder)
        for name, weight in model.named_parameters():
            check_finite(folder, name, weight)
    return model


def _check_claims(auto: Any, config: Any, header: dict[str, Tensor], folder: Path, options: dict[str, Any]) -> None:
    """Raise InputError for a config of a model that is far larger than the weights are."""
    import torch

    extra = {key: value for key, value in options.items() if key != "dtype"}
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=False, **extra)
    claimed = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    held = num_numbers(header)
    if claimed > 2 * held + SLACK:
        raise InputError(f"a model of {claimed:,} numbers; the weights have {held:,}", folder / "config.json")


def load_text_tokenizer(folder: Path, **options: Any) -> Any:
    """`AutoTokenizer.from_pretrained(folder)`, locally. Raises InputError for one that cannot be read."""
    from transformers import AutoTokenizer

    with _in_one_line(folder, "the tokenizer cannot be read"), quiet():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)


@contextlib.contextmanager
def _in_one_line(folder: Path, words: str = "transformers cannot load it") -> Iterator[None]:
    """Turns whatever transformers raises for a folder that it cannot read, which has no common base, into InputError.

    Its tokenizers' Rust code also panics, which is no Exception.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{words} ({type(error).__name__}: {reason})", folder) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context in which transformers shows no progress bars and says nothing but errors."""
    from transformers.utils import logging as chatter

    verbosity, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(verbosity)
        if bars:
            chatter.enable_progress_bar()
