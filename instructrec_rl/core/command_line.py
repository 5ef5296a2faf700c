"""The command `instructrec-rl`, and the one place where a command's outcome becomes an exit code."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, NoReturn

from instructrec_rl.core import DivergedError, InputError, Stopped, nearest
from instructrec_rl.core.inert import printable, shortened
from instructrec_rl.core.tables import inert_output

COMMANDS = {
    "run": ("instructrec_rl.run.command", "train a policy, evaluate it and write a report"),
    "bench": ("instructrec_rl.bench.command", "carry out many runs (variants x seeds) side by side, resumable"),
    "report": ("instructrec_rl.report.command", "write the report of a run again, or one over a bench or several runs"),
    "list": ("instructrec_rl.commands.list", "list envs, rewards, algos or experiments"),
    "new": ("instructrec_rl.commands.new", "make a working environment or reward to start from"),
    "check": ("instructrec_rl.commands.check", "check environments and rewards"),
    "feedback": ("instructrec_rl.feedback.command", "check, judge, merge, export and import human feedback"),
    "score": ("instructrec_rl.commands.score", "score a file of responses against a file of references"),
    "audit": (
        "instructrec_rl.commands.audit",
        "probe a reward before training: does a bad answer earn too much?",
    ),
    "ope": ("instructrec_rl.commands.ope.command", "judge a policy by what another one logged (off-policy evaluation)"),
    "annotate": (
        "instructrec_rl.annotate.command",
        "a page where people rate, compare, rank and correct responses",
    ),
    "doctor": ("instructrec_rl.commands.doctor", "versions, device, threads, encoder and cache"),
}
DONE, FAULT, WRONG_INPUT = 0, 1, 2
ENDING = ("SIGTERM", "SIGHUP")


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are InputErrors: one line, and the nearest flag."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise InputError in place of printing the usage."""
        unknown = message.removeprefix("unrecognized arguments: ")
        flags = [flag for action in self._actions for flag in action.option_strings]
        hint = nearest(unknown.split()[0], flags) if unknown != message else ""
        raise InputError(f"{self.prog}: {message}.{hint}")


def run_command(command: Callable[[list[str]], Any], argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: done; 2: wrong input (the InputError's one line on stderr); 1: a fault of ours (a line and the traceback), or
    learning that diverged (one line); 130: interrupted, 128 + N: ended by another signal. A command may return a code
    of its own. What it prints is made inert: see terminal.py.
    """
    with inert_output(), _ending_like_ctrl_c():
        return _outcome(command, list(sys.argv[1:] if argv is None else argv))


@contextlib.contextmanager
def _ending_like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP go Ctrl-C's way, so that work is kept; one that is ignored (nohup) stays so."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise Stopped(signum)

    before: dict[int, Any] = {}
    for name in ENDING:
        signum = getattr(signal, name, None)  # Windows has no SIGHUP
        in_main = threading.current_thread() is threading.main_thread()
        if signum is not None and in_main and signal.getsignal(signum) is signal.SIG_DFL:
            before[signum] = signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _outcome(command: Callable[[list[str]], Any], argv: list[str]) -> int:
    try:
        code = command(argv)
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except InputError as error:
        print(shortened(printable(error)), file=sys.stderr)
        return WRONG_INPUT
    except DivergedError as error:
        print(shortened(printable(error)), file=sys.stderr)
        return FAULT
    except KeyboardInterrupt as error:
        signum = getattr(error, "signum", signal.SIGINT)
        with contextlib.suppress(OSError):  # a terminal that hung up takes no words
            print("interrupted" if signum == signal.SIGINT else "terminated", file=sys.stderr, flush=True)
        return 128 + int(signum)
    except BrokenPipeError:  # the reader went away, as in `instructrec-rl list envs | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception:
        import traceback

        traceback.print_exc()
        print("This is a fault in instructrec-rl, not in your input; the traceback above says where.", file=sys.stderr)
        return FAULT


def usage() -> str:
    """The help of `instructrec-rl`."""
    lines = [f"  {name:<8} {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: instructrec-rl COMMAND [ARGUMENTS]",
            "",
            *lines,
            "",
            "instructrec-rl COMMAND --help says more. An example:",
            "  instructrec-rl run env=pizza_rec reward=constraints algo.interactions=20000",
        ]
    )


def dispatch(argv: list[str]) -> Any:
    """Run the subcommand that argv names. Raises InputError for an unknown one, with the nearest."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return DONE
    if argv[0] == "--version":
        from instructrec_rl import __version__

        print(f"instructrec-rl {__version__}")
        return DONE
    if argv[0] not in COMMANDS:
        raise InputError(f'there is no command "{argv[0]}".{nearest(argv[0], COMMANDS)}')
    return import_module(COMMANDS[argv[0]][0]).main(argv[1:])


def main() -> NoReturn:
    """The console script."""
    sys.exit(run_command(dispatch))
