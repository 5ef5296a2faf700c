"""A trained policy as files: saved with what it needs to answer plain text, and loaded without its environment."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field

from instructrec_rl.core import InputError, Item, nearest
from instructrec_rl.core.files import find_algorithms, read_bytes, read_jsonl, write_json_atomic, write_text_atomic
from instructrec_rl.core.forms import MOST_BYTES, Form, Size, as_form
from instructrec_rl.core.json_reader import parse_object
from instructrec_rl.core.options import in_words
from instructrec_rl.encoders.bert import Encoder, EncoderConfig
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.encoders.states import Asked, row_blocks
from instructrec_rl.policies.contracts import Policy, Writer
from instructrec_rl.policies.files import POLICY, check_files, checksums, seal

if TYPE_CHECKING:
    from instructrec_rl.env.environment import Environment


class TextPolicy:
    """A policy that answers plain instructions with texts. Made by `load_policy`."""

    def __init__(self, policy: Policy | Writer, items: list[Item], menu: np.ndarray, encoder: Encoder):
        self.policy, self.items, self.menu, self.encoder = policy, items, menu, encoder

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {type(self.policy).__name__}, {len(self.menu)} of {len(self.items)} items>"

    def act(self, instructions: Sequence[str]) -> list[str]:
        """The response to each instruction: what it writes, or the text of the item chosen from the regular menu.

        Raises InputError for a text that the encoder cannot read.
        """
        if isinstance(instructions, str):
            raise InputError("act takes a list of instructions, not one text")
        if not len(instructions):
            return []
        if not isinstance(self.policy, Policy):
            return self.policy.write(Asked.from_texts(list(instructions), self.encoder), self.menu)
        policy, texts = self.policy, list(instructions)
        blocks = row_blocks(np.arange(len(texts)), len(self.menu))
        asked = [Asked.from_texts([texts[i] for i in block], self.encoder) for block in blocks]
        return [self.items[item].text for each in asked for item in policy.act(each, self.menu)]

    def rank(self, instructions: Sequence[str], k: int = 5) -> list[list[Ranked]]:
        """The k best items of the regular menu for each instruction, best first; the first is what `act` answers.

        Scores are the policy's own, in its own unit. Raises InputError for a policy that scores no items, for k below
        1 and for a text that the encoder cannot read.
        """
        if isinstance(instructions, str):
            raise InputError("rank takes a list of instructions, not one text")
        if k < 1:
            raise InputError(f"k={k}: expected at least 1")
        score = getattr(self.policy, "scores", None)
        if score is None:
            raise InputError(f"{type(self.policy).__name__} gives items no scores and cannot rank them; use act")
        ranked: list[list[Ranked]] = []
        for block in row_blocks(np.arange(len(instructions)), len(self.menu)) if len(instructions) else ():
            scores = score(Asked.from_texts([instructions[i] for i in block], self.encoder), self.menu)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            pairs = zip(self.menu[best].tolist(), np.take_along_axis(scores, best, 1).tolist(), strict=True)
            ranked += [[_ranked(self.items[i], score) for i, score in zip(*row, strict=True)] for row in pairs]
        return ranked


@dataclasses.dataclass(frozen=True)
class Ranked:
    """An item in a ranking, with the score that the policy gives it."""

    id: str
    name: str
    text: str
    score: float


def _ranked(item: Item, score: float) -> Ranked:
    return Ranked(item.id, item.name, item.text, score)


class EncoderForm(Form):
    """What policy.json says of the encoder: the fields of EncoderConfig that decide what its vectors mean.

    `device` and `cache` are read and not used: they are of the machine that learned.
    """

    model_config = ConfigDict(extra="allow")  # options that came later: see `_encoder_config`

    name: str
    model: str
    pooling: str
    max_tokens: Size
    batch_size: Annotated[int, Field(ge=0, le=1 << 24)]
    dtype: str
    device: str
    cache: str
    max_unknown: float


class PolicyForm(Form):
    """policy.json. menu: positions in items.jsonl; files: checksums; sha256: of all the rest of this file.

    Policies of version 0.1.0 have neither checksums nor the sha256.
    """

    algo: str
    env: str
    encoder: EncoderForm
    model_fingerprint: str
    menu: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]
    files: dict[str, str] | None = None
    sha256: str | None = None


class ItemForm(Form):
    """A line of a policy's items.jsonl."""

    id: str
    name: str
    text: str
    attributes: dict[str, Any]


def save_policy(folder: Path, algo: str, policy: Policy | Writer, env: Environment) -> None:
    """Write a policy's folder: its own files, the catalog, which encoder it reads, and the checksums of them all.

    JSON and safetensors only.
    """
    from safetensors import SafetensorError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        policy.save(folder)
    except (OSError, SafetensorError) as error:  # a full or read-only disk
        raise InputError(f"the policy cannot be written: {error}", folder) from error
    items = [json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n" for item in env.items]
    write_text_atomic(folder / "items.jsonl", "".join(items))
    _allow_reading(folder)
    about = {
        "algo": algo,
        "env": env.spec.name,
        "encoder": {**dataclasses.asdict(env.encoder.config), "cache": "", "device": "auto"},
        "model_fingerprint": env.encoder.model_fingerprint,
        "menu": env.spec.regular.tolist(),
        "files": checksums(folder),
    }
    write_json_atomic(folder / POLICY, {**about, "sha256": seal(about)})


def _allow_reading(folder: Path) -> None:
    """Give files of the safetensors library, which only their owner may read, the rights that all others have."""
    for path in folder.rglob("*.safetensors"):
        path.chmod((folder / "items.jsonl").stat().st_mode & 0o777)


def load_policy(run_dir: str | Path) -> TextPolicy:
    """Load the policy of a run folder; `.act(["text", ...])` answers plain instructions.

    Nothing of the folder is run, fetched for or written to. Raises InputError where there is no policy, where its files
    are not those that were saved, and where its encoder is not the one it was trained with.
    """
    folder = Path(run_dir) / "policy"
    if not (folder / POLICY).is_file():
        raise InputError("no policy here; expected a run folder with policy/policy.json", run_dir)
    about = _read_about(folder / POLICY)
    check_files(folder, about.files)
    items = _read_items(folder / "items.jsonl")
    if max(about.menu) >= len(items) or len(set(about.menu)) < len(about.menu):
        raise InputError(f'"menu": expected different positions among the {len(items)} items', folder / POLICY)
    encoder = load_encoder(_encoder_config(about.encoder, folder / POLICY), fetch=False)
    if encoder.model_fingerprint != about.model_fingerprint:
        raise InputError("the policy was trained with another encoder than the one found here", folder)
    policy = importlib.import_module(f"instructrec_rl.algorithms.{about.algo}").load(folder, items, encoder.dim)
    return TextPolicy(policy, items, np.array(about.menu, dtype=np.int64), encoder)


def _read_about(path: Path) -> PolicyForm:
    said = parse_object(read_bytes(path, MOST_BYTES), path)
    about = as_form(said, PolicyForm, path)
    if (about.files is None) != (about.sha256 is None):
        raise InputError('"files" and "sha256" go together: a part of the policy\'s checksums is missing', path)
    if about.sha256 is not None and about.sha256 != seal(said):
        raise InputError("damaged: not as it was saved (sha256)", path)
    if about.algo not in find_algorithms():  # a name from data becomes a module of ours, or nothing
        raise InputError(f'unknown algorithm "{about.algo[:80]}".{nearest(about.algo[:80], find_algorithms())}', path)
    return about


def _encoder_config(saved: EncoderForm, path: Path) -> EncoderConfig:
    """The encoder's options, with the vectors kept in this user's own cache, wherever the file points."""
    given = {**saved.model_dump(), "cache": "", "device": "auto"}
    known = {field.name: field.default for field in dataclasses.fields(EncoderConfig)}
    for key, value in given.items():
        if key not in known:
            raise InputError(f'"encoder": unknown option "{key[:80]}".{nearest(key[:80], known)}', path)
        if type(value) is not type(known[key]):
            raise InputError(f'"encoder.{key}": expected {in_words(type(known[key]))}', path)
    return EncoderConfig(**given)


def _read_items(path: Path) -> list[Item]:
    items, seen = [], set()
    for number, record in read_jsonl(path):
        item = Item(**as_form(record, ItemForm, path, number).model_dump())
        if item.id in seen:
            raise InputError(f'the item "{item.id[:80]}" is there twice', path, number)
        seen.add(item.id)
        items.append(item)
    if not items:
        raise InputError("no items", path)
    return items
