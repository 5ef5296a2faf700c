"""The learned reward of the answers so far, fitted beside the page so that nobody waits, to choose questions by."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instructrec_rl.annotate.pool import Pool
from instructrec_rl.core import InputError, Item
from instructrec_rl.encoders.bert import Encoder
from instructrec_rl.feedback.learned.judgements import collect
from instructrec_rl.feedback.learned.model import learn
from instructrec_rl.feedback.schema import Record

FIRST = 30  # answers before the first fit; until then questions are chosen to cover the pool
GROWTH = 1.25  # a fit follows when there are so many times as many answers as at the last
MOST = 5000  # answers that a fit reads, the newest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Belief:
    """What the learned reward thinks of each candidate of a pool: `mean` (P, C), its score in [0, 1], and `gain` (P, C)
    in [0, 1], how much a rating of it would help.
    """

    mean: np.ndarray
    gain: np.ndarray


class Learner:
    """Fits in a thread of its own. `belief` is the newest, None before the first."""

    def __init__(self, pool: Pool, encoder: Encoder, env: str, items: Sequence[Item]):
        self.pool, self.encoder, self.env, self.items = pool, encoder, env, items
        self.belief: Belief | None = None
        self._fitted = 0
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def see(self, records: Sequence[Record]) -> None:
        """Start a fit where there is enough that is new and none is running. Returns at once."""
        with self._lock:
            enough = max(FIRST, round(self._fitted * GROWTH))
            if len(records) < enough or (self._thread is not None and self._thread.is_alive()):
                return
            self._fitted = len(records)
            newest = sorted(records, key=lambda record: (record.ts, record.id))[-MOST:]
            self._thread = threading.Thread(target=self._fit, args=(newest,), name="learned-reward")
            self._thread.start()

    def wait(self) -> None:
        """Wait for the fit that is running, if any: the interpreter's end would pull torch from under it."""
        if self._thread is not None:
            self._thread.join()

    def _fit(self, records: list[Record]) -> None:
        try:
            learned = learn(collect(records, self.env, self.items), self.encoder, self.items, interaction="never")
        except InputError as error:  # questions can be chosen without it
            log.warning("no learned reward to choose questions by: %r", str(error))  # names in it may hold escapes
            return
        shape = self.pool.candidates.shape
        asked = [text for text in self.pool.instructions for _ in range(shape[1])]
        answers = [self.pool.responses[i] for i in self.pool.candidates.ravel()]
        mean = learned.predict(asked, answers).score
        self.belief = Belief(mean.reshape(shape), learned.gain(asked, answers).reshape(shape))
