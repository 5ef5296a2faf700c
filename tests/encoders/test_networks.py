"""The device that algo.device names."""

from __future__ import annotations

import pytest
import torch

from instructrec_rl.core import InputError
from instructrec_rl.core.hardware import pick_device


def test_the_device_named_is_the_one_picked() -> None:
    assert pick_device("cpu")[0] == torch.device("cpu")
    assert pick_device("auto")[0].type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:x", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^algo.device={name}: expected auto, cpu, mps, cuda or cuda:N$"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "meta"])
def test_a_device_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"^algo.device={name}: torch finds no such device here"):
        pick_device(name)
