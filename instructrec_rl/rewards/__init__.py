"""What scores an answer: reward files are found, their options typed, run, and what they return is checked."""

from instructrec_rl.core.options import option
from instructrec_rl.rewards.loading import load_reward, reward_config_class
from instructrec_rl.rewards.pairs import distinct_pairs
from instructrec_rl.rewards.reward import Reward, RewardContext, RewardError, refuse_unpaid

__all__ = [
    "Reward",
    "RewardContext",
    "RewardError",
    "distinct_pairs",
    "load_reward",
    "option",
    "refuse_unpaid",
    "reward_config_class",
]
