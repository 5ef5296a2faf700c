"""`python -m instructrec_rl.annotate`."""

import sys

from instructrec_rl.annotate.command import main
from instructrec_rl.core.command_line import run_command

sys.exit(run_command(main))
