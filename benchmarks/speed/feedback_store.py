"""The table of the store's speed in docs/reference/rewards/human.md.

python -m benchmarks.speed.feedback_store [--lines 100000] [--markdown docs/reference/rewards/human.md]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.common.tables import markdown_table, write_between_markers
from instructrec_rl.feedback.store import Store, append


def main() -> None:
    """Measure, print, and write the table. CPU seconds: the machine may be busy with other things."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--markdown", type=Path, help="rewrite the table between the markers of this page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "a.jsonl")
        with path.open("w") as stream:
            for k in range(arguments.lines):
                about = {"kind": "rating", "id": f"id{k}", "ts": "2025-01-01T00:00:00Z", "annotator": f"a{k % 8}"}
                texts = {
                    "instruction": f"I want a pizza with mushrooms, number {k // 8}",
                    "response": "tuna, rocket " * 6,
                }
                stream.write(json.dumps({**about, "env": "pizza_rec", **texts, "rating": 1 + k % 5}) + "\n")
        clock = time.process_time
        started = clock()
        store = Store([home])
        load = clock() - started
        reload = []
        for k in range(5):
            append(path, {"instruction": "q", "response": f"r{k}", "rating": 3})
            started = clock()
            assert store.refresh()
            assert len(store.records) == arguments.lines + k + 1
            reload.append(clock() - started)
        started = clock()
        for k in range(2000):
            append(path, {"instruction": "q", "response": f"s{k}", "rating": 3})
        rate = 2000 / (clock() - started)
    rows = [
        [f"load {arguments.lines:,} lines", f"{load:.2f} s"],
        ["see one appended line (slowest of 5)", f"{1000 * max(reload):.0f} ms"],
        ["append, without fsync", f"{rate:,.0f} lines/s"],
    ]
    text = markdown_table(["one thread", "CPU time"], rows)
    print(text)
    if arguments.markdown:
        write_between_markers(arguments.markdown, "store", text)


if __name__ == "__main__":
    main()
