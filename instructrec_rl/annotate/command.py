"""`instructrec-rl annotate env=NAME [run=DIR]`: a page, or a terminal with --tui, where people judge responses.

limits.py and pool.py (what may be asked), learner.py and selection.py (what comes next), session.py and shown.py
(answers to disk), keys.py, guard.py, connections.py and server.py (the page's server), terminal.py; page.html,
page.css and the .js files are the page.
"""

from __future__ import annotations

import contextlib
import sys
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructrec_rl.annotate.keys import TOKEN_VARIABLE, make_keys, people_of
from instructrec_rl.config.overrides import Setting, parse
from instructrec_rl.core import InputError
from instructrec_rl.core.command_line import DONE
from instructrec_rl.core.files import feedback_folders, read_json
from instructrec_rl.core.inert import printable
from instructrec_rl.core.options import in_words, option, out_of_range

if TYPE_CHECKING:
    from instructrec_rl.annotate.session import Session

HELP = """usage: instructrec-rl annotate [--tui] env=NAME [run=DIR] [option=value]...

Serve a page where people rate, compare, rank and correct responses. Each answer is a line of a JSONL file under
rewards/, which reward=human_feedback learns from. Ctrl-C stops it; nothing is lost.

{options}
  env.OPTION=..., encoder.OPTION=..., seed=N   as for `run`

--tui asks in this terminal in place of a browser.

Beyond loopback a token is required; it is in the address that is printed. ${token} sets it, so that it stays the
same when the server is started again. people=ann,bob prints an address for each, by which the server knows who
answers.

examples:
  instructrec-rl annotate env=pizza_rec
  instructrec-rl annotate env=pizza_rec run=runs/mine overlap=0.3 target=500
  instructrec-rl annotate env=pizza_rec host=0.0.0.0 port=8000 people=ann,bob
  instructrec-rl annotate env=pizza_rec --tui
"""


@dataclass
class AnnotateConfig:
    """The command's own options."""

    run: str = option("", "a run's folder: its policy's answers are judged first")
    port: int = option(8370, "where the page is served; 0 takes a free port", low=0, high=65535)
    host: str = option("127.0.0.1", "the address to listen on")
    overlap: float = option(0.1, "share of questions that another annotator answered", low=0, high=1)
    target: int = option(200, "answers wanted of each annotator, for the progress shown", low=1)
    people: str = option("", "names with commas: each answers by a link of their own")
    out: str = option("", "the file (default: rewards/feedback/<env>.jsonl)")
    split: str = option("train", "the split that instructions come from")
    pool: int = option(1000, "instructions drawn from it", low=1)
    candidates: int = option(8, "responses considered for each", low=1, high=100)


def main(argv: list[str]) -> int:
    """Serve the page, or ask in the terminal. Raises InputError for wrong input."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(help_text(), end="")
        return DONE
    flags = [argument for argument in argv if argument.startswith("-")]
    if unknown := [flag for flag in flags if flag != "--tui"]:
        raise InputError(f'unknown flag "{unknown[0]}". Known: --help, --tui.')
    config, rest = read_options([argument for argument in argv if argument not in flags])
    if flags:
        from instructrec_rl.annotate.terminal import ask

        if config.people:
            raise InputError("people= is for the page, where each has a link; --tui asks one person, who says the name")
        session = make_session(config, rest)
        try:
            ask(session)
        finally:
            session.learner.wait()
    else:
        _serve(config, rest)
    return DONE


def help_text() -> str:
    """The help; imports nothing heavy."""
    lines = [f"  {f'{f.name}={f.default}':<24} {f.metadata['help']}" for f in fields(AnnotateConfig)]
    return HELP.format(options="\n".join(lines), token=TOKEN_VARIABLE)


def read_options(overrides: list[str]) -> tuple[AnnotateConfig, list[str]]:
    """The command's own options, and the overrides that are left for the environment. Raises InputError."""
    hints = typing.get_type_hints(AnnotateConfig)
    known = {f.name: f for f in fields(AnnotateConfig)}
    own = [text for text in overrides if text.partition("=")[0] in known]
    values: dict[str, Any] = {}
    for setting in _settings(own, hints):
        values[setting.key] = _typed(setting, hints[setting.key])
        if reason := out_of_range(values[setting.key], known[setting.key].metadata):
            raise setting.error(reason)
    return AnnotateConfig(**values), [text for text in overrides if text not in own]


def _settings(overrides: list[str], hints: dict[str, type]) -> typing.Iterator[Setting]:
    """The options as they were typed: a text stays as it is, unless it is quoted; all else is in Hydra's grammar."""
    for text in overrides:
        key, _, value = text.partition("=")
        if hints[key] is str and not value.startswith(("'", '"')):
            yield Setting(key, value)
        else:
            yield from parse([text])


def _typed(setting: Setting, hint: type) -> Any:
    value = setting.value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise setting.error(f"expected {in_words(hint)}")
    return value


def _serve(config: AnnotateConfig, overrides: list[str]) -> None:
    try:
        from instructrec_rl.annotate.guard import is_loopback
        from instructrec_rl.annotate.server import address, listen, serve
        from instructrec_rl.core.inert import printable
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "starlette", "uvicorn"):
            raise
        raise InputError(
            "annotate needs the extra: pip install 'instructrec-rl[annotate]' (or use --tui, which needs nothing more)"
        ) from error
    names = people_of(config.people)
    keys = make_keys(names, needed=not is_loopback(config.host))
    with listen(config.host, config.port) as listening:
        session = make_session(config, overrides)
        with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop it; every answer is on disk
            _tell(session, keys.secret != "", names)
            for name, token in keys.links.items():
                end = f"   for {name}" if name else "   (Ctrl-C stops)"
                print(printable(f"open {address(listening, config.host, token)}{end}"), flush=True)
            serve(session, listening, config.host, keys)
        session.learner.wait()


def _tell(session: Session, secret: bool, names: list[str]) -> None:
    print(printable(f"annotate {session.spec.name}: answers go to {session.out}"))
    if secret and not names:
        print("Whoever has this address can answer. It is plain http: use it in networks that you trust.")
    if names:
        print("Whoever has a person's address answers as that person. It is plain http: use it in networks that you "
              "trust. Ctrl-C stops.")  # fmt: skip


def make_session(config: AnnotateConfig, overrides: list[str]) -> Session:
    """Everything that page and terminal need. Raises InputError for wrong options and data."""
    from instructrec_rl.annotate.learner import Learner
    from instructrec_rl.annotate.limits import MAX_TEXT_BYTES
    from instructrec_rl.annotate.pool import make_pool
    from instructrec_rl.annotate.selection import Selector
    from instructrec_rl.annotate.session import Session
    from instructrec_rl.config.compose import compose
    from instructrec_rl.encoders.loading import load_encoder
    from instructrec_rl.env.environment import make_environment
    from instructrec_rl.env.spec import load_spec
    from instructrec_rl.feedback.store import Store
    from instructrec_rl.policies.saved import load_policy

    run = Path(config.run) if config.run else None
    if run is not None:
        overrides = [f"env={_env_of(run, overrides)}", *overrides]
    composed: Any = compose(overrides)
    spec = load_spec(composed.env)
    out = Path(config.out or f"rewards/feedback/{spec.name}.jsonl")
    _check_out(out)
    env = make_environment(spec, load_encoder(composed.encoder))
    policies = [load_policy(run)] if run is not None else []
    pool = make_pool(env, policies, run, config.split, config.pool, config.candidates, composed.seed)
    if pool.left_out:
        print(f"annotate {printable(spec.name)}: {pool.left_out} texts are not asked about: longer than the "
              f"{MAX_TEXT_BYTES:,} bytes (as JSON) that can be saved", file=sys.stderr)  # fmt: skip
    learner = Learner(pool, env.encoder, spec.name, spec.items)
    selector = Selector(pool, config.overlap, composed.seed)
    return Session(spec, selector, learner, Store(), out, config.target, config.split)


def _env_of(run: Path, overrides: list[str]) -> str:
    """The environment of a run. Raises InputError where there is none, or where another was asked for."""
    path = run / "policy" / "policy.json"
    if not path.is_file():
        raise InputError("no policy here; expected a run folder with policy/policy.json", run)
    name = read_json(path).get("env")
    if not isinstance(name, str):
        raise InputError('"env": expected the name of the environment it was trained on', path)
    asked = [text.partition("=")[2] for text in overrides if text.startswith("env=")]
    if asked and asked[-1] != name:
        raise InputError(f"run={run}: it was trained on {name}, not on {asked[-1]}")
    return name


def _check_out(out: Path) -> None:
    """Raises InputError for a file that the feedback store would not read."""
    folders = feedback_folders()
    if out.suffix != ".jsonl" or out.name.startswith("."):
        raise InputError("expected a name that ends in .jsonl", out)
    if not any(out.resolve().is_relative_to(folder) for folder in folders):
        raise InputError(f"feedback is read from {' and '.join(map(str, folders))}; expected a file there", out)
