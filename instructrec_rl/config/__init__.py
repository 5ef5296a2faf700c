"""A run's options: typed (schema), composed from the command line (compose, overrides), and named (experiments)."""

from instructrec_rl.config.schema import EnvConfig as EnvConfig
from instructrec_rl.config.schema import RunConfig as RunConfig
