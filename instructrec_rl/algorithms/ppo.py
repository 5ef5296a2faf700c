"""PPO (Schulman et al. 2017) of a language model that reads the state, on TRL. See docs/explanation/ppo.md.

A separate critic by default, generalised advantage estimation over tokens, KL to a reference in the reward.
"""

from instructrec_rl.algorithms.language.learn import learn as learn
from instructrec_rl.policies.language.policy import load as load
