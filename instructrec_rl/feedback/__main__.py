"""`python -m instructrec_rl.feedback`: the same as `instructrec-rl feedback`."""

import sys

from instructrec_rl.core.command_line import run_command
from instructrec_rl.feedback.command import main

sys.exit(run_command(main))
