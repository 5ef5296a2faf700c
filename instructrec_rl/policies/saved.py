"""A trained policy as files: saved with what it needs to answer plain text, and loaded without its environment."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instructrec_rl.core import InputError, Item, nearest
from instructrec_rl.core.files import find_algorithms, read_jsonl, write_json_atomic, write_text_atomic
from instructrec_rl.encoders.bert import Encoder, EncoderConfig, load_encoder
from instructrec_rl.encoders.states import Asked, row_blocks
from instructrec_rl.policies.contracts import Policy, Writer

if TYPE_CHECKING:
    from instructrec_rl.env.environment import Environment


class TextPolicy:
    """A policy that answers plain instructions with texts. Made by `load_policy`."""

    def __init__(self, policy: Policy | Writer, items: list[Item], menu: np.ndarray, encoder: Encoder):
        self.policy, self.items, self.menu, self.encoder = policy, items, menu, encoder

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


def save_policy(folder: Path, algo: str, policy: Policy | Writer, env: Environment) -> None:
    """Write a policy's folder: its own files, the catalog, and which encoder it reads. JSON and safetensors only."""
    from safetensors import SafetensorError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        policy.save(folder)
    except (OSError, SafetensorError) as error:  # a full or read-only disk
        raise InputError(f"the policy cannot be written: {error}", folder) from error
    items = [json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n" for item in env.items]
    write_text_atomic(folder / "items.jsonl", "".join(items))
    about = {
        "algo": algo,
        "env": env.spec.name,
        "encoder": {**dataclasses.asdict(env.encoder.config), "cache": "", "device": "auto"},
        "model_fingerprint": env.encoder.model_fingerprint,
        "menu": env.spec.regular.tolist(),
    }
    write_json_atomic(folder / "policy.json", about)


def load_policy(run_dir: str | Path) -> TextPolicy:
    """Load the policy of a run folder; `.act(["text", ...])` answers plain instructions.

    Raises InputError where there is no policy, or where its encoder is not the one it was trained with.
    """
    folder = Path(run_dir) / "policy"
    if not (folder / "policy.json").is_file():
        raise InputError("no policy here; expected a run folder with policy/policy.json", run_dir)
    about = json.loads((folder / "policy.json").read_text())
    if about["algo"] not in find_algorithms():  # a name from data becomes a module of ours, or nothing
        raise InputError(
            f'unknown algorithm "{about["algo"]}".{nearest(about["algo"], find_algorithms())}', folder / "policy.json"
        )
    items = [Item(**record) for _, record in read_jsonl(folder / "items.jsonl")]
    encoder = load_encoder(EncoderConfig(**about["encoder"]))
    if encoder.model_fingerprint != about.get("model_fingerprint"):
        raise InputError("the policy was trained with another encoder than the one found here", folder)
    policy = importlib.import_module(f"instructrec_rl.algorithms.{about['algo']}").load(folder, items)
    return TextPolicy(policy, items, np.array(about["menu"], dtype=np.int64), encoder)
