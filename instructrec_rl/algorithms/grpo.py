"""GRPO (Shao et al. 2024): PPO's clipped loss with advantages relative to the other answers to an instruction.

No critic; the KL to the reference is in the loss. See docs/explanation/ppo.md.
"""

from instructrec_rl.algorithms.language.learn import learn as learn
from instructrec_rl.policies.language.policy import load as load
