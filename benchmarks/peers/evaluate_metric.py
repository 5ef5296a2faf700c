"""What `evaluate`'s own rouge, sacrebleu and chrf scripts do, as a metric to load by path: they are on the hub, which
is never asked. One object of the reference implementation scores all rows of a call.

evaluate.load("benchmarks/peers/evaluate_metric.py", "rouge").compute(predictions=[...], references=[...])
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate


class EvaluateMetric(evaluate.Metric):
    """Configurations: rouge (a list of scores for each type), bleu and chrf (of the corpus, in per cent)."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str], **options: Any) -> dict[str, Any]:
        if self.config_name == "rouge":
            from rouge_score.rouge_scorer import RougeScorer

            types = options.pop("rouge_types")
            scorer = RougeScorer(types, **options)
            rows = [scorer.score(right, said) for said, right in zip(predictions, references)]
            return {kind: [row[kind].fmeasure for row in rows] for kind in types}
        from sacrebleu import metrics

        metric = {"bleu": metrics.BLEU, "chrf": metrics.CHRF}[self.config_name](**options)
        return {"score": metric.corpus_score(predictions, [references]).score}
