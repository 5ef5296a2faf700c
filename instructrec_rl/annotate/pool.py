"""What annotators may be asked about: instructions of one split, each with a few candidate responses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from instructrec_rl.annotate.limits import MAX_TEXT_BYTES, fits
from instructrec_rl.core import InputError
from instructrec_rl.core.files import read_jsonl
from instructrec_rl.env.environment import Environment
from instructrec_rl.policies.saved import TextPolicy

NEIGHBOURS = 2  # candidates an instruction has from its nearest items; the policy adds its own, chance the rest
CELLS = 8_000_000  # of an (instructions, items) table that is held at once


@dataclass(frozen=True)
class Pool:
    """P instructions, R distinct responses, and C candidates an instruction.

    instruction_vectors (P, D) and response_vectors (R, D) float32 of length 1; candidates (P, C) positions in
    `responses`; from_policy (P, C) whether the policy of the run gave it; left_out: how many instructions and responses
    are not asked about, as the answer would be too long to be saved.
    """

    instructions: list[str]
    responses: list[str]
    instruction_vectors: np.ndarray
    response_vectors: np.ndarray
    candidates: np.ndarray
    from_policy: np.ndarray
    left_out: int = 0


def make_pool(
    env: Environment,
    policies: list[TextPolicy],
    run: Path | None,
    split: str,
    size: int,
    num_candidates: int,
    seed: int,
) -> Pool:
    """Draw `size` instructions of a split and give each its candidates: the policies' answers, its nearest items, and
    items at random. The draw and the random items follow from the seed. Raises InputError where all are too long.
    """
    # draw the instructions
    rng = np.random.default_rng(seed)
    rows = env.spec.rows(split)
    drawn = list(dict.fromkeys(env.instructions[rng.permutation(rows)]))[:size]
    instructions = [text for text in drawn if fits(text)]
    menu = env.spec.menu(split)
    every = [env.items[i].text for i in menu]
    items = [text for text in every if fits(text)]
    if not instructions or not items:
        what = "response" if instructions else "instruction"
        raise InputError(f"{env.spec.name}: every {what} is longer than the {MAX_TEXT_BYTES:,} bytes that can be saved")
    # let the policies answer
    given = [policy.act(instructions) for policy in policies]
    if run is not None:
        given.append(_samples(run, instructions))
    answers, too_long = _answers(given, len(instructions))
    left_out = len(drawn) - len(instructions) + len(every) - len(items) + too_long
    # number all responses
    responses = list(dict.fromkeys([*items, *(text for texts in answers for text in texts)]))
    position = {text: i for i, text in enumerate(responses)}
    answered = [[position[text] for text in dict.fromkeys(texts)] for texts in answers]
    # choose each instruction's candidates
    vectors = env.encoder.encode(instructions), env.encoder.encode(responses)
    offered = np.array([position[text] for text in dict.fromkeys(items)])
    candidates, from_policy = _candidates(*vectors, offered, answered, num_candidates, rng)
    return Pool(instructions, responses, *vectors, candidates, from_policy, left_out)


def _answers(given: list[list[str]], rows: int) -> tuple[list[list[str]], int]:
    """The policies' answers to each instruction, and how many more there are that are too long."""
    every = [[answer for answer in each if answer] for each in zip(*given)] if given else [[]] * rows
    answers = [[answer for answer in each if fits(answer)] for each in every]
    return answers, sum(map(len, every)) - sum(map(len, answers))


def _samples(run: Path, instructions: list[str]) -> list[str]:
    """The responses of a run's samples.jsonl to these instructions; an empty text where it has none."""
    path = run / "samples.jsonl"
    if not path.is_file():
        return [""] * len(instructions)
    known = {}
    for line, record in read_jsonl(path):
        if not isinstance(record.get("instruction"), str) or not isinstance(record.get("response"), str):
            raise InputError("expected an instruction and a response", path, line)
        known[record["instruction"]] = record["response"]
    return [known.get(instruction, "") for instruction in instructions]


def _candidates(
    asked: np.ndarray,
    vectors: np.ndarray,
    offered: np.ndarray,
    own: list[list[int]],
    width: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """(P, C) positions of responses, the policy's first, then the nearest items, then random ones; and which are the
    policy's. `offered` are the items that may be drawn.
    """
    width = min(width, len(offered))
    own = [each[:width] for each in own]
    candidates = np.empty((len(asked), width), np.int64)
    step = max(1, CELLS // len(vectors))
    for start in range(0, len(asked), step):
        part = slice(start, start + step)
        # what comes first has the lowest number: the policy's below 0, the nearest below 1, chance above
        order = np.full((len(asked[part]), len(vectors)), np.inf)
        order[:, offered] = 1 + rng.random((len(order), len(offered)))
        near = asked[part] @ vectors[offered].T
        nearest = offered[np.argsort(-near, axis=1)[:, :NEIGHBOURS]]
        np.put_along_axis(order, nearest, 0.5, axis=1)
        mine = [(i, position) for i, each in enumerate(own[part]) for position in each]
        if mine:
            order[tuple(np.transpose(mine))] = -1
        candidates[part] = np.argsort(order, axis=1)[:, :width]
    from_policy = np.arange(width) < np.array([len(each) for each in own])[:, None]
    return candidates, from_policy
