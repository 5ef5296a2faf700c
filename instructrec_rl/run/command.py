"""`python -m instructrec_rl.run [group=name] [group.option=value]...`: one run, or with -m a sweep of runs."""

from __future__ import annotations

import shlex
import sys
import tempfile
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from instructrec_rl.config.compose import compose, hydra_started
from instructrec_rl.config.overrides import parse_grammar
from instructrec_rl.config.schema import ALGORITHM_CONFIGS, ENCODERS, GROUPS, POLICIES, RunConfig
from instructrec_rl.core import DivergedError, InputError, nearest
from instructrec_rl.core.command_line import DONE, FAULT, WRONG_INPUT
from instructrec_rl.core.files import find_envs, find_experiments, find_rewards
from instructrec_rl.core.tables import inert_output

HELP = """usage: python -m instructrec_rl.run [-m] [group=name] [group.option=value]...

Train a policy, evaluate it on every split and write a report.

groups:
{groups}

options used most:
  env.path=FILE            the data, where it is not in the environment's folder
  env.state=clauses        granularity of the state: sentence, clauses or tokens
  env.catalog=large        a variant of the catalog
  reward.variant=rouge1    an option of the chosen reward
  encoder.model=PATH_OR_ID the model of encoder=hf
  algo.interactions=N      environment steps to train for
  out=DIR                  the run's folder (default: runs/<env>-<algo>-<time>-<seed>)
  seed=N                   seed of every random choice
  resume=true              continue the run in `out`
  baselines=all            default, all or none
  tracking=tensorboard     none or tensorboard
  monitor=stop             warn, stop or off: where the reward rises and the task metric falls

examples:
  python -m instructrec_rl.run env=pizza_rec reward=rouge
  python -m instructrec_rl.run reward=constraints algo.interactions=20000 seed=1 out=runs/mine
  python -m instructrec_rl.run -m seed=0,1,2 algo.interactions=20000,50000
  python -m instructrec_rl.run -m hydra/launcher=joblib seed=0,1,2,3   (needs the extra "sweeps")

docs/reference/configuration.md lists every option.
"""


FORGET = "keep_checkpoints=none"  # of a sweep's finished runs


def help_text() -> str:
    """The help, with the names found now; imports no Hydra."""
    found = group_names()
    return HELP.format(
        groups="\n".join(f"  {group:<11}{', '.join(found[group]) or '(none found)'}" for group in GROUPS)
    )


def group_names() -> dict[str, list[str]]:
    """The names that each group may take."""
    names: tuple[Iterable[str], ...] = (
        find_envs(),
        find_rewards(),
        ALGORITHM_CONFIGS,
        ENCODERS,
        POLICIES,
        find_experiments(),
    )
    return {group: list(known) for group, known in zip(GROUPS, names, strict=True)}


def main(argv: Sequence[str] | None = None) -> int:
    """Compose and run. Returns an exit code; raises InputError for wrong input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(help_text(), end="")
        return DONE
    overrides = [a for a in arguments if not a.startswith("-")]
    flags = [a for a in arguments if a.startswith("-")]
    for flag in flags:
        if flag not in ("-m", "--multirun"):
            raise InputError(f'unknown flag "{flag}".{_flag_hint(flag)}')
    if flags:
        return sweep(overrides)
    config = compose(overrides)
    from instructrec_rl.run import experiment

    experiment.run(config, command_of(overrides))
    return DONE


def command_of(overrides: Iterable[str]) -> str:
    """The command line that does a run again, as one would type it."""
    return f"python -m instructrec_rl.run {shlex.join(overrides)}".rstrip()


def _flag_hint(flag: str) -> str:
    bare = flag.lstrip("-")
    if "=" in bare or bare in GROUPS:
        return f" Options have no dashes: {bare if '=' in bare else f'{bare}=NAME'}"
    return nearest(flag, ("-m", "--multirun", "-h", "--help"))


def sweep(overrides: list[str]) -> int:
    """Run every combination of the values with commas, through Hydra's sweeper and launcher.

    All combinations are composed first, so that a wrong one stops the sweep before any run starts. A failed run does
    not stop the others; returns 1 if a run failed by our fault, else 2 if one had wrong input, else 0.
    """
    parsed = parse_grammar(overrides)
    own = [p.input_line for p in parsed if not p.key_or_group.startswith("hydra")]
    of_hydra = [p.input_line for p in parsed if p.key_or_group.startswith("hydra")]
    _check_names(parsed)
    _register_groups()
    if not any(p.key_or_group == "keep_checkpoints" for p in parsed):
        own.append(FORGET)
    forced = [_forced(text) for text in own]
    with hydra_started():
        _check_jobs(forced)
        batches = _multirun(_job, [*of_hydra, *forced])
    outcomes = [job.return_value for batch in batches for job in batch]
    for _, message in outcomes:
        if message:
            print(message, file=sys.stderr)
    codes = {code for code, _ in outcomes}
    return FAULT if FAULT in codes else max(codes)


def _check_names(parsed: list[Any]) -> None:
    """Raise InputError with the nearest name for an unknown one (`glob(...)` only finds known ones)."""
    known = group_names()
    for override in parsed:
        group = override.key_or_group
        if group in GROUPS and "glob(" not in override.input_line:
            swept = override.is_discrete_sweep()
            for name in override.sweep_string_iterator() if swept else [str(override.value())]:
                if name not in known[group]:
                    raise InputError(f"{group}={name}: there is no such name.{nearest(name, known[group])}")


def _register_groups() -> None:
    """The groups by name, so that Hydra can enumerate them (`env=glob(*)`); each job composes its types itself."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for group, names in group_names().items():
        for name in names:
            store.store(group=group, name=name, node={})
    store.store(name="sweep", node={"defaults": [*({group: None} for group in GROUPS), "_self_"]})


def _forced(text: str) -> str:
    """An option for Hydra's untyped sweep configuration, which has only the groups: `++key=value` sets any key."""
    bare = text.lstrip("+")
    return bare if bare.partition("=")[0] in GROUPS else f"++{bare}"


def _check_jobs(forced: list[str]) -> None:
    """Compose every run of the sweep, which runs nothing. Raises InputError for the first that is wrong."""
    outcomes = [job.return_value for batch in _multirun(_compose_job, forced) for job in batch]
    for outcome in outcomes:
        if isinstance(outcome, InputError):
            raise outcome
    outs = [outcome.out for outcome in outcomes]
    shared = {out for out in outs if out is not None and outs.count(out) > 1}
    if shared:
        raise InputError(
            f"out={min(shared)}: {len(outs)} runs cannot share a folder; leave it out or write out='NAME-${{seed}}'"
        )


def _multirun(task: Callable[[Any], Any], overrides: list[str]) -> Any:
    """Hydra's own multirun: lists of lists of JobReturn. It writes only to a temporary folder, which is removed."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.run.dir=."]
    with tempfile.TemporaryDirectory(prefix="instructrec-sweep-") as scratch:
        places = [f"hydra.sweep.dir='{scratch}'", "hydra.sweep.subdir=."]
        try:
            return hydra.multirun("sweep", task, [*quiet, *places, *overrides], with_log_configuration=False)
        except HydraException as error:
            hint = ' It comes with the extra "sweeps".' if "hydra/launcher/joblib" in str(error) else ""
            raise InputError(f"hydra: {str(error).split('Available options')[0]}{hint}") from error


def _job_overrides() -> tuple[int, list[str]]:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    job = HydraConfig.get()
    task = OmegaConf.to_container(job.overrides.task, resolve=False)  # ${...} is of the run, not of Hydra's own config
    return job.job.num + 1, [str(text).lstrip("+") for text in typing.cast(list[str], task)]


def _compose_job(_: Any) -> RunConfig | InputError:
    try:
        return compose(_job_overrides()[1])
    except InputError as error:
        return error  # raised by `_check_jobs`: Hydra would add lines of its own to an exception from here


def _job(_: Any) -> tuple[int, str]:
    """One run of a sweep, in this process or a launcher's worker: (exit code, what to say on stderr)."""
    import traceback

    number, overrides = _job_overrides()
    title = f"run {number} ({' '.join(text for text in overrides if text != FORGET)})"
    try:
        from instructrec_rl.run import experiment

        with inert_output():  # a launcher's worker has streams of its own
            print(title, flush=True)
            experiment.run(compose(overrides), command_of(overrides))
    except InputError as error:
        return WRONG_INPUT, f"{title}: {error}"
    except DivergedError as error:
        return FAULT, f"{title}: {error}"
    except Exception:
        return FAULT, f"{title}: a fault in instructrec-rl\n{traceback.format_exc()}"
    return DONE, ""
