"""Run by torchrun in test_several_processes.py: learns the echo problem and writes what each process ends with."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from instructrec_rl import load_env
from instructrec_rl.algorithms.language.learn import learn
from instructrec_rl.config.schema import PPOConfig
from tests.algorithms.test_dqn import score
from tests.algorithms.test_ppo import QUICK, TINY, recorder

out = Path(sys.argv[1])
rank = int(os.environ.get("RANK", "0"))
env = load_env("echo", reward="exact_match")
run = recorder(env, out)
run.writes = rank == 0
policy = learn(env, PPOConfig(**QUICK), run, TINY)
digest = hashlib.sha256()
for name, value in sorted(policy.lm.model.state_dict().items()):
    digest.update(name.encode() + value.numpy().tobytes())
(out / f"rank{rank}.json").write_text(json.dumps({"weights": digest.hexdigest(), **score(policy, env)}))
