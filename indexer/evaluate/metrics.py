"""Figures of one ranking, exact under ties: items of equal similarity count in every order, averaged.

An embedding that says nothing ties everything, and the order that a table or a sort leaves behind must not speak
for it.
With all similarities equal the figures are therefore those of a random order, in closed form [1]_.

References
----------
.. [1] McSherry and Najork, Computing information retrieval performance measures efficiently in the presence of tied
   scores, ECIR 2008.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AP, CROSS_BRANCH = "AP", "cross-branch error"
_DECIMALS = 6
"""Similarities that agree to so many decimals are equal: what is left is rounding."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What a gallery of G items is worth to one query.

    Attributes
    ----------
    relevant : (G,) bool
        Shares a label with the query.
    gains : (G,) float64
        Not negative; the graded worth that nDCG adds up.
    same_branch : (G,) bool
        Shares the top branch of a label with the query.
    """

    relevant: NDArray[np.bool_]
    gains: NDArray[np.float64]
    same_branch: NDArray[np.bool_]


def names(cutoffs: Sequence[int], *, hierarchical: bool) -> tuple[str, ...]:
    """Name the figures that `figures` returns, in its order."""
    at = [f"{name}@{k}" for name in ("P", "R", "nDCG") for k in cutoffs]
    return (AP, *at, *([CROSS_BRANCH] if hierarchical else []))


def figures(
    similarities: NDArray[np.float64], judged: Judged, cutoffs: Sequence[int], *, hierarchical: bool
) -> NDArray[np.float64]:
    """Measure the ranking of a gallery by falling similarity.

    Parameters
    ----------
    similarities : (G,) float64
        Of the gallery's items to the query; G at least 1.
    judged : Judged
        At least one item is relevant.

    Returns
    -------
    (M,) float64
        In the order of `names`. Average precision divides by all relevant items of the gallery; P@k divides by k,
        R@k by all relevant items; nDCG@k discounts linear gains by log2(rank + 1) and divides by the best order's.
        Each is the mean over all orders of tied items.
    """
    ties = _ties(similarities)
    relevant = judged.relevant[ties.order].astype(np.float64)
    expected = _averaged(relevant, ties)
    total = relevant.sum()
    reached = np.cumsum(expected)
    at = [reached[min(k, len(reached)) - 1] for k in cutoffs]
    found = [_average_precision(relevant, ties) / total]
    found += [hits / k for hits, k in zip(at, cutoffs, strict=True)]
    found += [hits / total for hits in at]
    gained = _averaged(judged.gains[ties.order], ties)
    found += [_dcg(gained, k) / _dcg(np.sort(judged.gains)[::-1], k) for k in cutoffs]
    if hierarchical:
        same = _averaged(judged.same_branch[ties.order].astype(np.float64), ties)
        found.append(1 - same[0])
    return np.asarray(found)


@dataclass(frozen=True, eq=False)
class _Ties:
    """A ranking of G items in groups of equal similarity; arrays (G,) say of each rank where its group lies."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    group: NDArray[np.int64]


def _ties(similarities: NDArray[np.float64]) -> _Ties:
    values = np.round(similarities, _DECIMALS)
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    is_first = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    group = np.cumsum(is_first) - 1
    starts = np.flatnonzero(is_first)
    sizes = np.diff(np.append(starts, len(order)))
    return _Ties(order, starts[group], sizes[group], group)


def _averaged(ranked: NDArray[np.float64], ties: _Ties) -> NDArray[np.float64]:
    """Mean value of each rank over all orders of the ties, (G,)."""
    sums = np.bincount(ties.group, weights=ranked)
    return np.asarray(sums[ties.group] / ties.sizes)


def _average_precision(relevant: NDArray[np.float64], ties: _Ties) -> float:
    """Expected sum of the precision at the rank of every relevant item.

    Within a group of n items, r of them relevant, an item stands at place i with probability 1/n, and if it is a
    relevant one, (i - 1) (r - 1) / (n - 1) other relevant ones of the group are expected before it.
    """
    ranks = np.arange(len(relevant))
    in_group = np.bincount(ties.group, weights=relevant)[ties.group]
    before = np.concatenate([[0.0], np.cumsum(relevant)])[ties.starts]
    place = ranks - ties.starts
    others = place * (in_group - 1) / np.maximum(ties.sizes - 1, 1)
    precision = (before + others + 1) / (ranks + 1)
    return float((in_group / ties.sizes * precision).sum())


def _dcg(gains: NDArray[np.float64], k: int) -> float:
    top = gains[:k]
    return float((top / np.log2(np.arange(len(top)) + 2)).sum())
