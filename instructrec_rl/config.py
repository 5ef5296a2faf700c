"""The typed options of a run, and how overrides such as `env=pizza_rec algo.interactions=20000` become one of them.

The dataclasses import nothing heavy; Hydra and OmegaConf are imported inside the functions that compose.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError, nearest
from instructrec_rl.files import find_envs, find_experiments, find_rewards, read_yaml

GROUPS = ("env", "reward", "algo", "encoder", "policy", "experiment")
KINDS = {"env": "environment", "algo": "algorithm"}
DEFAULT_ENV, DEFAULT_REWARD = "pizza_rec", "constraints"
DEFAULT_ALGO = {"choose": "dqn", "generate": "ppo"}


def option(default: Any, help: str, low: float | None = None, high: float = math.inf, choices: Any = ()) -> Any:
    """A field with its help, the closed range of its values and, for text, the values it may take."""
    metadata = {"help": help, "low": low, "high": high, "choices": tuple(choices)}
    return field(default=default, metadata=metadata)


DEVICE = {
    "help": "where to learn",
    "pattern": r"auto|cpu|mps|cuda(:\d+)?",
    "expected": "auto, cpu, mps, cuda or cuda:N",
}


@dataclass
class EnvConfig:
    """What a user changes of an environment; an empty text means what its env.yaml says."""

    name: str = option("", "the environment (set by env=NAME)")
    path: str = option("", "the data, where it is not in the environment's folder")
    lang: str = option("auto", "language of the texts", choices=("auto", "en", "zh"))
    state: str = option("", "granularity of the state", choices=("", "sentence", "clauses", "tokens"))
    catalog: str = option("default", "variant of the catalog, where there are several")
    action: str = option("", "choose an item or generate text", choices=("", "choose", "generate"))
    turns: int | None = option(None, "answers an episode may have (default: what env.yaml says, else 1)", low=1)
    turn_cost: float | None = option(None, "reward that every answer after the first costs", low=0, high=1)
    text: str = option("text", "the field of an item that is an action's text")
    splits: dict[str, str] = field(default_factory=dict, metadata={"help": "the data's split names to ours"})
    columns: dict[str, str] = field(
        default_factory=dict, metadata={"help": "the text and label columns (format intents)"}
    )
    oos: str = option("drop", "rows whose label is not among the training labels", choices=("drop", "keep"))


@dataclass
class PolicyConfig:
    """The network that answers."""

    name: str = option("default", "the policy (set by policy=NAME)")
    model: str = option("", "a language model's folder or id, for action=generate")


@dataclass
class DQNConfig:
    """Double DQN over the sentence or clause-set state."""

    name: str = option("dqn", "the algorithm (set by algo=NAME)")
    interactions: int = option(100_000, "environment steps to train for", low=1)
    num_envs: int = option(256, "environments stepped at once", low=1)
    batch_size: int = option(512, "transitions in an update", low=1)
    updates_per_step: int = option(3, "updates for each step of all environments", low=0)
    learning_rate: float = option(1.5e-3, "AdamW's, decayed over the last half", low=0)
    weight_decay: float = option(1e-3, "AdamW's", low=0)
    dropout: float = option(0.1, "share of units dropped in training", low=0, high=0.95)
    hidden: int = option(384, "units of a hidden layer", low=1)
    gamma: float = option(0.95, "discount", low=0, high=1)
    target_update: int = option(200, "updates between copies to the target network", low=1)
    temperature_start: float = option(0.05, "Boltzmann temperature at the start", low=1e-6)
    temperature_end: float = option(0.005, "Boltzmann temperature at the end", low=1e-6)
    epsilon: float = option(0.02, "share of uniformly random actions", low=0, high=1)
    replay_size: int = option(200_000, "transitions kept", low=1)
    item_features: str = option("auto", "the action side of Q", choices=("auto", "attributes", "text", "ids"))
    eval_every: int = option(10_000, "interactions between evaluations on validation", low=1)
    checkpoint_every: int = option(10_000, "interactions between checkpoints", low=1)
    device: str = field(default="auto", metadata=DEVICE)
    dtype: str = option("auto", "of the network's forward pass", choices=("auto", "fp32", "bf16"))


@dataclass
class BaselineConfig:
    """Baselines that take no options of their own."""

    name: str = option("", "the algorithm (set by algo=NAME)")
    interactions: int = option(100_000, "environment steps to train for, where it learns by trying", low=1)


@dataclass
class BanditConfig(BaselineConfig):
    """Baselines that learn by trying: what their loops share."""

    num_envs: int = option(256, "instructions answered at once", low=1)
    eval_every: int = option(10_000, "interactions between evaluations on validation", low=1)
    checkpoint_every: int = option(10_000, "interactions between checkpoints", low=1)


@dataclass
class LinUCBConfig(BanditConfig):
    """LinUCB, one ridge regression an item."""

    alpha: float = option(2.0, "width of the confidence bound", low=0)
    ridge: float = option(1.0, "strength of the penalty on the weights", low=1e-6)
    components: int = option(64, "principal components of the sentence vectors that are kept", low=1)


@dataclass
class LinearQConfig(BanditConfig):
    """Q-learning with linear values."""

    learning_rate: float = option(1e-2, "AdaGrad's, falling linearly to zero", low=0)
    epsilon: float = option(0.1, "share of uniformly random actions", low=0, high=1)
    gamma: float = option(0.95, "discount", low=0, high=1)
    initial_value: float = option(0.3, "every item's value at the start", low=0, high=1)


@dataclass
class SupervisedConfig(BaselineConfig):
    """Supervised learning with full information."""

    epochs: int = option(30, "passes over the training split", low=1)
    batch_size: int = option(128, "rows in an update", low=1)
    learning_rate: float = option(4e-3, "AdamW's highest, in one cycle", low=1e-9)
    weight_decay: float = option(1e-2, "AdamW's", low=0)
    dropout: float = option(0.1, "share of units dropped in training", low=0, high=0.95)
    hidden: int = option(384, "units of a hidden layer", low=1)
    temperature: float = option(0.2, "of the softmax of the rewards that is learned", low=1e-3)
    item_features: str = option("auto", "the items' side", choices=("auto", "attributes", "text", "ids"))
    device: str = field(default="auto", metadata=DEVICE)


ALGORITHM_NOTES = {
    "dqn": "double DQN over the sentence or clause-set state",
    "random": "baseline: a uniformly random item",
    "popularity": "baseline: the most frequent best item of the training split",
    "neighbour": "baseline: the nearest item in embedding space",
    "tfidf": "baseline: the nearest item by TF-IDF",
    "oracle": "upper bound: a best item, read from the data",
    "centroid": "baseline: the nearest mean of the training instructions' embeddings",
    "linucb": "baseline: LinUCB on the sentence state",
    "linear_q": "baseline: linear Q-learning on the sentence state",
    "supervised": "baseline: supervised with full information, on the state",
    "ngrams": "baseline: supervised with full information, on word n-grams",
}
ALGORITHM_CONFIGS: dict[str, type] = dict.fromkeys(ALGORITHM_NOTES, BaselineConfig) | {
    "dqn": DQNConfig,
    "linucb": LinUCBConfig,
    "linear_q": LinearQConfig,
    "supervised": SupervisedConfig,
}
POLICIES = ("default",)
ENCODERS = {"minilm": "the packaged all-MiniLM-L6-v2 (English)", "hf": "any BERT-like model: encoder.model=PATH_OR_ID"}


@dataclass
class RunConfig:
    """A run. `reward` is a dataclass with the reward's `name` and its own options, `algo` one of ALGORITHM_CONFIGS,
    `encoder` an EncoderConfig."""

    env: EnvConfig
    reward: Any
    algo: Any
    encoder: Any
    policy: PolicyConfig
    out: str | None = option(None, "the run's folder (default: runs/<env>-<algo>-<time>-<seed>)")
    seed: int = option(0, "seed of every random choice", low=0, high=2**32 - 1)
    resume: bool = option(False, "continue the run in `out`")
    baselines: str = option("default", "baselines in the report", choices=("default", "all", "none"))
    tracking: str = option("none", "where else metrics go", choices=("none", "tensorboard"))


TOP = tuple(f.name for f in dataclasses.fields(RunConfig) if f.name not in GROUPS)


def reward_options(config: RunConfig) -> dict[str, Any]:
    """The options of the run's reward as `load_reward(name, **options)` takes them."""
    return {k: v for k, v in dataclasses.asdict(config.reward).items() if k != "name"}


@dataclass(frozen=True)
class Setting:
    """One `key=value`; `origin` is the experiment file it came from, None for the command line."""

    key: str
    value: Any
    origin: Path | None = None

    def error(self, reason: str) -> InputError:
        """An InputError that names the key, the value and the file."""
        return InputError(f"{self.key}={_shown(self.value)}: {reason}", self.origin)


def _shown(value: Any) -> str:
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or value is True or value is False
        else str(value)
    )


def parse(overrides: Iterable[str]) -> list[Setting]:
    """Command-line overrides in Hydra's grammar. Raises InputError for malformed ones and for sweeps."""
    from hydra.core.override_parser.types import OverrideType

    settings = []
    for text, parsed in zip(overrides, parse_grammar(overrides), strict=True):
        if parsed.type == OverrideType.DEL or parsed.package is not None:
            raise InputError(f'malformed override "{text}": expected key=value')
        if parsed.key_or_group.startswith("hydra"):
            raise InputError(f"{parsed.key_or_group}: options of Hydra's launchers need -m (a sweep)")
        if parsed.is_sweep_override():
            raise InputError(
                f'{text}: several values are a sweep, which needs -m; quote a text that has commas: "{_quoted(text)}"'
            )
        settings.append(Setting(parsed.key_or_group, parsed.value()))
    return settings


def _quoted(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key}='{value}'"


def parse_grammar(overrides: Iterable[str]) -> list[Any]:
    """Hydra's `Override` objects. Raises InputError for what is not key=value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            words = text.split(maxsplit=1)
            hint = f' Did you mean "{"=".join(words)}"?' if len(words) == 2 else " An example: env=pizza_rec"
            raise InputError(f'malformed override "{text}": expected key=value.{hint}')
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            hint = f' Quote a value with special characters: "{_quoted(text)}"' if key.strip() and value else ""
            raise InputError(f'malformed override "{text}": expected key=value.{hint}') from error
    return parsed


def compose(overrides: Iterable[str]) -> RunConfig:
    """The validated configuration of one run.

    Later overrides win; those of `experiment=NAME` stand before all others. Raises InputError for unknown groups,
    options and names (with the nearest right one), wrong types, values out of range and broken files that it needs.
    """
    settings = _expand_experiment(parse(overrides))
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


def _expand_experiment(settings: list[Setting]) -> list[Setting]:
    named = [s for s in settings if s.key == "experiment"]
    rest = [s for s in settings if s.key != "experiment"]
    if not named:
        return rest
    path = _known(named[-1], find_experiments())
    inner: list[Setting] = []
    for key, value in read_yaml(path).items():
        if key == "experiment":
            raise InputError("an experiment cannot name another one", path)
        if key in GROUPS and isinstance(value, dict):
            inner += [Setting(key if k == "name" else f"{key}.{k}", v, path) for k, v in value.items()]
        elif key != "description":
            inner.append(Setting(key, value, path))
    return inner + rest


def _known(setting: Setting, names: Mapping[str, Any]) -> Any:
    """What `names` holds under the setting's value. Raises InputError with the nearest name."""
    if str(setting.value) not in names:
        kind = KINDS.get(setting.key, setting.key)
        raise setting.error(f"there is no such {kind}.{nearest(str(setting.value), names)}")
    return names[str(setting.value)]


def _with_defaults(choices: dict[str, Setting], settings: list[Setting]) -> dict[str, Setting]:
    """The choice of every group; env.yaml may name the algorithm and the reward."""
    env = choices.get("env", Setting("env", DEFAULT_ENV))
    env_yaml = _known(env, find_envs()) / "env.yaml"
    about = read_yaml(env_yaml)
    action = next(
        (s.value for s in reversed(settings) if s.key == "env.action" and s.value), about.get("action", "choose")
    )
    algo = about.get("algo") or DEFAULT_ALGO.get(str(action), "dqn")
    reward = about.get("reward") or ("exact_match" if about.get("format") == "intents" else DEFAULT_REWARD)
    return {
        "env": env,
        "reward": Setting("reward", reward, env_yaml if "reward" in about else None),
        "algo": Setting("algo", algo, env_yaml if "algo" in about else None),
        "encoder": Setting("encoder", "minilm"),
        "policy": Setting("policy", "default"),
        **choices,
    }


def _env_node(choice: Setting) -> EnvConfig:
    return EnvConfig(name=str(choice.value))


def _algo_node(choice: Setting) -> Any:
    return _known(choice, ALGORITHM_CONFIGS)(name=str(choice.value))


def _policy_node(choice: Setting) -> PolicyConfig:
    _known(choice, dict.fromkeys(POLICIES))
    return PolicyConfig(name=str(choice.value))


def _encoder_node(choice: Setting) -> Any:
    from instructrec_rl.encoder import EncoderConfig

    _known(choice, ENCODERS)
    return _named("encoder", str(choice.value), EncoderConfig)()


def _reward_node(choice: Setting) -> Any:
    """The reward's own Config with `name` on top; a rewards/<name>.yaml sets other defaults of the reward it names."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from instructrec_rl.rewards import reward_config_class

    path = _known(choice, find_rewards())
    try:
        node = OmegaConf.structured(_named("reward", str(choice.value), reward_config_class(str(choice.value))))
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
    if typing.get_origin(hint) in (list, dict, typing.Union, types.UnionType):
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
            raise setting.error(f"a group's option is chosen by {group}={_shown(setting.value)}")
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
    value = setting.value
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e5
    try:
        if hint in (int, float) and isinstance(value, bool):
            raise ValueError
        OmegaConf.update(node, last, value, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise setting.error(f"expected {_in_words(hint)}, got {_repr(value)}") from error


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


def _in_words(hint: Any) -> str:
    words = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        list: "a list",
        dict: "a mapping",
    }
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_in_words(part) for part in typing.get_args(hint))
    return words.get(typing.get_origin(hint) or hint, "null" if hint is type(None) else str(hint))


def _repr(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else _shown(value)


def _to_run_config(composed: Any, settings: list[Setting]) -> RunConfig:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from instructrec_rl.encoder import EncoderConfig

    try:
        for key in sorted(OmegaConf.missing_keys(composed)):
            parent, _, last = key.rpartition(".")
            hint = typing.get_type_hints(OmegaConf.get_type(composed, parent))[last]
            raise InputError(f"{key}: this option must be given ({_in_words(hint)})")
        config = typing.cast(RunConfig, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:  # ${...} that leads nowhere
        raise InputError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    given = {s.key: s for s in settings}
    for key, value, f in _leaves(config):
        if reason := _out_of_range(value, f.metadata):
            raise given.get(key, Setting(key, value)).error(reason)
    config.encoder = EncoderConfig(**dataclasses.asdict(config.encoder))
    return config


def _leaves(config: Any, prefix: str = "") -> Iterable[tuple[str, Any, dataclasses.Field[Any]]]:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", value, f


def _out_of_range(value: Any, metadata: Mapping[str, Any]) -> str:
    """Why a value is not allowed, or an empty text."""
    choices, low, high = metadata.get("choices", ()), metadata.get("low"), metadata.get("high", math.inf)
    if choices and value not in choices:
        return f"not one of its values.{nearest(str(value), (str(c) for c in choices if c != ''))}"
    if "pattern" in metadata and not re.fullmatch(metadata["pattern"], str(value)):
        return f"expected {metadata['expected']}"
    if isinstance(value, float) and not math.isfinite(value):
        return "expected a finite number"
    if low is not None and isinstance(value, int | float) and not low <= value <= high:
        return f"expected at least {low}" + (f" and at most {high}" if high < math.inf else "")
    return ""
