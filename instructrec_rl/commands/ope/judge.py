"""A trained policy beside logs: what it would have done in each round, in the form that the estimators read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from instructrec_rl.algorithms.linucb import principal_components
from instructrec_rl.algorithms.loop.exploration import boltzmann_weights
from instructrec_rl.commands.ope.estimators import Evaluation, estimate
from instructrec_rl.commands.ope.logs import Logs
from instructrec_rl.commands.ope.regression import cross_fit
from instructrec_rl.core import InputError, Item
from instructrec_rl.encoders.item_features import item_features
from instructrec_rl.encoders.states import Asked
from instructrec_rl.env.item_finder import ItemFinder
from instructrec_rl.policies.contracts import Policy
from instructrec_rl.policies.saved import TextPolicy

COMPONENTS = {"context": 16, "answer": 32}  # principal components that the model of the reward reads


def judge(
    logs: Logs, texts: list[str], rewards: np.ndarray, target: TextPolicy, temperature: float = 0.0
) -> Evaluation:
    """What the policy would have earned. texts: the instructions (N,); rewards: (N,).

    temperature: 0 is greedy; above, softmax of the values of a policy that has values. Raises InputError where it has
    none, and for an item that its catalog does not have.
    """
    distinct, which = np.unique(np.array(texts, dtype=object), return_inverse=True)
    answers, logged = _answers(logs, target)
    does = _distribution(target, list(distinct), answers, temperature)
    contexts = _reduced(target.encoder.encode(list(distinct)), COMPONENTS["context"])
    features = _features(target, list(answers))
    if does.ndim == 1:
        policy = np.where(does >= 0, does, 0)
        expected = np.where(does[:, None] >= 0, features[policy], 0.0)
        pi = ((does[which] == logged) & (logged >= 0)).astype(float)
        never = float((~np.isin(does, logged[logged >= 0]))[which].mean())
    else:
        among = does.shape[1]
        expected = does @ features[:among]
        pi = np.where((logged >= 0) & (logged < among), does[which, np.clip(logged, 0, among - 1)], 0.0)
        never = float(does[:, ~np.isin(np.arange(among), logged)].sum(1)[which].mean())
    shown = np.where(logged[:, None] >= 0, features[logged], 0.0)
    q_logged, q_target = cross_fit(contexts[which], shown, expected[which], rewards, which)
    return estimate(rewards, pi, logs.propensities, q_logged, q_target, which, never)


def _answers(logs: Logs, target: TextPolicy) -> tuple[dict[str, int], np.ndarray]:
    """All answers by text, the catalog's items first, and what was logged (N,) as positions among them, -1 for none.

    A text whose own propensity was logged stays apart from another that names the same item.
    """
    if logs.kind == "item":
        by_id = {item.id: place for place, item in enumerate(target.items)}
        for place, answer in enumerate(logs.answers):
            if answer not in by_id:
                raise logs.error(f'the item "{answer}" is not in the policy\'s catalog', place)
        return _catalog(target.items), np.array([by_id[answer] for answer in logs.answers])
    if logs.kind == "response" and isinstance(target.policy, Policy):
        return _catalog(target.items), ItemFinder(target.items)(logs.answers)
    known, items = _catalog(target.items), _exact(target.items)
    found = []
    for answer in logs.answers:
        found.append(items[answer] if answer in items else known.setdefault(f"\0{answer}", len(known)))
    return known, np.array(found)


def _catalog(items: list[Item]) -> dict[str, int]:
    """Every item by a key of its own: items may share a text."""
    return {f"{place}\0{item.text}": place for place, item in enumerate(items)}


def _exact(items: list[Item]) -> dict[str, int]:
    """Items by their very text, the first of several alike."""
    return {item.text: place for place, item in reversed(list(enumerate(items)))}


def _distribution(
    target: TextPolicy, instructions: list[str], answers: Mapping[str, int], temperature: float
) -> np.ndarray:
    """What the policy does with U instructions: positions (U,), -1 for an answer nobody gave, or softmax (U, A)."""
    policy, asked = target.policy, Asked.from_texts(instructions, target.encoder)
    if temperature:
        values: Any = getattr(policy, "values", None)
        if values is None:
            raise InputError("temperature: this policy chooses without values; leave it out to judge what it does")
        behind = np.full((len(instructions), len(target.items)), -np.inf)
        behind[:, target.menu] = values(asked)[:, target.menu].cpu().numpy()
        weights = boltzmann_weights(behind, temperature)
        return weights / weights.sum(1, keepdims=True)
    if isinstance(policy, Policy):
        return policy.act(asked, target.menu)
    written = policy.write(asked, target.menu)
    named = ItemFinder(target.items)(written)
    if len(answers) == len(target.items):
        return named
    exact = _exact(target.items)
    return np.array([exact.get(text, answers.get(f"\0{text}", -1)) for text in written])


def _features(target: TextPolicy, answers: list[str]) -> np.ndarray:
    """psi (M, F) of all answers: an item's attributes or text; for a text those of the item that it names, and zeros
    where it names none; what a policy that explores writes is often no text that the encoder would read.
    """
    items = target.items
    known, _ = item_features(items, "auto", lambda: target.encoder.encode([item.text for item in items]))
    features = _reduced(known.astype(np.float32), COMPONENTS["answer"])
    named = ItemFinder(items)([answer.partition("\0")[2] for answer in answers[len(items) :]])
    return np.concatenate([features, np.where(named[:, None] >= 0, features[named], 0.0)])


def _reduced(vectors: np.ndarray, count: int) -> np.ndarray:
    """The first principal components of vectors (n, D), and a constant: (n, at most count + 1)."""
    mean, basis = principal_components(vectors, count)
    return np.concatenate([(vectors - mean) @ basis, np.ones((len(vectors), 1), dtype=np.float32)], axis=1)
