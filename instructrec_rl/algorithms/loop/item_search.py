"""Which items of a menu have the highest Q(s, a) = w(s) . x(a): by every product, or by an index for large catalogs.

The index is faiss's: product-quantised codes of all items are scanned (4 bits for every 4 numbers), and the best
`RERANKED` are compared again by their true inner products. Nothing is left out by a graph or by cells, so instructions
unlike the items, as w(s) always is, are found as well. It is built from x, which training does not change, in the
order of a second for 100,000 items, and is never written to disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from instructrec_rl.algorithms.loop.exploration import boltzmann_propensity, boltzmann_weights
from instructrec_rl.core import InputError

if TYPE_CHECKING:
    from torch import Tensor

LARGE_CATALOG = 20_000  # items from which `auto` takes the index
FEWEST_CODED = 4_096  # items under which the index keeps no codes: it compares them all
NUMBERS_A_CODE = 4
RERANKED = 1_024
KEPT_MENUS = 8  # an environment has one, and one more for each split with items of its own
CANDIDATES = 256  # items that exploration by the index weighs, the best ones


class Search(Protocol):
    """A menu's items, ready to be searched by w (B, F)."""

    def best(self, weights: Tensor) -> np.ndarray:
        """The item with the highest Q, (B,) int64, positions in the catalog."""
        ...

    def value_of_best(self, online: Tensor, target: Tensor) -> Tensor:
        """What `target` (B, F) gives the item that is best by `online` (B, F): (B,), the bootstrap of double DQN."""
        ...

    def explore(
        self, weights: Tensor, temperature: float, epsilon: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw an item for each of B instructions: items (B,), and the probability (B,) that each draw had."""
        ...


class ItemSearch:
    """Searches over one catalog's features (A, F), one for each menu, made when first asked for.

    kind: `exact`, `index`, or `auto`: the index from `LARGE_CATALOG` items on. Raises InputError where the index is
    wanted and its package is not installed.
    """

    def __init__(self, features: Tensor, kind: str):
        large = len(features) >= LARGE_CATALOG
        self.kind = ("index" if large else "exact") if kind == "auto" else kind
        if self.kind == "index":
            _faiss(len(features))
        self.features = features
        self._made: list[tuple[np.ndarray, Search]] = []

    def on(self, menu: np.ndarray) -> Search:
        """The search over a menu, positions in the catalog (M,)."""
        for known, search in self._made:
            if known is menu or np.array_equal(known, menu):
                return search
        made: Search = (IndexSearch if self.kind == "index" else ExactSearch)(self.features, menu)
        self._made = [*self._made[1 - KEPT_MENUS :], (menu, made)]
        return made


class ExactSearch:
    """Every product. Exploration is Boltzmann over the whole menu, with a uniform share epsilon."""

    def __init__(self, features: Tensor, menu: np.ndarray):
        self.features, self.menu = features, menu

    def best(self, weights: Tensor) -> np.ndarray:
        """See `Search.best`."""
        return self.menu[(weights @ self.features.T)[:, self.menu].argmax(1).cpu().numpy()]

    def value_of_best(self, online: Tensor, target: Tensor) -> Tensor:
        """See `Search.value_of_best`."""
        offered = self.features[self.menu]
        return (target @ offered.T).gather(1, (online @ offered.T).argmax(1, keepdim=True))[:, 0]

    def explore(
        self, weights: Tensor, temperature: float, epsilon: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Search.explore`."""
        scaled = (weights @ self.features.T).cpu().numpy()[:, self.menu] / temperature
        # argmax of Q / T + Gumbel noise is a draw from the Boltzmann distribution
        chosen = (scaled + rng.gumbel(size=scaled.shape)).argmax(1)
        at_random = rng.random(len(chosen)) < epsilon
        chosen = np.where(at_random, rng.integers(len(self.menu), size=len(chosen)), chosen)
        return self.menu[chosen], boltzmann_propensity(scaled, chosen, epsilon)


class IndexSearch:
    """The index. Exploration is Boltzmann over the `CANDIDATES` best, with a uniform share epsilon over the menu.

    Over a whole large menu Boltzmann's share of the good items vanishes among so many middling ones.
    """

    def __init__(self, features: Tensor, menu: np.ndarray):
        self.features, self.menu = features, menu
        self._index = _build(features[menu].cpu().numpy())

    def best(self, weights: Tensor) -> np.ndarray:
        """See `Search.best`."""
        return self.menu[self._top(weights, 1)[1][:, 0]]

    def value_of_best(self, online: Tensor, target: Tensor) -> Tensor:
        """See `Search.value_of_best`."""
        return (target * self.features[self.best(online)]).sum(1)

    def explore(
        self, weights: Tensor, temperature: float, epsilon: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Search.explore`. An item that may be drawn in both ways has the sum of their probabilities."""
        values, found = self._top(weights, min(CANDIDATES, len(self.menu)))
        scaled = values / temperature
        drawn = found[np.arange(len(found)), (scaled + rng.gumbel(size=scaled.shape)).argmax(1)]
        at_random = rng.random(len(drawn)) < epsilon
        chosen = np.where(at_random, rng.integers(len(self.menu), size=len(drawn)), drawn)
        shares = boltzmann_weights(scaled)
        among = (shares * (found == chosen[:, None])).sum(1) / shares.sum(1)
        return self.menu[chosen], (1 - epsilon) * among + epsilon / len(self.menu)

    def _top(self, weights: Tensor, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The products and the positions on the menu, (B, number), the highest first."""
        queries = _padded(weights.cpu().numpy())
        if hasattr(self._index, "k_factor"):
            self._index.k_factor = max(1.0, RERANKED / number)
        values, found = self._index.search(queries, number)
        lost = found[:, 0] < 0  # faiss finds nothing for w(s) = 0, as it is before learning: every item is as good
        if lost.any():
            queries[lost] = np.eye(1, queries.shape[1])  # the constant column: all the same
            values[lost], found[lost] = 0.0, self._index.search(queries[lost], number)[1]
        return values, found


def _faiss(num_items: int) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            f"searching a catalog of {num_items:,} items by an index needs the extra: "
            "pip install 'instructrec-rl[scale]' (algo.item_search=exact needs nothing more, and takes longer)"
        ) from error
    return faiss


def _build(vectors: np.ndarray) -> Any:
    """An inner-product index of vectors (M, F) float32."""
    faiss, vectors = _faiss(len(vectors)), _padded(vectors)
    size = vectors.shape[1]
    codes = f"PQ{size // NUMBERS_A_CODE}x4fs,RFlat" if len(vectors) >= FEWEST_CODED else "Flat"
    index = faiss.index_factory(size, codes, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)  # k-means from a fixed seed: the same vectors give the same index
    index.add(vectors)
    return index


def _padded(vectors: np.ndarray) -> np.ndarray:
    """Zeros to the next multiple of `NUMBERS_A_CODE` numbers; no inner product changes."""
    missing = -vectors.shape[1] % NUMBERS_A_CODE
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, missing))), dtype=np.float32)
