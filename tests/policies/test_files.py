"""Saved policies are not trusted: what is damaged or hostile is one clear error, soon and in little memory."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from instructrec_rl import load_policy
from instructrec_rl.core import InputError
from tests.conftest import write_toys
from tests.policies.policy_damage import ASKED, damaged_copy, reseal, save_policies

MOST_SECONDS, MOST_BYTES = 20, 1 << 30


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def saved(home: Path) -> dict[str, Path]:
    before = Path.cwd()
    os.chdir(home)
    try:
        write_toys(home)
        return save_policies(home)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def right(saved: dict[str, Path]) -> dict[str, list[str]]:
    return {name: load_policy(run).act(ASKED) for name, run in saved.items()}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a policy asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def try_damaged(saved: dict[str, Path], right: dict[str, list[str]], target: Path, seeds: range) -> Counter[str]:
    """Load one damaged folder a seed: equal, an InputError, or where nothing can tell (no checksums) another answer."""
    names, found = sorted(saved), Counter[str]()
    for seed in seeds:
        name = names[seed % len(names)]
        folder, done, seals = damaged_copy(saved[name], target / "damaged", seed)
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            answers = load_policy(folder).act(ASKED)
            outcome = "equal" if answers == right[name] else "other"
            assert outcome == "equal" or seals != "as saved", f"seed {seed}: {done} gives another answer in silence"
        except InputError as error:
            outcome = "refused"
            assert len(str(error)) < 1000, f"seed {seed}: {done}"  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        assert time.monotonic() - began < MOST_SECONDS, f"seed {seed}: {done}"
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        assert grown < MOST_BYTES, f"seed {seed}: {done}"
        found[outcome] += 1
    assert not Path("/tmp/pwned-by-a-policy").exists()
    return found


def test_damaged_policies_are_refused_or_answer_alike(saved: Any, right: Any, tmp_path: Path) -> None:
    found = try_damaged(saved, right, tmp_path, range(52))
    assert found["refused"] > 35, found


@pytest.mark.slow
def test_many_damaged_policies_are_refused_or_answer_alike(saved: Any, right: Any, tmp_path: Path) -> None:
    found = try_damaged(saved, right, tmp_path, range(1000, 1520))
    assert found["refused"] > 400, found


def test_policies_without_checksums_still_load(saved: Any, right: Any, tmp_path: Path) -> None:
    for name, run in saved.items():
        shutil.copytree(run, tmp_path / name)
        reseal(tmp_path / name / "policy", old=True)
        assert "files" not in json.loads((tmp_path / name / "policy" / "policy.json").read_text())
        assert load_policy(tmp_path / name).act(ASKED) == right[name]


def changed(run: Path, target: Path, old: bool = True) -> Path:
    """A copy of a run whose checksums do not tell what is changed in it."""
    shutil.copytree(run, target)
    if old:
        reseal(target / "policy", old=True)
    return target / "policy"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(run: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_policy(run)
    return str(caught.value)


def test_a_size_that_the_weights_do_not_have_takes_no_memory(saved: Any, tmp_path: Path) -> None:
    for name, file in (("dqn", "network.json"), ("supervised", "supervised.json")):
        folder = changed(saved[name], tmp_path / name)
        about = json.loads((folder / file).read_text())
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        for hidden in (40_000, 1 << 24):
            edit(folder / file, shape={**about["shape"], "hidden": hidden})
            assert "expected F32" in refusal(tmp_path / name)
        edit(folder / file, shape={**about["shape"], "dim": 96})
        assert "the encoder's vectors have 384 numbers" in refusal(tmp_path / name)
        assert time.monotonic() - began < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    folder = changed(saved["ppo"], tmp_path / "ppo")
    for key, value in (("hidden_size", 40_000), ("num_hidden_layers", 10**9), ("vocab_size", 10**8)):
        shutil.copy(saved["ppo"] / "policy" / "config.json", folder / "config.json")
        edit(folder / "config.json", **{key: value})
        refusal(tmp_path / "ppo")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


@pytest.mark.parametrize("menu", [[-1], [12], [0, 0], [], [True], [0.5], ["0"], "all", None, [10**30]])
def test_a_menu_that_the_items_do_not_have_is_refused(saved: Any, tmp_path: Path, menu: Any) -> None:
    folder = changed(saved["linear_q"], tmp_path / "run")
    edit(folder / "policy.json", menu=menu)
    assert '"menu' in refusal(tmp_path / "run")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(saved: Any, tmp_path: Path, value: float) -> None:
    for name in ("linear_q", "centroid", "dqn", "ppo"):
        folder = changed(saved[name], tmp_path / name)
        path = next(path for path in sorted(folder.glob("*.safetensors")) if "projection" not in path.name)
        tensors = load_file(path)
        first = next(name for name in sorted(tensors) if tensors[name].dtype == np.float32)
        tensors[first] = tensors[first].copy()
        tensors[first].flat[-1] = value
        save_file(tensors, path, metadata={"format": "pt"})
        assert "not finite" in refusal(tmp_path / name)


def test_items_in_another_order_are_refused(saved: Any, tmp_path: Path) -> None:
    for name in ("linear_q", "ppo", "popularity"):
        path = changed(saved[name], tmp_path / name, old=False) / "items.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(reversed(lines)) + "\n")
        assert "items.jsonl: damaged: not as the policy was saved (sha256)" in refusal(tmp_path / name)


def test_no_bit_of_policy_json_can_change_in_silence(saved: Any, right: Any, tmp_path: Path) -> None:
    folder = changed(saved["popularity"], tmp_path / "run", old=False)
    original = (folder / "policy.json").read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        data = bytearray(original)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / "policy.json").write_bytes(data)
        try:
            assert load_policy(tmp_path / "run").act(ASKED) == right["popularity"]
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_nothing_is_written_where_the_policy_says(saved: Any, right: Any, tmp_path: Path) -> None:
    folder = changed(saved["linear_q"], tmp_path / "run")
    about = json.loads((folder / "policy.json").read_text())
    edit(folder / "policy.json", encoder={**about["encoder"], "cache": str(tmp_path / "elsewhere"), "device": "cuda:7"})
    assert load_policy(tmp_path / "run").act(ASKED) == right["linear_q"]
    assert not (tmp_path / "elsewhere").exists()


def test_nothing_is_asked_of_the_hub(saved: Any, tmp_path: Path) -> None:
    folder = changed(saved["ppo-adapters"], tmp_path / "adapters")
    for base in ("org/model", "gpt2", "../model", "https://example.org/x"):
        edit(folder / "adapter_config.json", base_model_name_or_path=base)
        assert base in refusal(tmp_path / "adapters")
    folder = changed(saved["linear_q"], tmp_path / "encoder")
    about = json.loads((folder / "policy.json").read_text())
    edit(folder / "policy.json", encoder={**about["encoder"], "name": "hf", "model": "org/model"})
    assert "org/model: encoder.model: not on this machine; fetch it first: hf download" in refusal(tmp_path / "encoder")


def test_pickles_and_code_are_never_read(saved: Any, right: Any, tmp_path: Path) -> None:
    for name, weights, pickle in (
        ("ppo", "model.safetensors", "pytorch_model.bin"),
        ("ppo-adapters", "adapter_model.safetensors", "adapter_model.bin"),
    ):
        folder = changed(saved[name], tmp_path / name)
        (folder / weights).rename(folder / pickle)
        assert "safetensors" in refusal(tmp_path / name)
    folder = changed(saved["ppo"], tmp_path / "code")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    assert load_policy(tmp_path / "code").act(ASKED) == right["ppo"]
    edit(folder / "config.json", model_type="evil")
    refusal(tmp_path / "code")
    assert not (tmp_path / "ran").exists()
    changed(saved["ppo"], tmp_path / "more", old=False)
    (tmp_path / "more" / "policy" / "evil.py").write_text("")
    assert "evil.py: not one of the files that the policy was saved with" in refusal(tmp_path / "more")


def test_no_name_leads_out_of_the_folder(saved: Any, tmp_path: Path) -> None:
    folder = changed(saved["ppo"], tmp_path / "shards")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    for name in ("../../outside.safetensors", str(tmp_path / "outside.safetensors"), "..", 3):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
        assert "is not the name of a file in this folder" in refusal(tmp_path / "shards")
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    assert "a link that leads out of the policy's folder" in refusal(tmp_path / "shards")
    folder = changed(saved["linear_q"], tmp_path / "files", old=False)
    about = json.loads((folder / "policy.json").read_text())
    reseal(folder, old=False)
    edit(folder / "policy.json", files={**about["files"], "../outside": "0" * 64})
    assert "policy.json: damaged" in refusal(tmp_path / "files")


def test_adapters_of_another_rank_or_model_are_refused(saved: Any, tmp_path: Path) -> None:
    folder = changed(saved["ppo-adapters"], tmp_path / "run")
    edit(folder / "adapter_config.json", r=10**7)
    assert '"r" is 10000000' in refusal(tmp_path / "run")
    edit(folder / "adapter_config.json", r=4, target_modules=["q_proj"])
    assert "the adapters do not fit the model below them" in refusal(tmp_path / "run")
    edit(folder / "adapter_config.json", target_modules=["nothing"])
    assert "the adapters do not fit the model below them" in refusal(tmp_path / "run")


def test_everybody_may_read_what_was_saved(saved: Any) -> None:
    for run in saved.values():
        modes = {path.stat().st_mode & 0o777 for path in (run / "policy").rglob("*") if path.is_file()}
        assert modes == {(run / "policy" / "items.jsonl").stat().st_mode & 0o777}
