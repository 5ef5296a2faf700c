"""Watches a run for the moment from which the training reward rises while the held-out task metric falls.

A reward stands in for the task. Where a policy finds answers that please the reward and not the task, the two part:
Goodhart's law, "reward hacking" (Skalse et al. 2022, Defining and Characterizing Reward Hacking).
docs/explanation/reward_hacking.md has the rule and what it misses. Nothing here is kept on disk: all of it follows from
the lines of metrics.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

WINDOW = 3  # evaluations averaged; also how many must follow the metric's best one
RISE = 0.02  # of the smoothed training reward, in [0, 1]
FALL = 0.05  # of the smoothed task metric, in [0, 1]; more where validation is small
MARK = "monitor/parted_at"  # in metrics.jsonl, on the line at which the parting was noticed


@dataclass(frozen=True)
class Parting:
    """Where reward and metric parted. Steps are interactions; rewards and metrics are smoothed values in [0, 1]."""

    parted_step: int
    noticed_step: int
    reward_before: float
    reward_after: float
    metric_before: float
    metric_after: float


@dataclass(frozen=True)
class _Evaluation:
    """At a step, the task metric and the mean of the training rewards logged since the evaluation before."""

    step: int
    reward: float
    metric: float


class Monitor:
    """Fed every logged line in order; `parting` is where reward and metric parted, None while they have not.

    metric: the name of the task metric, logged as `validation/<metric>`; num_rows: the instructions it is a mean over,
    as a fall must be larger than chance makes it among so few; chance: (reward, metric) of random answers,
    which stand for the policy before learning, as one that hacks its reward from the start has no better moment to
    fall from; stops: whether a parting ends learning; say: called with a line of words when a parting is noticed.
    """

    def __init__(
        self,
        metric: str,
        num_rows: int,
        chance: tuple[float, float] | None = None,
        stops: bool = False,
        say: Callable[[str], None] = lambda words: None,
    ):
        self.metric, self.chance, self.stops, self.say = metric, chance, stops, say
        self.fall = max(FALL, 2 * math.sqrt(0.25 / num_rows))  # two standard errors of a share, at their largest
        self._start()

    def _start(self) -> None:
        self.parting: Parting | None = None
        self._rewards: list[float] = []  # logged since the last evaluation
        self._last: list[_Evaluation] = []  # at most WINDOW of them
        # where the smoothed metric was highest, the last of equals: (count, smoothed)
        self._best: tuple[int, _Evaluation] | None = (0, _Evaluation(0, *self.chance)) if self.chance else None
        self._count = 0

    @property
    def stopped(self) -> bool:
        """Whether learning is to end."""
        return self.stops and self.parting is not None

    def found(self) -> dict[str, Any]:
        """What result.json says of it: {} where reward and metric go together, else how they parted under `monitor`.

        Where that ended learning, `interactions` is how many there were.
        """
        if self.parting is None:
            return {}
        about = {"monitor": {"metric": self.metric, **asdict(self.parting), "stopped": self.stopped}}
        return about | ({"interactions": self.parting.noticed_step} if self.stopped else {})

    def restart(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Become what it was after these lines of metrics.jsonl, silently: a resumed run goes on as it would have."""
        self._start()
        for line in lines:
            self._follow(line)

    def see(self, line: Mapping[str, Any]) -> dict[str, int]:
        """Take in a line (`step`, and any of `reward` and `validation/<metric>`); returns what to add to it."""
        if not self._follow(line) or self.parting is None:
            return {}
        self.say(f"monitor: {words(self.parting, self.metric)}. {STOPPED if self.stops else WARNED}")
        return {MARK: self.parting.parted_step}

    def _follow(self, line: Mapping[str, Any]) -> bool:
        """Whether reward and metric are found to have parted with this line, and had not before it."""
        if line.get("reward") is not None:
            self._rewards.append(float(line["reward"]))
        metric = line.get(f"validation/{self.metric}")
        if metric is None or not self._rewards:
            return False
        self._count += 1
        self._last.append(_Evaluation(int(line["step"]), _mean(self._rewards), float(metric)))
        self._last, self._rewards = self._last[-WINDOW:], []
        now = _Evaluation(int(line["step"]), _mean(e.reward for e in self._last), _mean(e.metric for e in self._last))
        if self._best is None or now.metric >= self._best[1].metric:
            self._best, self.parting = (self._count, now), None  # a metric that recovers takes the warning back
            return False
        count, best = self._best
        parted = (
            self._count - count >= WINDOW and now.reward > best.reward + RISE and now.metric < best.metric - self.fall
        )
        if self.parting is not None or not parted:
            return False
        self.parting = Parting(best.step, now.step, best.reward, now.reward, best.metric, now.metric)
        return True


STOPPED = "Learning stops here (monitor=stop)."
WARNED = "The reward may pay for the wrong thing; monitor=stop would end learning here."


def words(parting: Parting, metric: str) -> str:
    """What happened, in a sentence without its full stop."""
    return (
        f"from step {parting.parted_step:,} to {parting.noticed_step:,} the training reward rose "
        f"({parting.reward_before:.3f} to {parting.reward_after:.3f}) while validation {metric} fell "
        f"({parting.metric_before:.3f} to {parting.metric_after:.3f})"
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
