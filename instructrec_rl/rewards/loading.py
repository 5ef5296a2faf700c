"""From the name of a reward to one that is ready to score: its file is found and run, its options are typed.

A reward is `rewards/<name>.py`, with `score(batch, config)` or `class Reward(config, context)`, or
`rewards/<name>.yaml`, which names a reward and gives it other defaults.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from instructrec_rl.core import Batch, InputError, nearest
from instructrec_rl.core.files import find_rewards, read_yaml
from instructrec_rl.core.options import build_config
from instructrec_rl.rewards.reward import Reward, RewardContext, error_text, line_in


def load_reward(name: str, /, env: Any = None, **options: Any) -> Reward:
    """Load a reward by the name of its file, with options of its Config.

    env: a loaded environment (anything with `items` and `encoder`), an environment's name, or None. Raises
    InputError for an unknown name or option, a value of the wrong type, and a file that cannot be imported.
    """
    if isinstance(env, str):
        from instructrec_rl import load_env

        env = load_env(env)
    return _load(name, env, options, ())


def reward_config_class(name: str) -> type | None:
    """The dataclass `Config` of a reward (for a .yaml: of the reward it names), or None where it takes no options."""
    return _config_class(_load_module(_definition(name)[0]), _definition(name)[0])


def _load(name: str, env: Any, options: Mapping[str, Any], outer: tuple[str, ...]) -> Reward:
    if name in outer:
        raise InputError(f"reward {name} contains itself: {' > '.join((*outer, name))}")
    path, preset, preset_path = _definition(name)
    module = _load_module(path)
    has_function, has_class = (
        callable(getattr(module, "score", None)),
        isinstance(getattr(module, "Reward", None), type),
    )
    if has_function == has_class:
        raise InputError("a reward defines either score(batch, config) or class Reward", path)
    preset = {key: value for key, value in preset.items() if key not in options}
    config = build_config(_config_class(module, path), preset, dict(options), name, preset_path)
    context = RewardContext(
        items=[] if env is None else list(env.items),
        load=lambda part, **given: _load(part, env, given, (*outer, name)),
        find_encoder=lambda: getattr(env, "encoder", None),
        env=getattr(getattr(env, "spec", None), "name", ""),
    )
    resolved = {} if config is None else {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    reward = Reward(name, resolved, path, None, getattr(env, "locate", lambda row_id: None))
    reward.scorer = (
        _Function(config, module.score)
        if has_function
        else reward._call(lambda _: module.Reward(config, context), None)
    )
    if not callable(getattr(reward.scorer, "score", None)):
        raise InputError("class Reward has no method score(batch)", path)
    return reward


@dataclass
class _Function:
    """`score(batch, config)` in the shape of a `class Reward`."""

    config: Any
    function: Callable[[Batch, Any], Any]

    def score(self, batch: Batch) -> Any:
        return self.function(batch, self.config)


def _definition(name: str) -> tuple[Path, dict[str, Any], Path | None]:
    """The .py file behind a name, the options that its YAML sets, and that YAML."""
    known = find_rewards()
    if name not in known:
        raise InputError(f'unknown reward "{name}".{nearest(name, known)}')
    path = known[name]
    if path.suffix != ".yaml":
        return path, {}, None
    preset = read_yaml(path)
    base = str(preset.pop("reward", ""))
    files = {key: file for key, file in known.items() if file.suffix == ".py"}
    if base not in files:
        raise InputError(f'"reward: {base}" is not the name of a reward\'s .py file.{nearest(base, files)}', path)
    return files[base], preset, path


def _load_module(path: Path) -> ModuleType:
    try:
        stamp = path.stat()
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", path) from error
    return _load_module_at(path.resolve(), stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=256)
def _load_module_at(path: Path, changed: int, size: int) -> ModuleType:
    """Run a reward's file as a module of a private name. Its folder never joins sys.path, and no .pyc is written."""
    name = f"_instructrec_reward_{path.stem}_{hashlib.sha256(f'{path}:{changed}'.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise InputError("not a Python file", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and get_type_hints look it up there
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise InputError(error_text(error), path, line_in(path, error)) from error
    return module


def _config_class(module: ModuleType, path: Path) -> type | None:
    config = getattr(module, "Config", None)
    if config is not None and not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise InputError("Config is not a dataclass", path)
    return config
