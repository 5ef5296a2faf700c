"""`python -m instructrec_rl.bench`."""

import sys

from instructrec_rl.bench.command import main
from instructrec_rl.core.command_line import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
