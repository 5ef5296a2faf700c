"""How the DQN learns: by whole instructions where an episode is one answer, else by transitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from instructrec_rl.core import InputError

if TYPE_CHECKING:
    from instructrec_rl.config.schema import DQNConfig


class Sizes(NamedTuple):
    """The options whose best values are another for each learner."""

    batch_size: int
    updates_per_step: int
    learning_rate: float
    hidden: int

    def given(self, config: DQNConfig) -> Sizes:
        """These, but for the options that were given a value."""
        values = {name: getattr(config, name) for name in self._fields}
        return self._replace(**{name: value for name, value in values.items() if value is not None})


# tuned on pizza_rec's validation split; docs: explanation/dqn
BY_ANSWERS = Sizes(batch_size=64, updates_per_step=1, learning_rate=3e-3, hidden=256)
BY_TRANSITIONS = Sizes(batch_size=512, updates_per_step=3, learning_rate=1.5e-3, hidden=384)


def learns_by_answers(config: DQNConfig, turns: int) -> bool:
    """Whether whole instructions are learned. Raises InputError where that is asked for and cannot be done."""
    if config.learner == "auto":
        return turns == 1 and config.dropout == 0
    if config.learner == "answers" and turns > 1:
        raise InputError(f"algo.learner=answers: learns from one answer an episode, and env.turns={turns}")
    if config.learner == "answers" and config.dropout > 0:
        raise InputError("algo.learner=answers: has no dropout; use algo.learner=transitions, or algo.dropout=0")
    return config.learner == "answers"


def take_means(sums: dict[str, float]) -> dict[str, float]:
    """The means of what was summed up since the last report: reward, and where there were updates loss and q.

    `sums` begins again at zero.
    """
    means = {"reward": sums["reward"] / max(sums["answers"], 1)}
    if sums["losses"]:
        means |= {name: sums[name] / sums["losses"] for name in ("loss", "q")}
    sums.update(dict.fromkeys(sums, 0.0))
    return means
