"""The PandaLM table of docs/explanation/learned_reward.md: real votes, cross-validated, beside "the longer one wins".

    python -m benchmarks.results.feedback_pandalm --data FILE [--markdown docs/explanation/learned_reward.md]

FILE is testset-v1.json of WeOpenML/PandaLM, which is not part of this project.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.common.tables import markdown_table, write_between_markers
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.feedback import imports
from instructrec_rl.feedback.learned.cross_validation import cross_validate
from instructrec_rl.feedback.learned.judgements import collect
from instructrec_rl.feedback.learned.model import learn
from instructrec_rl.feedback.quality import alphas


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--markdown", type=Path, help="rewrite the table between the markers of this page")
    arguments = parser.parse_args()
    found = imports.read(arguments.data, "pandalm")
    judged, encoder = collect(found.records), load_encoder()
    checked = cross_validate(judged, lambda part: learn(part, encoder, interaction="never"))
    rows = [
        ["learned reward", f"{checked.accuracy[0]:.3f} ± {checked.accuracy[1]:.3f}", f"{checked.ece:.3f}"],
        ["the longer one wins", f"{checked.longer_wins[0]:.3f} ± {checked.longer_wins[1]:.3f}", "–"],
    ]
    text = markdown_table([f"{checked.num_comparisons:,} votes, {len(set(judged.instructions))} instructions",
                           "accuracy", "ECE"], rows)  # fmt: skip
    alpha = alphas(found.records)["comparisons, nominal"]
    broken = ", ".join(str(index) for index, _ in found.broken)
    text += f"\n\nKrippendorff's alpha of the three annotators: {alpha:.3f} (nominal). Broken rows: {broken}."
    print(text)
    if arguments.markdown:
        write_between_markers(arguments.markdown, "pandalm", text)


if __name__ == "__main__":
    main()
