"""The loop that baselines share which learn by trying: answer, evaluate, log, checkpoint, and stop where asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

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
        if done or now // config.eval_every > step // config.eval_every:
            scores = recorder.validate(learner.policy)
            words = f"validation {metric} {scores[metric]:.3f}"
            recorder.log(now, **learner.report(), **{f"validation/{name}": value for name, value in scores.items()})
            done = done or recorder.stop_learning
        recorder.progress(now, config.interactions, words)
        if done or recorder.stopping or now // config.checkpoint_every > step // config.checkpoint_every:
            recorder.save_checkpoint(now, *learner.checkpoint())
        if recorder.stopping and not done:
            raise KeyboardInterrupt
