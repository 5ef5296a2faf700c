"""What people said of a response: its aggregated rating, and for responses that no one rated the learned reward."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instructrec_rl.core import Batch, InputError
from instructrec_rl.core.files import find_envs
from instructrec_rl.core.inert import printable
from instructrec_rl.core.options import option
from instructrec_rl.encoders.loading import load_encoder
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.feedback.learned.annotators import aggregate, standardise
from instructrec_rl.feedback.learned.cross_validation import against_length, worse_than_length
from instructrec_rl.feedback.learned.judgements import Judgements, collect
from instructrec_rl.feedback.learned.model import MIN_JUDGEMENTS, LearnedReward, learn
from instructrec_rl.feedback.quality import of_unknown_envs
from instructrec_rl.feedback.schema import Record
from instructrec_rl.feedback.store import Store
from instructrec_rl.feedback.versions import Versions
from instructrec_rl.rewards import RewardContext

LOOK_EVERY_S = 0.25  # a new line is seen within this time and a step
LOOKS_SHARE = 9.0  # times as long as a look at least until the next: looking takes at most a tenth of the time
SOURCES = ("rated", "learned", "fallback", "floor")
RATED, LEARNED, FALLBACK, FLOOR = range(4)
EXAMPLE = '{"instruction": "a pizza without meat", "response": "margherita", "rating": 4}'


@dataclass
class Config:
    """A pair that was rated earns its rating. What follows is for all others."""

    folder: str = option("", "where the feedback lies (default: rewards/ here and in $INSTRUCTREC_PATH)")
    learned: bool = option(True, "score them by the reward learned from all feedback")
    interaction: str = option(
        "auto", "the learned reward's network over the instruction's clauses", choices=("auto", "never", "always")
    )
    fallback: str = option("", "the reward that scores them where nothing is learned (default: they get the floor)")
    floor: float = option(0.0, "what a response earns that resembles none that was judged", low=0.0, high=1.0)
    quantile: float = option(0.01, "of the judged responses' own nearness, below which one is novel", low=0.0, high=0.5)
    refit: float = option(0.02, "learn anew when this share of the feedback has changed", low=0.0, high=1.0)


class Reward:
    """Follows the feedback while a run trains. `version` is the hash of what counts."""

    def __init__(self, config: Config, context: RewardContext):
        self.config, self.context = config, context
        self.store = Store([config.folder] if config.folder else None)
        self.find = ItemFinder(context.items)
        self.texts = [item.text for item in context.items]
        self.fallback = context.load(config.fallback) if config.fallback else None
        self.encoder = (context.encoder or load_encoder()) if config.learned else None
        self.learned: LearnedReward | None = None
        self._fitted_on: frozenset[str] = frozenset()
        self._step, self._look_at = -1, 0.0
        self._recorder: Any = None
        self._versions: Versions | None = None
        self._reached = 0  # how many versions of the history
        self._counts = np.zeros(len(SOURCES), dtype=np.int64)
        self._refuse_nothing()
        self._take(self.store.records, self.store.version)
        self._say_what_is_amiss()

    def _refuse_nothing(self) -> None:
        where = ", ".join(map(str, self.store.folders))
        bad = f" ({len(self.store.problems)} lines are set aside: instructrec-rl feedback check)"
        if not self.store.records:
            raise InputError(
                f"there is no feedback in {where}{bad if self.store.problems else ''}; give some: rate in a browser "
                f"with `instructrec-rl annotate env={self.context.env or 'NAME'}`, or put lines such as {EXAMPLE} "
                "into rewards/feedback/you.jsonl"
            )
        if all(record.confidence == 0 for record in self.store.records):
            raise InputError(f"all feedback in {where} has the confidence 0, which counts for nothing")
        if not len(self._judge(self.store.records)):
            named = sorted({record.env for record in self.store.records})
            raise InputError(f'no feedback in {where} is of env "{self.context.env}"; there is some of {named}')

    def _say_what_is_amiss(self) -> None:
        """On stderr: bad lines, feedback of environments that do not exist, and a learned reward worse than none."""
        said = of_unknown_envs(self.store.records, [*find_envs(), self.context.env])
        if problems := self.store.problems:
            said.append(f"{len(problems):,} lines or files are set aside, the first is {problems[0]}; "
                        "instructrec-rl feedback check names all")  # fmt: skip
        if self.learned is not None:
            accuracy, longer_wins, number = against_length(self.learned)
            if number >= MIN_JUDGEMENTS and accuracy < longer_wins:
                said.append(worse_than_length(accuracy, longer_wins))
        for words in said:
            print(f"human_feedback: {printable(words)}", file=sys.stderr, flush=True)

    def _judge(self, records: Sequence[Record]) -> Judgements:
        return collect(records, self.context.env, self.context.items)

    def _take(self, records: Sequence[Record], version: str, refit: bool | None = None) -> bool:
        """Let these records count. refit: None fits the learned reward anew where enough changed; returns whether."""
        judged, ids = self._judge(records), frozenset(record.id for record in records)
        enough = self.encoder is not None and len(judged) >= MIN_JUDGEMENTS
        if refit is None:
            refit = enough and len(ids ^ self._fitted_on) > self.config.refit * len(self._fitted_on)
        if refit:
            self._fit(judged, ids)
        if not enough:
            self.learned = None
        trust = dict(zip(self.learned.judged.annotators, self.learned.trust)) if self.learned else {}
        rated = aggregate(judged, standardise(judged), np.array([trust.get(name, 1.0) for name in judged.annotators]))
        self.rated = {
            (judged.instructions[pair], judged.responses[pair]): score for pair, score in zip(rated.pair, rated.score)
        }
        self.version = version
        return refit

    def _fit(self, judged: Judgements, ids: frozenset[str]) -> None:
        assert self.encoder is not None
        self.learned = learn(judged, self.encoder, self.context.items, self.config.quantile, self.config.interaction)
        self._fitted_on = ids

    def attach(self, recorder: Any) -> None:
        """Keep each version in the run's folder, and log it where it changes; what the folder holds is replayed."""
        self._recorder, self._versions = recorder, Versions(recorder.folder / "feedback")
        recorder.also_log.append(self.shares)
        if self._versions.history:
            self._become(1)
        else:
            self._versions.add(0, self.version, self.learned is not None, self.store.records)
            self._reached = 1

    def at(self, step: int) -> None:
        """Look for new feedback, at most four times a second; in a resumed run first what it saw before.

        A step before one that was is a baseline's, which is trained on what the policy was.
        """
        if step < self._step:
            return
        resumed, self._step = self._step < 0 < step, step
        if self._versions is not None and self._reached < len(self._versions.history):
            reached = sum(version.step <= step for version in self._versions.history)
            if reached > self._reached:
                self._become(reached)
                if not resumed:  # else the line is in metrics.jsonl already
                    self._log(step)
        elif time.monotonic() >= self._look_at:
            began = time.monotonic()
            self.store.refresh()
            now = time.monotonic()  # of very many files a look takes long: then it is taken less often
            self._look_at = now + max(LOOK_EVERY_S - (now - began), LOOKS_SHARE * (now - began))
            if self.store.version != self.version:
                self._follow(step)

    def _follow(self, step: int) -> None:
        """Take over what is in the store now; where everything was taken back, the run goes on with what it has."""
        if not len(self._judge(self.store.records)):
            return
        fitted = self._take(self.store.records, self.store.version)
        if self._versions is not None:
            self._versions.add(step, self.version, fitted, self.store.records)
            self._reached += 1
        self._log(step)

    def _become(self, reached: int) -> None:
        """Be as the run was after its first `reached` versions, with the learned reward as it was fitted then."""
        assert self._versions is not None
        fits = [place for place in range(reached) if self._versions.history[place].fitted]
        if fits:
            records = self._versions.at(fits[-1])
            ids = frozenset(record.id for record in records)
            if ids != self._fitted_on:
                self._fit(self._judge(records), ids)
        self._take(self._versions.at(reached - 1), self._versions.history[reached - 1].version, refit=False)
        self._reached = reached

    def _log(self, step: int) -> None:
        if self._recorder is not None:
            self._recorder.log(step, feedback=self.version, feedback_rated_pairs=len(self.rated))

    def shares(self) -> dict[str, float]:
        """The share of the pairs scored since the last call that each source scored; {} where none was."""
        total, counts = int(self._counts.sum()), self._counts
        self._counts = np.zeros(len(SOURCES), dtype=np.int64)
        return {f"feedback/{name}": count / total for name, count in zip(SOURCES, counts.tolist())} if total else {}

    def score(self, batch: Batch) -> np.ndarray:
        """Scores (B,)."""
        scores, source = self._score(batch)
        self._counts += np.bincount(source, minlength=len(SOURCES))
        return scores

    def parts(self, batch: Batch) -> dict[str, np.ndarray]:
        """Where each score comes from: (B,) of 0 and 1 for every source, so that their means are shares."""
        source = self._score(batch)[1]
        return {name: (source == number).astype(np.float64) for number, name in enumerate(SOURCES)}

    def _score(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Scores (B,), and which of SOURCES each is from (B,)."""
        responses = [
            self.texts[place] if place >= 0 else text
            for place, text in zip(self.find(batch.responses).tolist(), batch.responses)
        ]
        found = [self.rated.get(pair) for pair in zip(batch.instructions, responses)]
        scores = np.array([self.config.floor if score is None else score for score in found])
        source = np.array([FLOOR if score is None else RATED for score in found])
        rest = np.flatnonzero(source == FLOOR).tolist()
        asked, answered = [batch.instructions[i] for i in rest], [responses[i] for i in rest]
        if rest and self.learned is not None:
            predicted = self.learned.predict(asked, answered)
            known = np.array(rest)[~predicted.novel]
            scores[known], source[known] = predicted.score[~predicted.novel], LEARNED
        elif rest and self.fallback is not None:
            rows = None if batch.rows is None else [batch.rows[i] for i in rest]
            scores[rest] = self.fallback.score(asked, answered, [batch.references[i] for i in rest], rows)
            source[rest] = FALLBACK
        return scores, source
