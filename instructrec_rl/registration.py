"""Registers our environments with Gymnasium. Light, because Gymnasium calls it whenever it is imported."""

from __future__ import annotations

from instructrec_rl.core import InputError
from instructrec_rl.files import find_envs, read_yaml


def register_environments() -> None:
    """Register `instructrec/<name>-v<version>` for every environment found now; a broken env.yaml is left out here.

    Gymnasium calls this at its import (an entry point of ours); `import instructrec_rl` calls it where Gymnasium was
    there first.
    """
    from gymnasium.envs.registration import register, registry

    for name, folder in find_envs().items():
        try:
            version = read_yaml(folder / "env.yaml").get("version")
        except InputError:
            continue  # the commands that use it report it; one broken file must not break `import gymnasium`
        env_id = f"instructrec/{name}-v{version}"
        if type(version) is int and env_id not in registry:
            register(
                env_id,
                entry_point="instructrec_rl.env.gym:InstructionEnv",
                vector_entry_point="instructrec_rl.env.gym:InstructionVectorEnv",
                kwargs={"env": name},
            )
