"""Registers our environments with Gymnasium, whichever of the two is imported first, and without importing it.

`import instructrec_rl` must stay cheap for the commands that answer at once, and Gymnasium costs a quarter of a second;
since 1.4 it loads no plugins by itself. So where it is not there yet, registration waits for its import.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from instructrec_rl.config.env_yaml import FILE, read_env_yaml
from instructrec_rl.core import InputError
from instructrec_rl.core.files import find_envs


def register_environments() -> None:
    """Register `instructrec/<name>-v<version>` for every environment found now; a broken env.yaml is left out here."""
    from gymnasium.envs.registration import ENV_ID_RE, register, registry

    for name, folder in find_envs().items():
        try:
            version = read_env_yaml(folder / FILE).version
        except InputError:
            continue  # the commands that use it report it; one broken file must not break `import gymnasium`
        env_id = f"instructrec/{name}-v{version}"
        # a name that no id can have (a blank, a comma in it) is for the commands alone
        if env_id not in registry and ENV_ID_RE.fullmatch(env_id):
            register(
                env_id,
                entry_point="instructrec_rl.env.gym:InstructionEnv",
                vector_entry_point="instructrec_rl.env.gym:InstructionVectorEnv",
                kwargs={"env": name},
            )


def register_with_gymnasium() -> None:
    """Register now where Gymnasium is imported already, else when it is."""
    if hasattr(sys.modules.get("gymnasium"), "register"):
        register_environments()
    elif _AfterGymnasium not in sys.meta_path:
        sys.meta_path.insert(0, _AfterGymnasium)


class _AfterGymnasium:
    """An import hook that finds Gymnasium as usual, registers once its import is complete, and is gone."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "gymnasium":
            return None
        sys.meta_path.remove(cls)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                register_environments()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
