"""The likeliest item of a catalog under a language model, exactly, without scoring every item's every token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from instructrec_rl.policies.language.generate import Ids


class ItemTree:
    """The items' token sequences as a prefix tree, searched by branch and bound.

    log p(item) is a sum of terms that are not positive, so a prefix can only lose. A first descent that always takes
    the likeliest child gives each instruction a bound; the second follows every prefix that is still above it.
    """

    def __init__(self, sequences: Sequence[Ids]):
        self.children: list[dict[int, int]] = [{}]
        self.item: list[int] = [-1]
        for position, ids in enumerate(sequences):
            node = 0
            for token in ids:
                if token not in self.children[node]:
                    self.children[node][token] = len(self.children)
                    self.children.append({})
                    self.item.append(-1)
                node = self.children[node][token]
            if self.item[node] < 0:  # two items with one text: the first
                self.item[node] = position

    def likeliest(self, model: PreTrainedModel, prompts: tuple[Tensor, Tensor]) -> np.ndarray:
        """Positions (B,) of the items with the highest log-probability after each of B prompts (padded left)."""
        with torch.inference_mode():
            model.eval()
            bound, found = self._descend(model, prompts, None)
            higher, better = self._descend(model, prompts, bound)
        return np.where(higher > bound, better, found)

    def _descend(
        self, model: PreTrainedModel, prompts: tuple[Tensor, Tensor], bound: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(log-probability, item) of the best leaf found for each prompt: greedily, or above `bound`."""
        size = len(prompts[0])
        best, leaves = np.full(size, -np.inf), np.full(size, -1)
        cache = DynamicCache(config=model.config)
        ids, mask = prompts
        rows, nodes, scores = np.arange(size), np.zeros(size, dtype=np.int64), np.zeros(size)
        while len(rows):
            # score the next tokens
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            )
            logprobs = output.logits[:, -1].float().log_softmax(-1).cpu().numpy()
            # step to the children, and keep those that may win
            parents, tokens, nodes = self._expand(nodes)
            scores = scores[parents] + logprobs[parents, tokens]
            of = rows[parents]
            kept = _firsts(of, scores) if bound is None else np.flatnonzero(scores > bound[of])
            parents, tokens, nodes, scores, rows = parents[kept], tokens[kept], nodes[kept], scores[kept], of[kept]
            # remember the leaves
            for k in np.flatnonzero(np.array([self.item[node] >= 0 for node in nodes], dtype=bool)):
                if scores[k] > best[rows[k]]:
                    best[rows[k]], leaves[rows[k]] = scores[k], self.item[nodes[k]]
            # go on with the others
            inner = np.array([bool(self.children[node]) for node in nodes], dtype=bool)
            parents, tokens, nodes, scores, rows = (a[inner] for a in (parents, tokens, nodes, scores, rows))
            if len(rows):
                which = torch.from_numpy(parents).to(ids.device)
                cache.batch_select_indices(which)
                ids = torch.from_numpy(tokens).to(ids.device)[:, None]
                mask = torch.cat([mask[which], torch.ones_like(ids)], 1)
        return best, leaves

    def _expand(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every child of some nodes: the position of its parent among them, its token, and the child."""
        steps = [(i, token, child) for i, node in enumerate(nodes) for token, child in self.children[node].items()]
        parents, tokens, children = np.array(steps, dtype=np.int64).T
        return parents, tokens, children


def _firsts(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The position of the highest score within each row."""
    order = np.lexsort((-scores, rows))
    return order[np.r_[True, rows[order][1:] != rows[order][:-1]]]
