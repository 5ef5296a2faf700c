"""`python -m instructrec_rl.feedback`: the same as `instructrec-rl feedback`."""

import sys

from instructrec_rl.cli import run_command
from instructrec_rl.feedback.command import main

sys.exit(run_command(main))
