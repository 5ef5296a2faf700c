"""One run's configuration out of its overrides: the groups chosen, their types filled, everything checked.

Hydra and OmegaConf are imported inside the functions that compose.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from instructrec_rl.config.env_yaml import FILE, read_env_yaml
from instructrec_rl.config.experiments import flattened_options, run_settings
from instructrec_rl.config.overrides import Setting, parse, shown
from instructrec_rl.config.schema import (
    ALGORITHM_CONFIGS,
    BEFORE_THE_OPTION,
    DEFAULT_ALGO,
    DEFAULT_ENV,
    ENCODERS,
    GROUPS,
    LANGUAGE_ALGORITHMS,
    POLICIES,
    TINY_CONTEXT,
    TOP,
    EnvConfig,
    PolicyConfig,
    RunConfig,
)
from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.files import find_envs, find_experiments, find_rewards, read_yaml
from instructrec_rl.core.options import in_words, option, out_of_range

KINDS = {"env": "environment", "algo": "algorithm"}
UNIONS = (typing.Union, types.UnionType)
PLAIN_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")  # as a text, say in quotes


def compose(overrides: Iterable[str], further: Iterable[Setting] = ()) -> RunConfig:
    """The validated configuration of one run; `further` settings, from Python, stand after the overrides.

    Later overrides win; those of `experiment=NAME` stand before all others. Raises InputError for unknown groups,
    options and names (with the nearest right one), wrong types, values out of range and broken files that it needs.
    """
    settings = _with_the_run_to_resume(_expand_experiment([*parse(list(overrides)), *further]))
    choices = {s.key: s for s in settings if s.key in GROUPS}
    nodes = {
        "env": _env_node,
        "reward": _reward_node,
        "algo": _algo_node,
        "encoder": _encoder_node,
        "policy": _policy_node,
    }
    choices = _with_defaults(choices, settings)
    composed = _compose_groups({group: make(choices[group]) for group, make in nodes.items()})
    for setting in settings:
        if setting.key not in GROUPS:
            _assign(composed, setting)
    return _to_run_config(composed, settings)


def _with_the_run_to_resume(settings: list[Setting]) -> list[Setting]:
    """With resume=true the options of the run in `out` come first, so that they need not be given again."""
    last = {s.key: s for s in settings}
    if "resume" not in last or last["resume"].value is not True or "out" not in last:
        return settings
    config = Path(last["out"].name) / "config.yaml"
    if not config.is_file():
        return settings
    try:
        stored = read_yaml(config)
    except InputError:  # torn: the run's folder mends it, or says what is wrong with it
        return settings
    given = {s.key for s in settings}
    stored_options = BEFORE_THE_OPTION | flattened_options(stored)
    options = {key: value for key, value in stored_options.items() if value is not None and key not in given}
    if options.get("algo") not in LANGUAGE_ALGORITHMS:  # the others have no such policy, and take no options of it
        options = {key: value for key, value in options.items() if not key.startswith("policy")}
    return [Setting(key, value) for key, value in options.items()] + settings


def _expand_experiment(settings: list[Setting]) -> list[Setting]:
    named = [s for s in settings if s.key == "experiment"]
    rest = [s for s in settings if s.key != "experiment"]
    if not named:
        return rest
    return run_settings(_known(named[-1], find_experiments())) + rest


def _known(setting: Setting, names: Mapping[str, Any]) -> Any:
    """What `names` holds under the setting's value. Raises InputError with the nearest name."""
    if setting.name not in names:
        kind = KINDS.get(setting.key, setting.key)
        raise setting.error(f"there is no such {kind}.{nearest(setting.name, names)}")
    return names[setting.name]


def _with_defaults(choices: dict[str, Setting], settings: list[Setting]) -> dict[str, Setting]:
    """The choice of every group; env.yaml may name the algorithm and the reward."""
    env = choices.get("env", Setting("env", DEFAULT_ENV))
    about = read_env_yaml(_known(env, find_envs()) / FILE)
    given = {s.key: s.name for s in settings if s.key.startswith("env.") and s.value}
    action = given.get("env.action", about.action)
    named = about.algo if action == about.action else ""  # env.yaml's choice is for its own kind of action
    algo = named or DEFAULT_ALGO.get(action, "dqn")
    reward = (
        ""
        if "reward" in choices
        else about.default_reward(given.get("env.path", ""), given.get("env.catalog", "default"))
    )
    return {
        "env": env,
        "reward": Setting("reward", reward, about.file if about.reward else None),
        "algo": Setting("algo", algo, about.file if named else None),
        "encoder": Setting("encoder", "minilm"),
        "policy": Setting("policy", "default"),
        **choices,
    }


def _env_node(choice: Setting) -> EnvConfig:
    return EnvConfig(name=choice.name)


def _algo_node(choice: Setting) -> Any:
    return _known(choice, ALGORITHM_CONFIGS)(name=choice.name)


def _policy_node(choice: Setting) -> PolicyConfig:
    _known(choice, POLICIES)
    return PolicyConfig(name=choice.name)


def _encoder_node(choice: Setting) -> Any:
    from instructrec_rl.encoders.bert import EncoderConfig

    _known(choice, ENCODERS)
    return _named("encoder", choice.name, EncoderConfig)()


def _reward_node(choice: Setting) -> Any:
    """The reward's own Config with `name` on top; a rewards/<name>.yaml sets other defaults of the reward it names."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from instructrec_rl.rewards import reward_config_class

    path = _known(choice, find_rewards())
    try:
        node = OmegaConf.structured(_named("reward", choice.name, reward_config_class(choice.name)))
    except (OmegaConfBaseException, NameError) as error:
        raise InputError(f"Config has an option that the command line cannot set: {error}", path) from error
    for key, value in (read_yaml(path) if path.suffix == ".yaml" else {}).items():
        if key != "reward":
            _assign_at(node, Setting(f"reward.{key}", value, path), key)
    return node


def _named(group: str, name: str, options: type | None) -> type:
    """A dataclass like `options` with `name` as its first field, in types that OmegaConf can check."""
    hints = typing.get_type_hints(options) if options is not None else {}
    fields: list[tuple[str, Any, Any]] = [("name", str, option(name, f"the {group}"))]
    for f in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        if f.name != "name" and f.init:
            hint, metadata = hints[f.name], dict(f.metadata)
            if typing.get_origin(hint) is typing.Literal:
                metadata["choices"] = typing.get_args(hint)
                hint = type(metadata["choices"][0])
            kept = {
                k: getattr(f, k) for k in ("default", "default_factory") if getattr(f, k) is not dataclasses.MISSING
            }
            fields.append((f.name, hint if _checkable(hint) else Any, field(metadata=metadata, **kept)))
    return dataclasses.make_dataclass(f"{name}_{group}", [(n, t, f) for n, t, f in fields], kw_only=True)


def _checkable(hint: Any) -> bool:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (list, dict, *UNIONS):
        return all(_checkable(part) for part in parts)
    return hint in (int, float, bool, str, Any, Path, type(None))


def _compose_groups(nodes: Mapping[str, Any]) -> Any:
    """Compose the chosen option of each group through Hydra's ConfigStore into one typed DictConfig."""
    from hydra import compose as hydra_compose
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for group, node in nodes.items():
        store.store(group=group, name=node.name, node=node)
    chosen = [{group: node.name} for group, node in nodes.items()]
    store.store(name="run", node={"defaults": ["run_schema", *chosen]})
    with hydra_started():
        return hydra_compose("run")


def hydra_started() -> Any:
    """A context in which Hydra is ready: the sweep's own where one is running, else a fresh one."""
    import contextlib

    from hydra import initialize
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().is_initialized()
    return contextlib.nullcontext() if running else initialize(version_base="1.3", config_path=None, job_name="run")


def _assign(composed: Any, setting: Setting) -> None:
    """Set one option. Raises InputError for an unknown key (with the nearest) and for a wrong type."""
    group, dot, rest = setting.key.partition(".")
    if not dot and group in TOP:
        _assign_at(composed, setting, setting.key)
    elif dot and group in GROUPS[:-1]:
        if rest == "name":
            raise setting.error(f"a group's option is chosen by {group}={shown(setting.value)}")
        _assign_at(composed[group], setting, rest)
    else:
        owners = [g for g in GROUPS[:-1] if setting.key in composed[g]]
        hint = f' Did you mean "{owners[0]}.{setting.key}"?' if owners else nearest(group, (*GROUPS, *TOP))
        raise setting.error(f'unknown {"group" if dot else "group or option"} "{group}".{hint}')


def _assign_at(node: Any, setting: Setting, key: str) -> None:
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    *parents, last = key.split(".")
    for part in parents:
        hint = _check_key(node, part, setting)
        if part not in node and (hint in (Any, dict) or typing.get_origin(hint) is dict):
            OmegaConf.update(node, part, {}, force_add=True)
        node = node.get(part)
        if not isinstance(node, DictConfig):
            raise setting.error(f'"{part}" has no options below it')
    hint = _check_key(node, last, setting)
    value = _value_for(hint, setting)
    try:
        OmegaConf.update(node, last, value, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise setting.error(f"expected {in_words(hint)}, got {_repr(value)}") from error


def _value_for(hint: Any, setting: Setting) -> Any:
    """A setting's value for an option of a type. Raises InputError where it was read as something else.

    A text is what was typed: `1_000` and `1e3` on the command line, and in a file a number where it is in quotes. A
    number is one that nobody can read otherwise: `010` and `12:30` are none.
    """
    value = setting.value
    kinds = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
    numbers = {int, float}.intersection(kinds)
    if isinstance(value, bool | int | float) and str in kinds and not numbers and bool not in kinds:
        if not setting.text:
            raise setting.error(f"expected text, got {shown(value)}; put it in quotes")
        return setting.text
    wrong = isinstance(value, bool) and bool not in kinds
    if isinstance(value, str) and "${" not in value:
        wrong = not PLAIN_NUMBER.fullmatch(value)
    if numbers and wrong and str not in kinds:
        raise setting.error(f"expected {in_words(hint)}, got {_repr(value)}")
    if int in kinds and float not in kinds and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e5
    return value


def _check_key(node: Any, key: str, setting: Setting) -> Any:
    """The declared type of a key. Raises InputError for a key that the node's dataclass does not have."""
    from omegaconf import OmegaConf

    cls = OmegaConf.get_type(node)
    if not dataclasses.is_dataclass(cls):
        return node._metadata.element_type
    known = [f.name for f in dataclasses.fields(cls) if f.name != "name"]
    if key not in known:
        chosen = f" of {setting.key.partition('.')[0]}={node.name}" if "name" in node else ""
        raise setting.error(f'unknown option "{key}"{chosen}.{nearest(key, known) if known else " It takes none."}')
    return typing.get_type_hints(cls)[key]


def _repr(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else shown(value)


def _to_run_config(composed: Any, settings: list[Setting]) -> RunConfig:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from instructrec_rl.encoders.bert import EncoderConfig

    try:
        for key in sorted(OmegaConf.missing_keys(composed)):
            parent, _, last = key.rpartition(".")
            hint = typing.get_type_hints(OmegaConf.get_type(composed, parent))[last]
            raise InputError(f"{key}: this option must be given ({in_words(hint)})")
        config = typing.cast(RunConfig, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:  # ${...} that leads nowhere
        raise InputError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    given = {s.key: s for s in settings}
    for key, value, f in _leaves(config):
        if reason := out_of_range(value, f.metadata):
            raise given.get(key, Setting(key, value)).error(reason)
    if config.resume and not config.out:
        raise InputError("resume=true needs out=DIR, the folder of the run to continue")
    if config.env.lang == "zh" and config.encoder.name == "minilm":
        raise given["env.lang"].error("encoder=minilm reads English only; use encoder=hf encoder.model=PATH_OR_ID")
    _check_policy(config, given)
    config.encoder = EncoderConfig(**dataclasses.asdict(config.encoder))
    return config


def _check_policy(config: RunConfig, given: Mapping[str, Setting]) -> None:
    """Raise InputError for a language model without an algorithm that trains one, and for one that is not named."""
    policy, algo = config.policy, config.algo.name
    trainers = f"it takes a language model: {', '.join(f'algo={name}' for name in LANGUAGE_ALGORITHMS)}"
    if algo not in LANGUAGE_ALGORITHMS:
        if policy.name != "default":
            raise InputError(f"policy={policy.name}: algo={algo} has a network of its own; {trainers}")
        if config.env.action == "generate":
            raise InputError(f"env.action=generate: algo={algo} can only choose; {trainers}")
        if options := [key for key in given if key.startswith("policy.")]:
            raise given[options[0]].error(f"algo={algo} has no such policy; {trainers}")
    if policy.name == "hf" and not policy.model:
        raise InputError("policy=hf needs policy.model: a folder, or the id of a causal language model on the hub")
    if policy.name in ("default", "tiny") and policy.max_tokens >= TINY_CONTEXT:
        reason = f"policy=tiny has room for {TINY_CONTEXT} tokens, those of the prompt and the answers together"
        raise given.get(key := "policy.max_tokens", Setting(key, policy.max_tokens)).error(reason)
    if policy.model and policy.name != "hf":
        raise InputError(f"policy.model={policy.model}: it goes with policy=hf, and this is policy={policy.name}")


def _leaves(config: Any, prefix: str = "") -> Iterable[tuple[str, Any, dataclasses.Field[Any]]]:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", value, f
