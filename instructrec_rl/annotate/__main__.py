"""`python -m instructrec_rl.annotate`."""

import sys

from instructrec_rl.annotate import main
from instructrec_rl.cli import run_command

sys.exit(run_command(main))
