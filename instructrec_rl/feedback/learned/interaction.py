"""What a ridge on texts cannot say: which parts of an instruction ask for which parts of a response.

    g(i, r) = w(i) . a(r),   w = SetNetwork over the instruction's clause embeddings (networks.py)

a(r) are the attributes of the item that r names, and for other responses the principal directions of their words. It is
trained on what the ridge leaves, and kept only where it predicts instructions that it never saw better than nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from instructrec_rl.core import Item
from instructrec_rl.encoders.item_features import item_features
from instructrec_rl.encoders.states import encode_states
from instructrec_rl.feedback.learned.judgements import Judgements

if TYPE_CHECKING:
    import torch

    from instructrec_rl.encoders.bert import Encoder
    from instructrec_rl.encoders.set_network import SetNetwork
    from instructrec_rl.feedback.learned.pair_features import PairFeatures

MIN_ROWS = 300  # judgements, and
MIN_INSTRUCTIONS = 50  # of as many instructions
HELD_OUT = 0.1  # share of the instructions that decide whether it helps, and how much it counts
GAIN = 0.01  # of the held-out squared error that it must take away
EPOCHS, HIDDEN, DROPOUT, LEARNING_RATE, WEIGHT_DECAY = 20, 192, 0.2, 2e-3, 2e-2
SMALLEST_BATCH, LARGEST_BATCH, BATCHES = 64, 512, 40  # rows; batches an epoch, within these bounds
DIRECTIONS = 64  # of the words of responses that are no items


class Interaction:
    """A trained g. Each text is worked out once; `predict` is then a product of two rows."""

    def __init__(self, encoder: Encoder, items: Sequence[Item], features: PairFeatures):
        self.encoder, self.features = encoder, features
        self.of_item: dict[str, np.ndarray] = {}
        self.num_attributes = 0
        if items and any(item.attributes for item in items):
            columns, _ = item_features(items, "attributes", lambda: np.zeros((len(items), 1), np.float32))
            self.of_item = {item.text: row[1:] for item, row in zip(items, columns)}
            self.num_attributes = columns.shape[1] - 1
        words = features.blocks["words"]
        self.words = slice(max(words.start, words.stop - DIRECTIONS), words.stop)  # the largest come last
        self.size = 1 + self.num_attributes + self.words.stop - self.words.start
        self.network: SetNetwork | None = None
        self.slope = 1.0
        self._asked: dict[str, np.ndarray] = {}
        self._answered: dict[str, np.ndarray] = {}

    def response_features(self, responses: Sequence[str]) -> np.ndarray:
        """a(r) of B responses, (B, F) float32: a constant, the item's attributes, else the words' directions."""
        new = list(dict.fromkeys(text for text in responses if text not in self._answered))
        if new:
            x, _ = self.features(new, new)
            for text, row in zip(new, x[:, self.words]):
                found = np.zeros(self.size, dtype=np.float32)
                found[0] = 1.0
                if text in self.of_item:
                    found[1 : 1 + self.num_attributes] = self.of_item[text]
                else:
                    found[1 + self.num_attributes :] = 3.0 * row
                self._answered[text] = found
        return np.stack([self._answered[text] for text in responses])

    def predict(self, instructions: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """g (B,) float64 of B pairs."""
        import torch

        from instructrec_rl.encoders.set_network import StateReader

        new = list(dict.fromkeys(text for text in instructions if text not in self._asked))
        if new and self.network is not None:
            self.network.eval()
            read = StateReader(encode_states(new, self.encoder, "clauses"), torch.device("cpu"))
            with torch.inference_mode():
                for start in range(0, len(new), 4096):
                    part = np.arange(start, min(start + 4096, len(new)))
                    for i, row in zip(part, self.network(read(part)).numpy()):
                        self._asked[new[i]] = row
        weights = np.stack([self._asked[text] for text in instructions])
        return self.slope * (weights * self.response_features(responses)).sum(1, dtype=np.float64)


def learn(
    judged: Judgements,
    residual: np.ndarray,
    weight: np.ndarray,
    encoder: Encoder,
    items: Sequence[Item],
    features: PairFeatures,
    always: bool = False,
    seed: int = 0,
) -> Interaction | None:
    """Fit g to what is left of each judgement, (R + C,), with weights (R + C,); None where it does not help.

    always: skip the question whether it helps (and the minimum of data).
    """
    # see whether there is enough
    groups = judged.groups
    distinct = np.unique(groups)
    if not always and (len(residual) < MIN_ROWS or len(distinct) < MIN_INSTRUCTIONS):
        return None
    # train on most instructions
    rng = np.random.default_rng(seed)
    held = np.zeros(int(distinct.max()) + 1, dtype=bool)
    held[rng.choice(distinct, max(1, int(HELD_OUT * len(distinct))), replace=False)] = True
    row_group = np.concatenate([groups[judged.pair], groups[judged.better]])
    data = _Data(judged, residual, weight, encoder, Interaction(encoder, items, features))
    test = np.flatnonzero(held[row_group])
    network = _train(data, np.flatnonzero(~held[row_group]), seed)
    # keep it where it predicts the others
    goal, predicted, sure = data.target[test], data.predict(network, test), data.weight[test] + 1e-9
    # the network's spread is that of noisy judgements fitted; the slope on unseen instructions says how much is true
    slope = float(np.clip((sure * goal * predicted).sum() / max(float((sure * predicted**2).sum()), 1e-9), 0, 1))
    taken = 1 - float((sure * (goal - slope * predicted) ** 2).sum() / (sure * goal**2).sum())
    if not always and taken < GAIN:
        return None
    data.model.network, data.model.slope = network, slope
    return data.model


class _Data:
    """Rows of training: a judgement is one pair with sign 1, a comparison also its worse pair with sign -1."""

    def __init__(
        self, judged: Judgements, residual: np.ndarray, weight: np.ndarray, encoder: Encoder, model: Interaction
    ):
        import torch

        from instructrec_rl.encoders.set_network import StateReader

        self.model = model
        asked, which = np.unique(np.asarray(judged.instructions, dtype=object), return_inverse=True)
        self.read = StateReader(encode_states(list(asked), encoder, "clauses"), torch.device("cpu"))
        first = np.concatenate([judged.pair, judged.better])
        self.row = which[first]
        x = model.response_features(judged.responses)
        self.answers = x[first]
        self.answers[len(judged.pair) :] -= x[judged.worse]
        self.target, self.weight = residual.astype(np.float32), weight.astype(np.float32)

    def outputs(self, network: SetNetwork, rows: np.ndarray) -> torch.Tensor:
        import torch

        asked, place = np.unique(self.row[rows], return_inverse=True)
        weights = network(self.read(asked)).float()[torch.from_numpy(place)]
        return (weights * torch.from_numpy(self.answers[rows])).sum(1)

    def predict(self, network: SetNetwork, rows: np.ndarray) -> np.ndarray:
        """The outputs (n,) for some rows."""
        import torch

        network.eval()
        with torch.inference_mode():
            parts = [self.outputs(network, rows[i : i + 4096]).numpy() for i in range(0, len(rows), 4096)]
        return np.concatenate(parts)


def _train(data: _Data, rows: np.ndarray, seed: int) -> SetNetwork:
    """A network trained on some rows, the learning rate falling linearly to zero."""
    import torch

    from instructrec_rl.core.hardware import pick_device
    from instructrec_rl.encoders.set_network import SetNetwork

    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay as they are
        torch.manual_seed(seed)
        network = SetNetwork(data.model.encoder.dim, HIDDEN, data.model.size, DROPOUT)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
        batches = max(1, len(rows) // int(np.clip(len(rows) // BATCHES, SMALLEST_BATCH, LARGEST_BATCH)))
        network.train()
        for epoch in range(EPOCHS):
            for number, batch in enumerate(np.array_split(rng.permutation(rows), batches)):
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE * (1 - (epoch + number / batches) / EPOCHS)
                goal, weight = torch.from_numpy(data.target[batch]), torch.from_numpy(data.weight[batch])
                with torch.autocast("cpu", torch.bfloat16, enabled=pick_device("cpu")[1]):
                    output = data.outputs(network, batch)
                loss = (weight * (output - goal) ** 2).sum() / weight.sum().clamp(min=1e-6)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
    return network
