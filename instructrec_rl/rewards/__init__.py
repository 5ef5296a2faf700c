"""What scores an answer: reward files are found, their options typed, run, and what they return is checked."""

from instructrec_rl.rewards.reward import (
    Reward,
    RewardContext,
    RewardError,
    load_reward,
    refuse_unpaid,
    reward_config_class,
)

__all__ = ["Reward", "RewardContext", "RewardError", "load_reward", "refuse_unpaid", "reward_config_class"]
