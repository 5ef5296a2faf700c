"""`python -m instructrec_rl.report`."""

import sys

from instructrec_rl.core.command_line import run_command
from instructrec_rl.report.command import main

if __name__ == "__main__":
    sys.exit(run_command(main))
