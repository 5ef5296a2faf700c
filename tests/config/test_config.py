import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from instructrec_rl.config import schema as config
from instructrec_rl.config.compose import compose
from instructrec_rl.config.schema import ALGORITHM_CONFIGS, reward_options
from instructrec_rl.core import InputError
from instructrec_rl.encoders.bert import EncoderConfig

REWARD = '''"""Always the same."""
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Config:
    level: float = 0.5
    kind: Literal["plain", "fancy"] = "plain"
    weights: dict[str, float] = field(default_factory=dict)
    parts: tuple[str, ...] = ()


def score(batch, config):
    return np.full(len(batch), config.level)
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, with nothing named by the environment variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def error_of(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults(here):
    run = compose([])
    assert (run.env.name, run.reward.name, run.algo.name, run.policy.name) == (
        "pizza_rec",
        "constraints",
        "dqn",
        "default",
    )
    assert run.encoder == EncoderConfig(name="minilm")
    assert isinstance(run.algo, config.DQNConfig)
    assert (run.out, run.seed, run.resume, run.baselines, run.tracking) == (None, 0, False, "default", "none")


def test_values_take_their_types(here):
    run = compose(
        ["algo.interactions=1e5", "algo.gamma=0", "resume=true", "out=runs/x", "env.splits.val=test", "+seed=3"]
    )
    assert (run.algo.interactions, run.algo.gamma, run.resume, run.out, run.seed) == (100_000, 0.0, True, "runs/x", 3)
    assert isinstance(run.algo.interactions, int)
    assert isinstance(run.algo.gamma, float)
    assert run.env.splits == {"val": "test"}


def test_an_option_that_env_yaml_decides_is_null(here):
    assert (compose([]).env.turns, compose([]).env.turn_cost) == (None, None)
    run = compose(["env.turns=null", "env.turn_cost=null"])
    assert (run.env.turns, run.env.turn_cost) == (None, None)
    run = compose(["env.turns=1", "env.turn_cost=0"])
    assert (run.env.turns, run.env.turn_cost) == (1, 0.0)
    assert compose(["env.turns=1e1"]).env.turns == 10
    write(here / "experiments" / "plain.yaml", "env: {name: pizza_rec, turns: null}\n")
    assert compose(["env.turns=3", "experiment=plain"]).env.turns == 3


def test_chinese_with_an_encoder_that_reads_it(here):
    run = compose(["env.lang=zh", "encoder=hf", "encoder.model=some/model"])
    assert (run.env.lang, run.encoder.name) == ("zh", "hf")
    assert compose(["env.lang=en"]).env.lang == "en"


def test_later_overrides_win(here):
    assert compose(["seed=1", "env=pizza_rec", "seed=2"]).seed == 2


@pytest.mark.parametrize("name", ALGORITHM_CONFIGS)
def test_every_algorithm_composes_under_its_name(here, name):
    run = compose([f"algo={name}", "algo.interactions=10"])
    assert (run.algo.name, run.algo.interactions) == (name, 10)
    assert isinstance(run.algo, ALGORITHM_CONFIGS[name])


def test_encoder_hf(here):
    run = compose(["encoder=hf", "encoder.model=/models/mine"])
    assert run.encoder == EncoderConfig(name="hf", model="/models/mine")


def test_the_rewards_own_options_are_typed(here):
    write(here / "rewards" / "mine.py", REWARD)
    run = compose(["reward=mine", "reward.level=1", "reward.weights.a=2", "reward.parts=[x,y]"])
    assert reward_options(run) == {"level": 1.0, "kind": "plain", "weights": {"a": 2.0}, "parts": ["x", "y"]}
    assert error_of("reward=mine", "reward.level=high") == 'reward.level=high: expected a number, got "high"'
    assert error_of("reward=mine", "reward.weights.a=b") == 'reward.weights.a=b: expected a number, got "b"'
    assert 'Did you mean "fancy"?' in error_of("reward=mine", "reward.kind=fancyy")
    assert 'unknown option "lvel" of reward=mine. Did you mean "level"?' in error_of("reward=mine", "reward.lvel=1")


def test_a_reward_yaml_sets_other_defaults(here):
    write(here / "rewards" / "mine.py", REWARD)
    path = write(here / "rewards" / "strict.yaml", "reward: mine\nlevel: 0.1\nkind: fancy\n")
    run = compose(["reward=strict", "reward.kind=plain"])
    assert (run.reward.name, run.reward.level, run.reward.kind) == ("strict", 0.1, "plain")
    path.write_text("reward: mine\nlvel: 1\n")
    assert error_of("reward=strict").startswith(f'{path}: reward.lvel=1: unknown option "lvel" of reward=strict.')
    path.write_text("reward: min\n")
    assert error_of("reward=strict").startswith(
        f'{path}: "reward: min" is not the name of a reward\'s .py file. Did you'
    )


def test_env_yaml_names_algorithm_and_reward(here):
    about = "name: mine\nversion: 1\nformat: catalog\naction: choose\nmetrics: [rouge]\n"
    path = write(here / "envs" / "mine" / "env.yaml", about + "algo: random\nreward: rouge\n")
    run = compose(["env=mine"])
    assert (run.env.name, run.algo.name, run.reward.name) == ("mine", "random", "rouge")
    assert compose(["env=mine", "algo=dqn", "reward=exact_match"]).algo.name == "dqn"
    path.write_text(about + "reward: rouge\nalgo: dqm\n")
    assert error_of("env=mine").startswith(f'{path}: algo=dqm: there is no such algorithm. Did you mean "dqn"?')
    path.write_text(about.replace("catalog", "intents"))
    assert compose(["env=mine"]).reward.name == "exact_match"


def test_experiments_stand_before_the_users_overrides(here):
    write(here / "experiments" / "quick.yaml", "description: x\nenv: pizza_rec\nalgo.interactions: 20000\nseed: 4\n")
    nested = "algo:\n  name: random\n  interactions: 7\nreward: {name: rouge, variant: rouge2}\n"
    write(here / "experiments" / "nested.yaml", nested)
    run = compose(["seed=5", "experiment=quick"])
    assert (run.algo.interactions, run.seed) == (20_000, 5)
    run = compose(["experiment=nested"])
    assert (run.algo.name, run.algo.interactions, run.reward.variant) == ("random", 7, "rouge2")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("algo.interactions: lots", 'algo.interactions=lots: expected an integer, got "lots"'),
        ("sed: 1", 'sed=1: unknown group or option "sed". Did you mean "seed"?'),
        ("env: pizza_re", 'env=pizza_re: there is no such environment. Did you mean "pizza_rec"?'),
        ("seed: -1", "seed=-1: expected at least 0 and at most 4294967295"),
        ("experiment: other", "an experiment cannot name another one"),
    ],
)
def test_a_wrong_experiment_is_named(here, content, said):
    path = write(here / "experiments" / "bad.yaml", content + "\n")
    assert error_of("experiment=bad").startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["envv=pizza_rec"], 'envv=pizza_rec: unknown group or option "envv". Did you mean "env"?'),
        (["enw.path=x"], 'enw.path=x: unknown group "enw". Did you mean "env"?'),
        (
            ["interactions=4"],
            'interactions=4: unknown group or option "interactions". Did you mean "algo.interactions"?',
        ),
        (
            ["algo.interaction=5"],
            'algo.interaction=5: unknown option "interaction" of algo=dqn. Did you mean "interactions"?',
        ),
        (["env.stat=x"], 'env.stat=x: unknown option "stat" of env=pizza_rec. Did you mean "state"?'),
        (["reward.x=1"], 'reward.x=1: unknown option "x" of reward=constraints. It takes none.'),
        (["env=pizza_re"], 'env=pizza_re: there is no such environment. Did you mean "pizza_rec"?'),
        (["reward=rogue"], 'reward=rogue: there is no such reward. Did you mean "rouge"?'),
        (["algo=dqm"], 'algo=dqm: there is no such algorithm. Did you mean "dqn"?'),
        (["encoder=minilmm"], 'encoder=minilmm: there is no such encoder. Did you mean "minilm"?'),
        (["policy=defualt"], 'policy=defualt: there is no such policy. Did you mean "default"?'),
        (["experiment=absent"], "experiment=absent: there is no such experiment."),
        (["algo.interactions=many"], 'algo.interactions=many: expected an integer, got "many"'),
        (["algo.interactions=1.5"], "algo.interactions=1.5: expected an integer, got 1.5"),
        (["algo.interactions=true"], "algo.interactions=true: expected an integer, got true"),
        (["algo.interactions=null"], "algo.interactions=null: expected an integer, got null"),
        (["algo.gamma=x"], 'algo.gamma=x: expected a number, got "x"'),
        (["resume=maybe"], 'resume=maybe: expected true or false, got "maybe"'),
        (["env.splits=3"], "env.splits=3: expected a mapping of names to text, got 3"),
        (["algo.gamma.x=3"], 'algo.gamma.x=3: "gamma" has no options below it'),
        (["algo.interactions=0"], "algo.interactions=0: expected at least 1"),
        (["algo.gamma=1.5"], "algo.gamma=1.5: expected at least 0 and at most 1"),
        (["algo.device=gpu"], "algo.device=gpu: expected auto, cpu, mps, cuda or cuda:N"),
        (["algo.gamma=nan"], "algo.gamma=nan: expected a finite number"),
        (["baselines=alll"], 'baselines=alll: not one of its values. Did you mean "all"? Known: all, default, none.'),
        (["tracking=wandb"], "tracking=wandb: not one of its values. Known: none, tensorboard."),
        (["env.state=clause"], 'env.state=clause: not one of its values. Did you mean "clauses"?'),
        (["env pizza_rec"], 'malformed override "env pizza_rec": expected key=value. Did you mean "env=pizza_rec"?'),
        (["env"], 'malformed override "env": expected key=value. An example: env=pizza_rec'),
        (["~seed=1"], 'malformed override "~seed=1": expected key=value'),
        (
            ["out=a(b"],
            'malformed override "out=a(b": expected key=value. Quote a value with special characters: "out=\'a(b\'"',
        ),
        (
            ["seed=0,1"],
            "seed=0,1: several values are a sweep, which needs -m; quote a text that has commas: \"seed='0,1'\"",
        ),
        (["hydra.verbose=true"], "hydra.verbose: options of Hydra's launchers need -m (a sweep)"),
        (["env.turns=0"], "env.turns=0: expected at least 1"),
        (["env.turns=true"], "env.turns=true: expected an integer or null, got true"),
        (["env.turns=1.5"], "env.turns=1.5: expected an integer or null, got 1.5"),
        (["env.turn_cost=2"], "env.turn_cost=2: expected at least 0 and at most 1"),
        (["env.oos=kep"], 'env.oos=kep: not one of its values. Did you mean "keep"? Known: drop, keep.'),
        (["env.lang=fr"], "env.lang=fr: not one of its values. Known: auto, en, zh."),
        (["env.lang=zh"], "env.lang=zh: encoder=minilm reads English only; use encoder=hf encoder.model=PATH_OR_ID"),
        (["env.name=x"], "env.name=x: a group's option is chosen by env=x"),
        (["out=${nope}"], "out: Interpolation key 'nope' not found"),
    ],
)
def test_wrong_overrides_get_one_clear_line(here, overrides, said):
    assert error_of(*overrides).startswith(said)


def test_broken_user_files_stop_only_the_runs_that_use_them(here):
    env_yaml = write(here / "envs" / "bad" / "env.yaml", "a: b: c\n")
    reward = write(here / "rewards" / "bad.py", "def score(batch, config:\n")
    write(here / "rewards" / "worse.yaml", "- 1\n")
    write(here / "experiments" / "bad.yaml", "a: b: c\n")
    assert compose(["env=pizza_rec", "reward=rouge"]).reward.name == "rouge"
    assert error_of("env=bad") == f"{env_yaml}:1: broken YAML: mapping values are not allowed here"
    assert error_of("reward=bad").startswith(f"{reward}:1: SyntaxError")
    assert "worse.yaml: expected a mapping" in error_of("reward=worse")
    assert "bad.yaml:1: broken YAML" in error_of("experiment=bad")


def test_a_required_option_of_a_reward_is_asked_for(here):
    write(here / "rewards" / "mine.py", REWARD.replace("level: float = 0.5", "level: float"))
    assert error_of("reward=mine") == "reward.level: this option must be given (a number)"
    assert compose(["reward=mine", "reward.level=0.3"]).reward.level == 0.3


def reference_pages() -> str:
    folder = Path(__file__).parents[2] / "docs" / "reference"
    return "\n".join((folder / f"{name}.md").read_text(encoding="utf-8") for name in ("configuration", "algorithms"))


def test_every_option_is_in_the_docs():
    page = reference_pages()
    classes = [("env", config.EnvConfig), ("policy", config.PolicyConfig), ("encoder", EncoderConfig)]
    classes += [("algo", cls) for cls in ALGORITHM_CONFIGS.values()]
    keys = {f"{group}.{f.name}" for group, cls in classes for f in dataclasses.fields(cls) if f.name != "name"}
    assert [key for key in sorted({*keys, *config.TOP}) if f"`{key}`" not in page] == []
    assert [name for name in ALGORITHM_CONFIGS if f"`{name}`" not in page and f"`algo={name}`" not in page] == []


def documented_defaults(text: str) -> dict[str, str]:
    rows = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| ([^|]*?) *\|", text, re.MULTILINE)
    return {key: default for key, default in rows if default}


def test_the_defaults_in_the_docs_are_the_real_ones():
    page = reference_pages()
    sections = re.split(r"^`algo=(\w+)`:$", page, flags=re.MULTILINE)
    checked = 0
    tables = [(name, "algo", ALGORITHM_CONFIGS[name]) for name in sections[1::2]]
    tables += [("env", "env", config.EnvConfig), ("encoder", "encoder", EncoderConfig)]
    for name, group, cls in tables:
        text = sections[sections.index(name) + 1] if group == "algo" else page
        real = {f"{group}.{f.name}": f.default for f in dataclasses.fields(cls)}
        for key, told in documented_defaults(text).items():
            if key in real and real[key] not in ("", None):
                assert told == str(real[key]).lower() or type(real[key])(told) == real[key], key
                checked += 1
    assert checked > 40


def test_composing_loads_neither_torch_nor_gymnasium(here):
    code = (
        "import sys; from instructrec_rl.config.compose import compose; assert 'hydra' not in sys.modules; compose([]);"
        "print(sorted({'torch', 'gymnasium', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("policy.hidden=100", "expected a multiple of 32"),
        ("policy.hidden=33", "expected a multiple of 32"),
        ("policy.hidden=0", "expected at least 32 and at most 4096"),
        ("policy.hidden=40000", "expected at least 32 and at most 4096"),
        ("policy.layers=0", "expected at least 1 and at most 64"),
        ("policy.layers=100000", "expected at least 1 and at most 64"),
        ("policy.max_tokens=512", "policy=tiny has room for 512 tokens"),
        ("policy.lora_rank=0", "expected at least 1"),
    ],
)
def test_a_size_that_the_language_model_cannot_have_is_refused_before_anything_is_made(here, override, said):
    assert error_of("algo=ppo", override).startswith(f"{override}: {said}")
    assert not (here / "runs").exists()


def test_sizes_that_it_can_have_are_taken(here):
    for hidden in (32, 96, 4096):
        assert compose(["algo=ppo", f"policy.hidden={hidden}"]).policy.hidden == hidden
