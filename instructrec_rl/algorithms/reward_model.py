"""A transformer reward model on human feedback, by TRL's RewardTrainer, and the policy that answers greedily by it.

    loss = -log sigmoid(r(i, better) - r(i, worse))        (Ouyang et al. 2022; Bradley and Terry 1952)

Pairs come from the feedback's preferences, rankings, corrections, and ratings of one instruction by one annotator. A
tenth of the instructions is held out; accuracy, calibration and the "longer wins" baseline there are logged. It needs
far more data than the learned reward of `reward=human_feedback`, and a GPU for anything but a small model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field

from instructrec_rl.core import DivergedError, InputError
from instructrec_rl.core.files import write_text_atomic
from instructrec_rl.core.forms import Form, Size, read_form
from instructrec_rl.core.hardware import pick_device
from instructrec_rl.core.pretrained import load_text_tokenizer, load_whole
from instructrec_rl.encoders.model_files import from_hub, model_folder
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.feedback.exports import export_rows
from instructrec_rl.feedback.learned.cross_validation import calibration_error, mean_with_interval
from instructrec_rl.feedback.store import Store

if TYPE_CHECKING:
    from instructrec_rl.algorithms.loop.recorder import Recorder
    from instructrec_rl.config.schema import RewardModelConfig
    from instructrec_rl.core import Item
    from instructrec_rl.encoders.states import Asked
    from instructrec_rl.env.environment import Environment

MIN_PAIRS = 10
HELD_OUT = 0.1  # of the instructions
SCORED_AT_ONCE = 64
FOLDER, ABOUT = "reward_model", "reward_model.json"

NEW = "classifier|score|pooler|head|summary"  # layers that a model of sentences may lack: they are trained here


class About(Form):
    """reward_model.json."""

    max_tokens: Annotated[Size, Field(ge=8)]


Pair = tuple[str, str, str]  # instruction, better, worse


class RewardModelPolicy:
    """Answers with the item that the reward model scores highest: one forward pass for every item on the menu."""

    def __init__(self, model: Any, tokenizer: Any, items: list[Item], max_tokens: int):
        self.model, self.tokenizer, self.items, self.max_tokens = model, tokenizer, items, max_tokens

    def score(self, instructions: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """The model's reward (B,), any real numbers, of B responses."""
        self.model.eval()
        found = [np.zeros(0, dtype=np.float32)]
        order = np.argsort([len(a) + len(b) for a, b in zip(instructions, responses)], kind="stable")
        with torch.inference_mode():
            for start in range(0, len(order), SCORED_AT_ONCE):
                part = order[start : start + SCORED_AT_ONCE].tolist()
                ids = [encode(self.tokenizer, instructions[i], responses[i], self.max_tokens) for i in part]
                batch = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.model.device)
                output = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                found.append(output.logits[:, 0].float().cpu().numpy())
        scores = np.empty(len(order), dtype=np.float32)
        scores[order] = np.concatenate(found)
        return scores

    def act(self, asked: Asked, menu: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """See `Policy.act`. It ignores earlier turns."""
        texts = [self.items[item].text for item in menu]
        scores = [self.score([text] * len(texts), texts) for text in asked.texts]
        return menu[np.array(scores).reshape(len(asked), len(menu)).argmax(1)]

    def save(self, folder: Path) -> None:
        """See `Policy.save`: the model and its tokenizer as transformers writes them, safetensors."""
        self.model.save_pretrained(folder / FOLDER, safe_serialization=True)
        self.tokenizer.save_pretrained(folder / FOLDER)
        write_text_atomic(folder / ABOUT, json.dumps({"max_tokens": self.max_tokens}))


def load(folder: Path, items: list[Item], dim: int | None = None) -> RewardModelPolicy:
    """Read what `save` wrote."""
    max_tokens = read_form(folder / ABOUT, About).max_tokens
    model, tokenizer = _model(folder / FOLDER)
    _check_context(model, max_tokens, folder / ABOUT)
    return RewardModelPolicy(model, tokenizer, items, max_tokens)


def encode(tokenizer: Any, instruction: str, response: str, max_tokens: int) -> list[int]:
    """Token ids of a pair; one that is too long is cut, the longer of the two texts first.

    A text that spells a special token of the model is read as the letters that it has.
    """
    cut = {"truncation": "longest_first", "max_length": max_tokens}
    return list(tokenizer(instruction, response, split_special_tokens=True, **cut)["input_ids"])


def learn(env: Environment, config: RewardModelConfig, recorder: Recorder) -> RewardModelPolicy:
    """Train on the feedback's pairs. A run that is resumed learns again from the start.

    Raises InputError for fewer than 10 pairs, and for a model that cannot be loaded; KeyboardInterrupt at Ctrl-C.
    """
    # hold out a tenth of the instructions
    pairs = _pairs(env, config.folder)
    rng = np.random.default_rng(recorder.seed)
    asked = sorted({pair[0] for pair in pairs})
    held = set(rng.choice(asked, max(1, round(HELD_OUT * len(asked))), replace=False).tolist())
    train, test = [p for p in pairs if p[0] not in held], [p for p in pairs if p[0] in held]
    if len(pairs) < MIN_PAIRS or not train:
        raise InputError(
            f"algo=reward_model: {len(pairs)} pairs of better and worse responses are too few, at least {MIN_PAIRS} "
            "are needed; give preferences, rankings, corrections, or ratings of several responses to an instruction"
        )
    # load the model
    torch.manual_seed(recorder.seed)  # of the new head
    try:
        model, tokenizer = _model(_folder_of(config.model), may_lack=NEW)
    except InputError as error:
        raise InputError(f"algo.model={config.model}: cannot be loaded ({error.reason})") from error
    _check_context(model, config.max_tokens, None)
    device, _ = pick_device(config.device)
    policy = RewardModelPolicy(model.to(device), tokenizer, env.items, config.max_tokens)
    # train it
    _train(policy, train, config, recorder)
    if not all(weights.isfinite().all() for weights in policy.model.parameters()):
        raise DivergedError(config.interactions, "a weight", value=config.learning_rate)
    # measure it on what was held out
    measured = _held_out(policy, test, rng)
    recorder.log(config.interactions, **measured)
    words = ", ".join(f"{name.removeprefix('held_out/')} {value:.3f}" for name, value in measured.items())
    print(f"reward model: {len(train):,} pairs, {len(test):,} held out: {words}", flush=True)
    return policy


def _pairs(env: Environment, folder: str) -> list[Pair]:
    store = Store([folder] if folder else None)
    records = [record for record in store.records if record.env in ("", env.spec.name)]
    find, texts = ItemFinder(env.items), [item.text for item in env.items]

    def text(response: str) -> str:
        place = int(find([response])[0])
        return texts[place] if place >= 0 else response

    rows = export_rows(records, "trl-preference")
    return [(row["prompt"], text(row["chosen"]), text(row["rejected"])) for row in rows]


def _folder_of(name: str) -> Path:
    """The folder of the model that `algo.model` names, fetched from the hub where it is none; "" is MiniLM's."""
    if not name:
        return model_folder("minilm", "")
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else from_hub(name, "algo.model")


def _model(folder: Path, may_lack: str = "") -> tuple[Any, Any]:
    """A sequence classifier with one output and its tokenizer. may_lack: see `load_whole`."""
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_text_tokenizer(folder)
    one = {"num_labels": 1}
    model = load_whole(AutoModelForSequenceClassification, folder, may_lack, settings=one, dtype=torch.float32)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError("the tokenizer has neither a pad token nor an end-of-text token", folder)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _check_context(model: Any, max_tokens: int, path: Path | None) -> None:
    """Raise InputError for pairs that are longer than the model has positions for."""
    most = getattr(model.config, "max_position_embeddings", max_tokens)
    if max_tokens > most:
        raise InputError(f"algo.max_tokens={max_tokens}: the model reads at most {most}", path)


def _train(policy: RewardModelPolicy, pairs: list[Pair], config: RewardModelConfig, recorder: Recorder) -> None:
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import PrinterCallback, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    # follow the training
    disable_progress_bar()

    class Follow(TrainerCallback):
        """The run's progress, log and Ctrl-C."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            recorder.progress(state.global_step, state.max_steps, "")
            control.should_training_stop = control.should_training_stop or recorder.stopping

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if not math.isfinite(float((logs or {}).get("loss", 0.0))):
                raise DivergedError(state.global_step, "the loss", "algo.learning_rate", config.learning_rate)
            kept = {key: float(value) for key, value in (logs or {}).items() if key in ("loss", "accuracy", "margin")}
            if kept:
                recorder.log(round(config.interactions * state.global_step / max(1, state.max_steps)), **kept)

    # lay out the pairs
    rows = {
        name: [encode(policy.tokenizer, pair[0], pair[side], policy.max_tokens) for pair in pairs]
        for name, side in (("chosen_ids", 1), ("rejected_ids", 2))
    }
    # train
    arguments = RewardConfig(
        output_dir=str(recorder.checkpoints),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=0.01,
        warmup_steps=0.05,
        max_length=policy.max_tokens,
        activation_checkpointing=False,
        bf16=False,
        save_strategy="no",
        logging_nan_inf_filter=False,  # it would log the loss before in place of one that is not a number
        report_to="none",
        logging_steps=max(1, len(pairs) * config.epochs // config.batch_size // 20),
        disable_tqdm=True,
        seed=recorder.seed,
        use_cpu=policy.model.device.type == "cpu",
        dataloader_pin_memory=policy.model.device.type == "cuda",
    )
    trainer = RewardTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=policy.tokenizer,
        callbacks=[Follow()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    # stop where asked
    if recorder.stopping:
        raise KeyboardInterrupt


def _held_out(policy: RewardModelPolicy, pairs: list[Pair], rng: np.random.Generator) -> dict[str, float]:
    """Accuracy, its interval, calibration, and how often the longer response is the better."""
    asked, better, worse = ([pair[side] for pair in pairs] for side in range(3))
    lead = (policy.score(asked, better) - policy.score(asked, worse)).astype(np.float64)
    longer = np.array([np.sign(len(a) - len(b)) / 2 + 0.5 for a, b in zip(better, worse)])
    group = np.unique(asked, return_inverse=True)[1]
    accuracy, half = mean_with_interval(np.sign(lead) / 2 + 0.5, group, rng)
    return {
        "held_out/accuracy": accuracy,
        "held_out/accuracy_interval": half,
        "held_out/longer_wins": float(longer.mean()),
        "held_out/ece": calibration_error(1 / (1 + np.exp(-lead))),
    }
