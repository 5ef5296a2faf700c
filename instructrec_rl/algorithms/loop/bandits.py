"""The loop that baselines share which learn by trying: answer, evaluate, log, checkpoint, and stop where asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from instructrec_rl.algorithms.loop.recorder import is_due

if TYPE_CHECKING:
    import torch

    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import BanditConfig
    from instructrec_rl.env.environment import Environment


class Learner(Protocol):
    """Everything that training changes. `state["step"]` counts the interactions so far."""

    policy: Any
    state: dict[str, Any]

    def answer(self, recorder: Recorder) -> None:
        """Answer once in every environment, log the answers as rollouts, and learn from what happened."""
        ...

    def report(self) -> dict[str, float]:
        """What to log of the answers since the last report."""
        ...

    def checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """All of it as tensors and JSON."""
        ...

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Become what `checkpoint` saw."""
        ...


def take_report(state: dict[str, Any]) -> dict[str, float]:
    """The mean reward of the answers since the last report; `state` counts on from zero."""
    mean = state["reward_sum"] / max(state["answers"], 1)
    state |= {"reward_sum": 0.0, "answers": 0}
    return {"reward": mean}


def train(learner: Learner, env: Environment, config: BanditConfig, recorder: Recorder) -> None:
    """Train for `config.interactions` answers, from the last checkpoint where there is one.

    The same seed gives the same run bit for bit, also when it
    is stopped and resumed. Raises KeyboardInterrupt after saving a checkpoint.
    """
    if saved := recorder.load_checkpoint():
        learner.restore(*saved)
    words, metric = "", env.spec.metrics[0]
    while (step := learner.state["step"]) < config.interactions and not recorder.stop_learning:
        env.reward.at(step)
        learner.answer(recorder)
        now = learner.state["step"]
        done = now >= config.interactions
        if done or is_due(config.eval_every, step, now):
            scores = recorder.validate(learner.policy)
            words = f"validation {metric} {scores[metric]:.3f}"
            recorder.log(now, **learner.report(), **{f"validation/{name}": value for name, value in scores.items()})
            done = done or recorder.stop_learning
        recorder.progress(now, config.interactions, words)
        if done or recorder.stopping or is_due(config.checkpoint_every, step, now):
            recorder.save_checkpoint(now, *learner.checkpoint())
        if recorder.stopping and not done:
            raise KeyboardInterrupt
