"""Our vector environment for Stable-Baselines3, whose interface is its own and not that of `gymnasium.make_vec`.

    from instructrec_rl.env.sb3 import SB3VecEnv
    model = stable_baselines3.DQN("MlpPolicy", SB3VecEnv("pizza_rec", 16))

Needs `pip install stable-baselines3`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from instructrec_rl.env.gym import InstructionVectorEnv


class SB3VecEnv(VecEnv):
    """Our vector environment in SB3's terms: a list of infos, with the last observation of an ended episode in it.

    env: a name, with the number of conversations and the options of `EnvConfig`, or a vector environment.
    """

    def __init__(self, env: InstructionVectorEnv | str, num_envs: int = 1, **options: Any):
        env = InstructionVectorEnv(env, num_envs, **options) if isinstance(env, str) else env
        self.inner = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Start all anew."""
        return self.inner.reset(seed=self._seeds[0])[0]

    def step_async(self, actions: np.ndarray) -> None:
        """Keep what is to be answered."""
        self.actions = actions

    def step_wait(self) -> Any:
        """Answer in all of them."""
        seen, rewards, terminated, truncated, infos = self.inner.step(self.actions)
        ended = terminated | truncated
        last: Any = infos.get("final_obs")
        told: list[dict[str, Any]] = [
            {"terminal_observation": last[i], "TimeLimit.truncated": bool(truncated[i] and not terminated[i])}
            if ended[i]
            else {}
            for i in range(self.num_envs)
        ]
        return seen, rewards.astype(np.float32), ended, told

    def close(self) -> None:
        """Nothing is held open."""
        self.inner.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute, once for each."""
        return [getattr(self.inner, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set it on the whole."""
        setattr(self.inner, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call it on the whole."""
        return [getattr(self.inner, method_name)(*args, **kwargs)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Nothing is wrapped."""
        return [False] * len(list(self._get_indices(indices)))
