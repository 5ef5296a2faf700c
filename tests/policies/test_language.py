"""The parts of a language-model policy: tokenizer, soft tokens, prompts, generation, choosing, the critic."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from instructrec_rl import load_env
from instructrec_rl.algorithms.language.critic import attach, detach
from instructrec_rl.algorithms.language.packing import pack
from instructrec_rl.config.schema import PolicyConfig
from instructrec_rl.core import InputError
from instructrec_rl.encoders.states import Asked
from instructrec_rl.env.environment import Environment
from instructrec_rl.policies.language import policy as policies
from instructrec_rl.policies.language.choose import ItemTree
from instructrec_rl.policies.language.generate import complete, entropy, left_pad, log_distributions, token_logprobs
from instructrec_rl.policies.language.models import LanguageModel, load_language_model, restore_forward
from instructrec_rl.policies.language.policy import LanguagePolicy
from instructrec_rl.policies.language.prompts import bind_states, write_answers, write_prompts, write_turn
from instructrec_rl.policies.language.state_embedding import state_embeddings
from instructrec_rl.policies.language.tokenizer import train_tokenizer

SMALL = PolicyConfig(name="tiny", hidden=64, layers=2)


@pytest.fixture
def env(toys: Callable[..., Path]) -> Environment:
    toys(state="clauses")
    return load_env("toys")


@pytest.fixture
def lm(env: Environment) -> LanguageModel:
    torch.manual_seed(0)
    lm = load_language_model(env, SMALL)
    bind_states(lm, env.states)
    return lm


def logprobs_of(lm: LanguageModel, prompts: list[list[int]], answers: list[list[int]]) -> torch.Tensor:
    """log p(answer) after each prompt, the plain way: one row at a time, no padding, no cache."""
    found = []
    for prompt, answer in zip(prompts, answers):
        ids = torch.tensor([[*prompt, *answer]])
        logits = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, len(prompt) - 1 : -1]
        found.append(token_logprobs(logits, ids[:, len(prompt) :]).sum())
    return torch.stack(found).detach()


MENU = train_tokenizer(["goat cheese, olives | thin crust | $12.50", "ham | pan"], ["no ham please"])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_the_tokenizer_writes_every_text(text: str) -> None:
    assert MENU.decode(MENU(text)["input_ids"]) == text


def test_an_entry_of_a_list_is_one_token() -> None:
    tokenizer = train_tokenizer(["goat cheese, olives | thin crust | $12.50", "ham, goat cheese | thin crust"])
    assert [tokenizer.decode([i]) for i in tokenizer("ham, goat cheese | thin crust")["input_ids"]] == [
        "ham",
        ", goat cheese",
        " | thin crust",
    ]


def test_a_prompt_is_the_state_as_soft_tokens(env: Environment, lm: LanguageModel) -> None:
    rows = env.spec.rows("train")[:5]
    prompts = write_prompts(lm, env.asked(rows))
    states, size = env.states("clauses"), lm.vocabulary
    for row, prompt in zip(rows, prompts):
        assert prompt[:-1] == [size + k for k in states.index[row] if k >= 0]
        assert prompt[-1] == lm.tokenizer.sep_token_id
    embedding = state_embeddings(lm.model)[0]
    given = embedding(torch.tensor([prompts[0]]))[0, 0]
    expected = embedding.project(torch.from_numpy(states.vectors[prompts[0][0] - size]) * embedding.dim**0.5)
    assert torch.allclose(given, expected, atol=1e-6)


def test_equal_clauses_give_equal_prompts_whatever_the_table(env: Environment, lm: LanguageModel) -> None:
    """The table is only a view: an instruction alone is read as among thousands, also one never seen before."""
    texts = ["please find me a square, painted red", "I want a circle, any colour"]
    alone = [
        LanguagePolicy(lm, "generate", env.items).write(Asked.from_texts([t], env.encoder), np.arange(12))
        for t in texts
    ]
    both = LanguagePolicy(lm, "generate", env.items).write(Asked.from_texts(texts, env.encoder), np.arange(12))
    assert [a[0] for a in alone] == both


def test_kept_logprobs_equal_those_of_a_forward_pass(env: Environment, lm: LanguageModel) -> None:
    rows = env.spec.rows("train")
    prompts = left_pad(write_prompts(lm, env.asked(rows)), lm.tokenizer.pad_token_id, torch.device("cpu"))
    torch.manual_seed(1)
    written = complete(lm.model, prompts, 8, lm.eos, lm.tokenizer.pad_token_id, sample=True, temperature=0.7)
    ids = torch.cat([prompts[0], written.ids], 1)
    mask = torch.cat([prompts[1], written.mask], 1)
    logits = lm.model(input_ids=ids, attention_mask=mask, logits_to_keep=written.ids.shape[1] + 1).logits[:, :-1]
    again = token_logprobs(logits, written.ids, 0.7) * written.mask
    assert (again - written.logprobs).abs().max() < 1e-5
    assert (written.logprobs <= 0).all()
    assert written.logprobs.abs().sum() > 0


@pytest.mark.parametrize("seed", range(4))
def test_choosing_finds_the_likeliest_item(env: Environment, seed: int) -> None:
    torch.manual_seed(seed)
    lm = load_language_model(env, SMALL)
    bind_states(lm, env.states)
    with torch.no_grad():  # sharper than at random, so that ties of nearly equal items are rare
        lm.model.lm_head.weight *= 20
    rows = env.spec.rows("validation")
    prompts, answers = write_prompts(lm, env.asked(rows)), write_answers(lm, [item.text for item in env.items])
    found = ItemTree(answers).likeliest(lm.model, left_pad(prompts, lm.tokenizer.pad_token_id, torch.device("cpu")))
    for prompt, chosen in zip(prompts, found):
        scores = logprobs_of(lm, [prompt] * len(answers), answers)
        assert scores[chosen] == pytest.approx(float(scores.max()), abs=1e-4)


def test_a_policy_that_chooses_answers_with_items_of_the_menu(env: Environment, lm: LanguageModel) -> None:
    menu = np.array([2, 5, 7])
    answers = LanguagePolicy(lm, "choose", env.items).write(env.asked(env.spec.rows("test")), menu)
    assert set(answers) <= {env.items[i].text for i in menu}


@pytest.mark.parametrize("input", ["state", "text", "both"])
def test_save_and_load_give_the_same_answers(env: Environment, tmp_path: Path, input: str) -> None:
    torch.manual_seed(0)
    lm = load_language_model(env, PolicyConfig(name="tiny", hidden=64, layers=2, input=input))
    policy = LanguagePolicy(lm, "generate", env.items)
    asked = env.asked(env.spec.rows("test"))
    before = policy.write(asked, np.arange(12))
    folder = tmp_path / "policy"
    folder.mkdir()
    policy.save(folder)
    assert policies.load(folder, env.items).write(asked, np.arange(12)) == before
    assert policy.write(asked, np.arange(12)) == before  # saving leaves the model as it was
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(plain.get_input_embeddings().weight, lm.model.get_input_embeddings().weight)
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt")) + list(folder.glob("*.pkl"))


def test_a_turn_says_what_the_answer_scored(lm: LanguageModel) -> None:
    assert [lm.tokenizer.decode(ids) for ids in write_turn(lm, [0.0, 0.34, 1.0])] == [
        "<score_0><sep>",
        "<score_3><sep>",
        "<score_10><sep>",
    ]


def test_a_prompt_longer_than_the_context_is_refused(env: Environment) -> None:
    lm = load_language_model(env, PolicyConfig(name="tiny", hidden=64, layers=2, input="text"))
    with pytest.raises(InputError, match=r"has \d+ tokens; with policy.max_tokens=.* context of 512"):
        write_prompts(lm, Asked.from_texts(["word " * 600], env.encoder))


@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_the_critic_speaks_within_the_policys_forward(env: Environment, lm: LanguageModel, kind: str) -> None:
    critic = attach(lm.model, kind)
    with torch.no_grad():
        critic.head.weight.normal_()
    ids, mask = left_pad(write_prompts(lm, env.asked(env.spec.rows("train")[:6])), 0, torch.device("cpu"))
    with critic.listening() as heard:
        lm.model(input_ids=ids, attention_mask=mask)
    values = heard[-1]
    hidden = lm.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state  # the copy starts equal
    assert torch.allclose(values[:, 1:], critic.head(hidden)[:, :-1, 0], atol=1e-5)
    values.sum().backward()
    trained = {name for name, p in lm.model.named_parameters() if p.grad is not None}
    assert any(name.startswith("model.layers") for name in trained) == (kind == "shared")
    detach(lm.model)
    assert not hasattr(lm.model, "critic")


@pytest.mark.parametrize("kind", ["state", "separate", "shared"])
def test_a_critic_is_asked_only_while_one_listens(env: Environment, lm: LanguageModel, kind: str) -> None:
    """Nothing is kept between two passes: no hook, no value, also where a pass fails."""
    critic = attach(lm.model, kind)
    ids, mask = left_pad(write_prompts(lm, env.asked(env.spec.rows("train")[:6])), 0, torch.device("cpu"))
    before = dict(vars(critic))
    with critic.listening() as heard:
        lm.model(input_ids=ids, attention_mask=mask)
        lm.model(input_ids=ids[:2], attention_mask=mask[:2])
    with pytest.raises(IndexError), critic.listening():
        lm.model(input_ids=ids + 10_000)
    assert [tuple(values.shape) for values in heard] == [tuple(ids.shape), tuple(ids[:2].shape)]
    torch.testing.assert_close(critic.values(lm.model, ids, mask), heard[0])
    lm.model(input_ids=ids, attention_mask=mask)
    assert len(heard) == 2
    assert vars(critic) == before
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_writing_prompts_binds_nothing(env: Environment, lm: LanguageModel) -> None:
    tables = [module.table for module in state_embeddings(lm.model)]
    asked = Asked.from_texts(["please find me a square, painted red"], env.encoder)
    write_prompts(lm, asked)
    assert all(module.table is table for module, table in zip(state_embeddings(lm.model), tables))
    bind_states(lm, asked.states)
    assert [len(module.table) for module in state_embeddings(lm.model)] == [2]


def test_a_copy_made_after_a_trl_trainer_is_a_copy(env: Environment, lm: LanguageModel) -> None:
    """TRL patches `model.forward` with a closure over the model; a reference must not follow the policy."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(lm.model)
    restore_forward(lm.model)
    reference = copy.deepcopy(lm.model)
    ids = torch.tensor([[5, 6, 7]])
    before = reference(input_ids=ids).logits
    with torch.no_grad():
        lm.model.lm_head.weight += 1.0
    assert torch.equal(reference(input_ids=ids).logits, before)
    assert not torch.equal(lm.model(input_ids=ids).logits, before)


def test_the_entropy_has_its_gradient() -> None:
    """dH/dz_i = -p_i (log p_i + H), by hand; also the value, against torch's own."""
    logits = torch.tensor([[[1.0, 0.0, -2.0]]], requires_grad=True)
    found = entropy(log_distributions(logits))
    found.sum().backward()
    logp = logits.detach().log_softmax(-1)
    assert torch.allclose(found, torch.distributions.Categorical(logits=logits).entropy(), atol=1e-6)
    assert torch.allclose(logits.grad, -logp.exp() * (logp + found.detach()[..., None]), atol=1e-6)
    assert logits.grad.abs().max() > 0.1


def test_a_packed_batch_gives_what_each_row_gives_alone(env: Environment, lm: LanguageModel) -> None:
    prompts = write_prompts(lm, env.asked(env.splits["train"][:6]))
    prompts = [prompt[-1 - i % len(prompt) :] for i, prompt in enumerate(prompts)]  # of many lengths
    answers = [[5 + i, 7, *range(8, 13 - i), 6] for i in range(6)]
    padded, before = left_pad(prompts, 0, lm.model.device)
    width = max(map(len, answers))
    ids = torch.cat([padded, torch.tensor([[*row, *[0] * (width - len(row))] for row in answers])], 1)
    mask = torch.cat([before, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in answers])], 1)
    packed = pack(ids, mask, width)
    assert [row[: len(p) + len(a)] for row, p, a in zip(packed.ids.tolist(), prompts, answers)] == [
        [*p, *a] for p, a in zip(prompts, answers)
    ]
    assert packed.ids.shape[1] == max(len(p) + len(a) for p, a in zip(prompts, answers)) < ids.shape[1]
    for model in (lm.model, with_learnt_positions()):
        start = packed.shape.shortest
        logits = model(input_ids=packed.ids, attention_mask=packed.mask).logits[:, start - 1 : -1]
        words = packed.ids[:, start:].clamp(max=logits.shape[2] - 1)
        found = packed.answered(token_logprobs(logits, words), start)
        alone = logprobs_of(replace(lm, model=model), prompts, answers)
        torch.testing.assert_close(found.sum(1), alone, atol=1e-4, rtol=1e-4)


def with_learnt_positions() -> PreTrainedModel:
    """A model that feels where a row begins, unlike one of rotary positions."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=20_000, n_positions=64, n_embd=16, n_layer=2, n_head=2)).eval()


def test_tokens_are_drawn_as_often_as_the_model_says(env: Environment, lm: LanguageModel) -> None:
    prompt = write_prompts(lm, env.asked(env.splits["train"][:1]))[0]
    number = 4_000
    torch.manual_seed(1)
    drawn = complete(lm.model, left_pad([prompt] * number, 0, lm.model.device), 1, [0], 0, sample=True, temperature=0.7)
    ids = torch.tensor([prompt])
    logits = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
    likely = log_distributions(logits, 0.7)[0].exp().detach()
    counted = torch.bincount(drawn.ids[:, 0], minlength=len(likely)) / number
    assert (counted - likely).abs().max() < 4.5 * (likely * (1 - likely) / number).sqrt().max()
    torch.testing.assert_close(drawn.logprobs[:, 0].exp(), likely[drawn.ids[:, 0]], atol=1e-5, rtol=1e-4)
