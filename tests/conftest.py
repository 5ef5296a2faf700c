"""Shared fixtures: a small world that is planted, so that what should be learned is known."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from instructrec_rl.env.environment import Environment

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "star")
WORDS = ("apple", "bridge", "candle", "desert", "engine", "forest", "guitar", "hammer")


def pytest_configure() -> None:
    """Children that are sent Ctrl-C or a hang-up have what a terminal gives: in the background and under nohup both are
    ignored, and a child would inherit that."""
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        signum = getattr(signal, name, None)
        if signum is not None and signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The lanes that read real data, or need a browser, say so when it is not there."""
    absent = {} if SHARED.is_dir() else {"shared": f"no real data: {SHARED} is absent"}
    absent |= {} if CHROMIUM.exists() else {"browser": f"needs {CHROMIUM} (apt-get install chromium)"}
    for item in items:
        for mark, reason in absent.items():
            if mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


def write_toys(folder: Path, **about: object) -> Path:
    """An environment `toys`: 12 toys of 4 colours and 3 shapes; instructions ask for a colour, a shape, or both."""
    home = folder / "envs" / "toys"
    home.mkdir(parents=True)
    header = {
        "name": "toys",
        "version": 1,
        "format": "catalog",
        "action": "choose",
        "metrics": ["constraints", "exact_match"],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in {**header, **about}.items()]
    (home / "env.yaml").write_text("\n".join(lines) + "\n")
    items = [
        {"id": f"{c}_{s}", "name": f"{c} {s}", "text": f"a {s} painted {c}", "colour": c, "shape": s}
        for c in COLOURS
        for s in SHAPES
    ]
    (home / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = []
    for openers, split in (
        (("I want", "give me", "please bring"), "train"),
        (("could I have",), "validation"),
        (("find me",), "test"),
    ):
        for opener in openers:
            for c in (*COLOURS, None):
                for s in (*SHAPES, None):
                    if c is None and s is None:
                        continue
                    wanted = [
                        {"kind": k, "attribute": k, "op": "is", "value": v}
                        for k, v in (("colour", c), ("shape", s))
                        if v
                    ]
                    best = [item["id"] for item in items if all(item[w["attribute"]] == w["value"] for w in wanted)]
                    text = f"{opener} a {s or 'toy'}, {'painted ' + c if c else 'any colour'}"
                    rows.append(
                        {
                            "id": f"r{len(rows)}",
                            "instruction": text,
                            "split": split,
                            "best": best,
                            "constraints": wanted,
                        }
                    )
    (home / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Call it to write the toys environment (with changes to env.yaml) into an empty current directory."""
    monkeypatch.chdir(tmp_path)
    return lambda **about: write_toys(tmp_path, **about)


def write_echo(folder: Path, **about: object) -> None:
    """An environment `echo`: say the word that the instruction holds."""
    home = folder / "envs" / "echo"
    home.mkdir(parents=True)
    header = {"name": "echo", "version": 1, "format": "catalog", "action": "generate", "metrics": ["exact_match"]}
    lines = [f"{key}: {json.dumps(value)}" for key, value in {**header, **about}.items()]
    (home / "env.yaml").write_text("\n".join(lines) + "\n")
    items = [{"id": word, "name": word, "text": word} for word in WORDS]
    (home / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    ways = {"train": ("say {}", "repeat {}", "{}"), "validation": ("please say {}",), "test": ("now repeat {}",)}
    rows = [
        {"id": f"{split}-{i}-{word}", "instruction": way.format(word), "split": split, "best": [word]}
        for split, given in ways.items()
        for i, way in enumerate(given)
        for word in WORDS
    ]
    (home / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Environment]:
    monkeypatch.chdir(tmp_path)

    def make(**about: object) -> Environment:
        from instructrec_rl import load_env

        write_echo(tmp_path, **about)
        return load_env("echo", reward="exact_match")

    return make
