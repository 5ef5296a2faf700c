"""Where a bench's runs are carried out: as processes of this machine, or as tasks of a Ray cluster.

A run is always a process of its own, with one thread, whose output goes to a log. It dies with what started it, where
the system can see to that (Linux). What only POSIX systems have is looked for where it is used, so that the module can
be imported everywhere; it was never run on Windows.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from instructrec_rl.core import InputError

LAUNCHERS = ("local", "ray")
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before a fork, after which little is safe
FAILED_TO_START = 1
LOOK_EVERY_S = 0.2


class Launcher(Protocol):
    """Starts runs and tells how they went. A run is known by what `start` gave."""

    def start(self, overrides: Sequence[str], log: Path) -> Any:
        """Start a run with these overrides; its output is added to the log."""

    def ended(self, started: Any) -> tuple[int, float] | None:
        """(exit code, CPU seconds) of a run that has ended, None for one that goes on."""

    def interrupt(self, started: Any) -> None:
        """Ask a run to stop where its checkpoint is whole."""

    def kill(self, started: Any) -> None:
        """Stop a run at once."""


def start_process(overrides: Sequence[str], log: Path, inherited: int | None = None) -> subprocess.Popen[bytes]:
    """A run as a child process, in a group of its own: Ctrl-C on the terminal is for the bench, which passes it on.

    inherited: a file descriptor that the child keeps open.
    """
    command = [sys.executable, "-m", "instructrec_rl.run", *overrides]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONUNBUFFERED": "1"}
    apart: dict[str, Any] = {
        "process_group": 0,
        "pass_fds": () if inherited is None else (inherited,),
        "preexec_fn": _before_it_runs,
    }
    if os.name == "nt":  # no handle is passed on there: the lock is the bench's alone
        apart = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **apart
        )


def _before_it_runs() -> None:
    # A shell's background job is born deaf to Ctrl-C, a Ray worker blocks it, and children take after their parents.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def cpu_of_children() -> float:
    """CPU seconds of all child processes that were waited for."""
    try:
        import resource
    except ImportError:  # Windows, which does not count them: 0
        used = os.times()
        return used.children_user + used.children_system
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def pass_interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for a process in a group of its own; Windows has Ctrl-Break for such a group."""
    process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))


class Local:
    """Processes of this machine. inherited: a file descriptor that every one of them keeps open."""

    def __init__(self, inherited: int | None = None):
        self.inherited = inherited

    def start(self, overrides: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a run."""
        return start_process(overrides, log, self.inherited)

    def ended(self, started: subprocess.Popen[bytes]) -> tuple[int, float] | None:
        """(exit code, CPU seconds), or None."""
        before = cpu_of_children()
        code = started.poll()  # waits for this child alone, so what was added is its own
        return None if code is None else (code, cpu_of_children() - before)

    def interrupt(self, started: subprocess.Popen[bytes]) -> None:
        """Pass Ctrl-C on."""
        pass_interrupt(started)

    def kill(self, started: subprocess.Popen[bytes]) -> None:
        """End a run that did not stop when it was asked to."""
        started.kill()


def run_on_ray(overrides: Sequence[str], log: str, folder: str, path: str) -> tuple[int, float]:
    """What a Ray worker does: carry out a run in the folder where the bench was started; (exit code, CPU seconds)."""
    os.chdir(folder)
    os.environ["INSTRUCTREC_PATH"] = path
    before = cpu_of_children()
    process = start_process(overrides, Path(log))
    try:
        while process.poll() is None:  # not wait(): Ray's cancelling is felt between two lines of Python only
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:  # how Ray cancels a task
        pass_interrupt(process)
        process.wait()
        raise
    return process.returncode, cpu_of_children() - before


class Ray:
    """Tasks of the Ray cluster that $RAY_ADDRESS names, or of one made on this machine with `workers` CPUs.

    The bench's folder, the data and the current directory must be there under the same path on every node.
    """

    def __init__(self, workers: int):
        try:
            import ray
        except ImportError as error:
            raise InputError("launcher=ray needs the package ray: pip install 'instructrec-rl[bench]'") from error
        self.ray = ray
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            quiet |= {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(address=address or "local", **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"launcher=ray: no cluster at {address or 'this machine'}: {reason}") from error
        self.task = ray.remote(num_cpus=1, max_retries=0)(run_on_ray)
        self.logs: dict[Any, Path] = {}

    def start(self, overrides: Sequence[str], log: Path) -> Any:
        """Hand a run to the cluster."""
        started = self.task.remote(list(overrides), str(log), os.getcwd(), os.environ.get("INSTRUCTREC_PATH", ""))
        self.logs[started] = log
        return started

    def ended(self, started: Any) -> tuple[int, float] | None:
        """(exit code, CPU seconds), or None. What Ray itself says of a task that it lost goes to the run's log."""
        if not self.ray.wait([started], timeout=0)[0]:
            return None
        try:
            code, cpu_s = self.ray.get(started)
        except self.ray.exceptions.RayError as error:
            with self.logs[started].open("a", encoding="utf-8") as log:
                log.write(f"\nray: {error}\n")
            return FAILED_TO_START, 0.0
        return int(code), float(cpu_s)

    def interrupt(self, started: Any) -> None:
        """Cancel the task, whose worker passes it on."""
        self.ray.cancel(started, force=False)

    def kill(self, started: Any) -> None:
        """End the task's worker, and with it the run."""
        self.ray.cancel(started, force=True)
