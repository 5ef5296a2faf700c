"""`python -m instructrec_rl.run`."""

import sys

from instructrec_rl.core.command_line import run_command
from instructrec_rl.run.command import main

if __name__ == "__main__":  # a launcher's workers import this module
    sys.exit(run_command(main))
