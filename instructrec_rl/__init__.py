"""instructrec-rl: tune policies from natural-language instructions.

Importing this is cheap: everything heavy is loaded by the function that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instructrec_rl.env.registration import register_with_gymnasium

if TYPE_CHECKING:
    from instructrec_rl.env.environment import load_env
    from instructrec_rl.policies.saved import load_policy
    from instructrec_rl.rewards import load_reward
    from instructrec_rl.rewards.metric import as_metric
    from instructrec_rl.run.training import train

__all__ = ["as_metric", "load_env", "load_policy", "load_reward", "train"]
__version__ = "0.1.0"

_HOMES = {
    "as_metric": "instructrec_rl.rewards.metric",
    "load_env": "instructrec_rl.env.environment",
    "load_policy": "instructrec_rl.policies.saved",
    "load_reward": "instructrec_rl.rewards",
    "train": "instructrec_rl.run.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


register_with_gymnasium()
