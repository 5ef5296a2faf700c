"""`instructrec-rl bench experiment=NAME`: many runs (variants x seeds) from one file, side by side, and resumable."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.bench.folder import State, look, only_one, write_bench
from instructrec_rl.bench.launchers import LAUNCHERS, Launcher, Local, Ray
from instructrec_rl.bench.screen import BenchScreen, following, result_lines
from instructrec_rl.config.experiments import SET_BY_BENCH, is_bench, read_bench
from instructrec_rl.config.overrides import parse
from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.command_line import DONE, FAULT, WRONG_INPUT
from instructrec_rl.core.files import find_experiments, read_yaml
from instructrec_rl.core.inert import printable

if TYPE_CHECKING:
    from instructrec_rl.config.experiments import Bench

HELP = """usage: instructrec-rl bench experiment=NAME [option=value]... [group.option=value]...

Carry out the runs of a bench (variants x seeds), several at once; their results are in DIR/bench.json, and a report
over all of them is DIR/report.html.

benches:
{benches}

options:
  size=quick        one of the sizes that the experiment has (default: quick)
  out=DIR           the bench's folder (default: runs/<experiment>-<size>)
  resume=true       reuse what the folder holds of equal config, code and data; false begins all anew
  only=NAME[,NAME]  these variants only
  workers=N         runs at once, one thread each (default: the number of cores)
  launcher=local    local, or ray: a Ray cluster ($RAY_ADDRESS, or one made on this machine)

Any option of the run command, such as algo.interactions=2000, is set in every run.
Exit codes: 0 all runs done; 1 or 2 where a run failed (2: all that failed had wrong input); 130 interrupted.
docs/how_to/compare_many_runs.md says more.
"""
ATTEMPTS = 2
LOOK_EVERY_S = 0.1
STOP_WITHIN_S = 300.0  # a language model looks for Ctrl-C between iterations


@dataclass
class Options:
    """The command's own options; `further` are the overrides of every run."""

    experiment: str = ""
    size: str = "quick"
    out: str = ""
    resume: bool = True
    only: str = ""
    workers: int = 0
    launcher: str = "local"


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a bench. Returns an exit code; raises InputError for wrong input, KeyboardInterrupt at Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP.format(benches=_benches()), end="")
        return DONE
    # read the options and the bench
    options, further = _read_options(arguments)
    bench = read_bench(options.experiment, options.size)
    if options.only:
        _keep_only(bench, options.only)
    from instructrec_rl.bench.plan import plan  # reads configurations, and so imports Hydra

    out = Path(options.out or f"runs/{bench.name}-{bench.size}").resolve()
    with only_one(out) as lock:
        # plan the runs, and see what is done already
        runs = plan(bench, out, further)
        looked = [look(run, out, options.resume) for run in runs]
        states = [state for state, _ in looked]
        for words in filter(None, (words for _, words in looked)):
            print(words, file=sys.stderr)
        launcher: Launcher = Local(lock.fileno()) if options.launcher == "local" else Ray(options.workers)
        header = _about(bench, options, arguments, further)
        started = time.monotonic()

        def keep() -> None:
            spent = {"wall_s": round(time.monotonic() - started, 3)}
            write_bench(out / "bench.json", {**header, **spent}, states)

        # carry out the rest
        reused = sum(state.reused for state in states)
        print(f"{bench.name}, size {bench.size}: {len(runs)} runs, {reused} of them done before, "
              f"{options.workers} at once, in {out}", file=sys.stderr, flush=True)  # fmt: skip
        try:
            with following(states, options.workers) as screen:
                codes = carry_out(states, launcher, options.workers, screen, keep)
        finally:
            keep()
    return _conclude(states, codes, out)


def carry_out(
    states: list[State], launcher: Launcher, workers: int, screen: BenchScreen, keep: Callable[[], None]
) -> set[int]:
    """Start the runs that are not done, `workers` at once; returns the exit codes of those that failed for good.

    A run that fails is tried once more, and stops no other. keep: called when a run has ended. At Ctrl-C the runs are
    asked to stop, waited for, and KeyboardInterrupt is raised; a second Ctrl-C kills them.
    """
    waiting = deque(state for state in states if state.status != "done")
    going: list[tuple[State, Any]] = []
    codes: set[int] = set()
    try:
        while waiting or going:
            # start as many as may go at once
            while waiting and len(going) < workers:
                state = waiting.popleft()
                going.append((state, _start(state, launcher)))
            # see which have ended
            for pair in list(going):
                ended = launcher.ended(pair[1])
                if ended is None:
                    continue
                going.remove(pair)
                if _finish(pair[0], *ended):
                    screen.ended(pair[0])
                    codes |= {ended[0]} if pair[0].status == "failed" else set()
                else:
                    screen.say(f"{pair[0].run.name}: failed (exit code {ended[0]}), is tried again; {pair[0].log}")
                    waiting.appendleft(pair[0])
                keep()
            # show it, and wait
            screen.draw(time.monotonic())
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        screen.say("stopping the runs; Ctrl-C again kills them")
        _stop(going, launcher)
        raise
    finally:
        for state, started in going:
            if launcher.ended(started) is None:
                launcher.kill(started)
            state.status = "stopped"
            state.save()
    return codes


def _start(state: State, launcher: Launcher) -> Any:
    """Start an attempt: from what the folder holds, where it holds a run."""
    state.attempts += 1
    state.resumed = (state.folder / "config.yaml").exists()
    overrides = [*state.run.overrides, *(["resume=true"] if state.resumed else [])]
    state.status, state.began = "running", time.monotonic()
    state.save()
    with state.log.open("a", encoding="utf-8") as log:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        log.write(f"# {now}, attempt {state.attempts}: python -m instructrec_rl.run {shlex.join(overrides)}\n")
    return launcher.start(overrides, state.log)


def _finish(state: State, code: int, cpu_s: float) -> bool:
    """Note how an attempt ended; whether the run has ended with it, or is to be tried again.

    The second attempt goes on from the first one's checkpoint, unless that one had gone on from one itself: what a run
    trips over may be in there.
    """
    state.cpu_s += cpu_s
    state.wall_s += time.monotonic() - state.began
    if code == DONE and state.is_finished:
        state.take_result()
    elif state.attempts < ATTEMPTS:
        state.status = "waiting"
        if state.resumed:
            log = state.log.read_bytes()
            state.set_aside()
            state.log.write_bytes(log)
        return False
    else:
        state.status = "failed"
    state.save()
    return True


def _stop(going: list[tuple[State, Any]], launcher: Launcher) -> None:
    for _, started in going:
        launcher.interrupt(started)
    end = time.monotonic() + STOP_WITHIN_S
    while time.monotonic() < end and any(launcher.ended(started) is None for _, started in going):
        time.sleep(LOOK_EVERY_S)


def _conclude(states: list[State], codes: set[int], out: Path) -> int:
    """Print the table, what failed with the end of its log, and where the results are; returns the exit code."""
    print("\n".join(result_lines(states)))
    for state in states:
        if state.status == "failed":
            print(f"\n{state.run.name} failed {ATTEMPTS} times; its log: {state.log}")
            print("\n".join(f"  {printable(line)}" for line in state.last_words()))
    print(f"results: {out / 'bench.json'}")
    if any(state.status == "done" for state in states):
        from instructrec_rl.report.several_runs.gather import gather
        from instructrec_rl.report.several_runs.page import write_reports

        print(f"report: {write_reports(out, gather(out))}")
    if not codes:
        return DONE
    return WRONG_INPUT if codes == {WRONG_INPUT} else FAULT


def _about(bench: Bench, options: Options, arguments: list[str], further: list[str]) -> dict[str, Any]:
    everywhere = {setting.key: setting.value for setting in parse(further)}
    return {
        "experiment": bench.name,
        "description": bench.description,
        "size": bench.size,
        "command": f"instructrec-rl bench {shlex.join(arguments)}",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "launcher": options.launcher,
        "workers": options.workers,
        "variants": {name: {**own, **everywhere} for name, own in bench.variants.items()},
    }


def _read_options(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """The command's own options, and the overrides for every run. Raises InputError for unknown and wrong ones."""
    from instructrec_rl.config.schema import GROUPS, TOP

    options, further = Options(), []
    own = vars(options)
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f'malformed option "{text}": expected key=value, such as experiment=policy_variants')
        if key in own:
            kind = type(own[key])
            setattr(options, key, value if kind is str else _bool(key, value) if kind is bool else _count(key, value))
        elif key in SET_BY_BENCH:
            raise InputError(f"{key}: bench sets this itself; the seeds are in the experiment's sizes")
        elif key.partition(".")[0] in GROUPS or key in TOP:
            further.append(text)
        else:
            raise InputError(f'unknown option "{key}".{nearest(key, [*own, *GROUPS, *TOP])}')
    parse(further)  # refuses sweeps and malformed ones before anything is read
    if options.launcher not in LAUNCHERS:
        raise InputError(f"launcher={options.launcher}: expected local or ray.{nearest(options.launcher, LAUNCHERS)}")
    if not options.experiment:
        raise InputError(f"experiment=NAME says which bench; there is {', '.join(_described()) or 'none yet'}")
    options.workers = options.workers or _cores()
    return options, further


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bool(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise InputError(f"{key}={value}: expected true or false")
    return value == "true"


def _count(key: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise InputError(f"{key}={value}: expected a whole number from 1 on")
    return int(value)


def _keep_only(bench: Bench, names: str) -> None:
    """Forget the variants that are not among some names. Raises InputError for one that is not there."""
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in bench.variants:
            raise InputError(f'only={names}: there is no variant "{name}".{nearest(name, bench.variants)}')
    for name in set(bench.variants) - set(wanted):
        del bench.variants[name]


def _described() -> dict[str, str]:
    """The benches that are found, with what they ask; a broken file hides no other."""
    found = {}
    for name, path in find_experiments().items():
        try:
            content = read_yaml(path)
        except InputError:
            continue
        if is_bench(content):
            found[name] = " ".join(str(content.get("description", "")).split())
    return found


def _benches() -> str:
    lines = [f"  {printable(name):<20} {printable(about)}" for name, about in _described().items()]
    return "\n".join(lines) or "  (none found)"
