"""Which question comes next: the one whose answer helps most, quickly enough that nobody waits for it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from instructrec_rl.annotate.learner import Belief
from instructrec_rl.annotate.limits import question_fits
from instructrec_rl.annotate.pool import Pool
from instructrec_rl.feedback.schema import Preference, Ranking, Rating, Record, Retract, Thumbs

# How many responses a question of each kind shows, and the kind of record that its answer becomes.
MODES = {"rate": (1, "rating"), "compare": (2, "preference"), "rank": (4, "ranking"), "correct": (1, "correction"),
         "thumbs": (1, "thumbs")}  # fmt: skip
MODE_OF = {kind: mode for mode, (_, kind) in MODES.items()}
ROWS = 128  # instructions weighed for a question
POLICY_BONUS = 0.2  # on a gain in [0, 1], of the policy's answers: the reward will have to score them


@dataclass(frozen=True)
class Question:
    """An instruction with the responses to judge, in the order to show them."""

    mode: str
    instruction: str
    responses: tuple[str, ...]

    @property
    def key(self) -> str:
        """The same for the same question, whatever the order of the responses."""
        return question_key(self.mode, self.instruction, self.responses)


def question_key(mode: str, instruction: str, responses: Sequence[str]) -> str:
    """A short name of a question."""
    parts = "\0".join([mode, instruction, *sorted(responses)])
    return hashlib.blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def question_of(record: Record) -> Question:
    """The question that a record answers. Not for retractions."""
    if isinstance(record, Retract):
        raise TypeError("a retraction answers no question")
    if isinstance(record, Preference):
        responses: tuple[str, ...] = (record.chosen, record.rejected)
    else:
        responses = tuple(record.responses) if isinstance(record, Ranking) else (record.response,)
    return Question(MODE_OF[record.kind], record.instruction, responses)


@dataclass
class Tally:
    """What was answered.

    text_of: makes the names of a response one (an item's name becomes its text); questions: by key; annotators: for
    each key, who answered it and with what value, in [0, 1]; counts: how often a response to an instruction was judged.
    """

    text_of: Callable[[str], str] = str
    questions: dict[str, Question] = field(default_factory=dict)
    annotators: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Count a record that is not a retraction."""
        question = self._question(record)
        key = question.key
        self.questions.setdefault(key, question)
        value = record.share if isinstance(record, Rating) else 0.5
        if isinstance(record, Thumbs):
            value = float(record.up)
        elif isinstance(record, Preference) and not record.tie:
            value = float(self.text_of(record.chosen) == min(question.responses))
        self.annotators[key] = {**self.annotators.get(key, {}), record.annotator: value}
        self._count(question, 1)

    def discard(self, record: Record) -> None:
        """Take a record out that was counted."""
        question = self._question(record)
        given = self.annotators.get(question.key, {})
        others = {name: value for name, value in given.items() if name != record.annotator}
        if others:
            self.annotators[question.key] = others
        else:
            self.annotators.pop(question.key, None)
            self.questions.pop(question.key, None)
        self._count(question, -1)

    def _question(self, record: Record) -> Question:
        asked = question_of(record)
        return Question(asked.mode, asked.instruction, tuple(map(self.text_of, asked.responses)))

    def _count(self, question: Question, by: int) -> None:
        for response in question.responses:
            pair = (question.instruction, response)
            self.counts[pair] = self.counts.get(pair, 0) + by
            if not self.counts[pair]:
                del self.counts[pair]

    def copy(self) -> Tally:
        """A tally that stays as it is while this one counts on; what is inside each key is never changed in place."""
        return Tally(self.text_of, dict(self.questions), dict(self.annotators), dict(self.counts))

    def spread(self, key: str) -> float:
        """How far the annotators of a question are apart, in [0, 1]."""
        values = self.annotators[key].values()
        return max(values) - min(values)


class Selector:
    """Chooses questions from a pool.

    overlap: the share of questions that another annotator has answered, so that agreement can be measured.
    """

    def __init__(self, pool: Pool, overlap: float, seed: int = 0):
        self.pool, self.overlap, self.rng = pool, overlap, np.random.default_rng(seed)
        self._row = {text: i for i, text in enumerate(pool.instructions)}
        slots = itertools.product(range(len(pool.candidates)), range(pool.candidates.shape[1]))
        self._slot = {(pool.instructions[i], pool.responses[pool.candidates[i, k]]): (i, k) for i, k in slots}

    def choose(
        self, mode: str, annotator: str, tally: Tally, excluded: set[str], belief: Belief | None
    ) -> Question | None:
        """The next question for an annotator, or None where nothing is left.

        excluded: keys of questions that the annotator skipped and that others are answering now.
        """
        repeat = self.rng.random() < self.overlap
        question = self._repeated(mode, annotator, tally, excluded) if repeat else None
        question = question or self._fresh(mode, tally, excluded, belief)
        question = question or self._repeated(mode, annotator, tally, excluded)
        if question is None:
            return None
        shuffled = self.rng.permutation(len(question.responses))
        return Question(mode, question.instruction, tuple(question.responses[i] for i in shuffled))

    def _repeated(self, mode: str, annotator: str, tally: Tally, excluded: set[str]) -> Question | None:
        """A question that others answered: where they disagree most, then the one with the fewest answers."""
        open_to = [
            key
            for key, question in tally.questions.items()
            if question.mode == mode
            and question.instruction in self._row
            and annotator not in tally.annotators[key]
            and key not in excluded
            and question_fits(question.instruction, question.responses)
        ]
        if not open_to:
            return None
        order = self.rng.permutation(len(open_to))
        best = min(order, key=lambda i: (-tally.spread(open_to[i]), len(tally.annotators[open_to[i]])))
        return tally.questions[open_to[best]]

    def _fresh(self, mode: str, tally: Tally, excluded: set[str], belief: Belief | None) -> Question | None:
        """A question that nobody answered: the best of some instructions, else the first found of all."""
        counts = self._counts(tally)
        rows, few = self.rng.permutation(len(counts)), ROWS
        if belief is None:  # before anything is learned, instructions with the fewest answers come first
            answers = counts.sum(1)
            rows = rows[np.argsort(answers[rows], kind="stable")]
            few = min(ROWS, int((answers == answers.min()).sum()))
        for weighed in (rows[:few], rows[few:]):
            if len(weighed):
                for question in self._ranked(mode, weighed, counts, belief):
                    if question.key not in tally.questions and question.key not in excluded:
                        return question
        return None

    def _counts(self, tally: Tally) -> np.ndarray:
        """(P, C) how often each candidate was judged."""
        counts = np.zeros(self.pool.candidates.shape, np.int32)
        for pair, count in tally.counts.items():
            if (slot := self._slot.get(pair)) is not None:
                counts[slot] = count
        return counts

    def _ranked(self, mode: str, rows: np.ndarray, counts: np.ndarray, belief: Belief | None) -> Iterator[Question]:
        """Questions about these instructions, the most helpful first."""
        width = min(MODES[mode][0], self.pool.candidates.shape[1])
        if width < min(2, MODES[mode][0]):
            return
        gain = self._gain(mode, rows, belief) - counts[rows]  # what was judged before comes after what was not
        order = np.argsort(-gain, axis=1)
        worth = np.take_along_axis(gain, order[:, :width], axis=1).sum(1)
        for i in np.argsort(-worth):
            for slots in itertools.combinations(order[i], width):
                places = self.pool.candidates[rows[i], list(slots)]
                yield Question(
                    mode, self.pool.instructions[rows[i]], tuple(self.pool.responses[place] for place in places)
                )

    def _gain(self, mode: str, rows: np.ndarray, belief: Belief | None) -> np.ndarray:
        """(N, C) how much an answer about each candidate of N instructions helps."""
        own = POLICY_BONUS * self.pool.from_policy[rows]
        if belief is None:  # by chance, which covers the pool; choosing far ones (k-center) learned less in trials
            return self.rng.random(own.shape) + own
        mean = belief.mean[rows]
        if mode == "correct":  # a correction helps most where the answer is wrong
            return (1 - mean) + own
        if mode in ("compare", "rank"):  # near ones: which of them is better is not known yet
            return belief.gain[rows] - np.abs(mean - np.median(mean, axis=1, keepdims=True)) + own
        return belief.gain[rows] + own
