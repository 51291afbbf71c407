"""Means with intervals: macro over labels, micro over queries, and the bootstrap that resamples patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.evaluate.protocol import Measured


@dataclass(frozen=True)
class Estimate:
    """A mean and its percentile interval; None where nothing was measured.

    Where all queries come from one patient there is no interval: nothing can be resampled.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class Replicates:
    """A mean as measured and under every resampling.

    Attributes
    ----------
    value : (M,) float64
        One of each figure; NaN where nothing was measured.
    drawn : (B, M) float64
        The same with patients drawn anew; NaN where none of those drawn asked.
    patients : int
        How many patients asked.
    """

    value: NDArray[np.float64]
    drawn: NDArray[np.float64]
    patients: int

    def estimates(self, confidence: float) -> list[Estimate]:
        """Percentile interval of every figure (Efron and Tibshirani, An introduction to the bootstrap, ch. 13)."""
        return [
            _estimate(float(value), drawn, self.patients, confidence)
            for value, drawn in zip(self.value, self.drawn.T, strict=True)
        ]

    def minus(self, other: "Replicates") -> "Replicates":
        """Difference under the same resamplings: the interval of a comparison, not of its two sides."""
        return Replicates(self.value - other.value, self.drawn - other.drawn, min(self.patients, other.patients))


class Bootstrap:
    """Resamples patients with replacement; all their queries come along. Galleries stay as they are.

    Parameters
    ----------
    patients : sequence of str
        Patient of every item.
    asking : (Q,) int64
        The items that ask: only their patients are drawn.
    resamples : int
        B.
    """

    def __init__(self, patients: Sequence[str], asking: NDArray[np.int64], *, resamples: int, seed: int) -> None:
        keys = np.asarray(patients)
        drawable, drawn_from = np.unique(keys[asking], return_inverse=True)
        self._patient_of = np.full(len(keys), -1, dtype=np.int64)
        self._patient_of[asking] = drawn_from
        count = len(drawable)
        generator = np.random.default_rng(seed)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
        self._weights = np.concatenate([np.ones((1, count)), weights.astype(np.float64)])

    def micro(self, measured: Measured, chosen: NDArray[np.bool_] | None = None) -> Replicates:
        """Mean over queries, or over the chosen ones (Q,)."""
        rows = np.arange(len(measured.queries)) if chosen is None else np.flatnonzero(chosen)
        patients = self._patient_of[measured.queries[rows]]
        sums, counts = self._sums(measured.figures[rows], patients)
        return self._replicates(_ratio(self._weights @ sums, (self._weights @ counts)[:, None]), patients)

    def of_label(self, measured: Measured, label: int) -> Replicates:
        """Mean over the queries with one label, under that label."""
        rows = measured.label_of == label
        patients = self._patient_of[measured.label_queries[rows]]
        return self._replicates(self._label_means(measured, label), patients)

    def macro(self, measured: Measured) -> Replicates:
        """Mean over labels of the mean over the queries with it; labels that nobody drawn has are left out."""
        total = np.zeros((len(self._weights), measured.label_figures.shape[1]))
        present = np.zeros((len(self._weights), 1))
        for label in np.unique(measured.label_of).tolist():
            means = self._label_means(measured, label)
            asked = ~np.isnan(means).any(axis=1, keepdims=True)
            total += np.where(asked, means, 0.0)
            present += asked
        return self._replicates(_ratio(total, present), self._patient_of[measured.label_queries])

    def _label_means(self, measured: Measured, label: int) -> NDArray[np.float64]:
        rows = measured.label_of == label
        patients = self._patient_of[measured.label_queries[rows]]
        sums, counts = self._sums(measured.label_figures[rows], patients)
        return _ratio(self._weights @ sums, (self._weights @ counts)[:, None])

    def _sums(
        self, figures: NDArray[np.float64], patients: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum of figures (P, M) and number of queries (P,) of each patient."""
        count = self._weights.shape[1]
        sums = np.zeros((count, figures.shape[1]))
        np.add.at(sums, patients, figures)
        return sums, np.bincount(patients, minlength=count).astype(np.float64)

    def _replicates(self, means: NDArray[np.float64], patients: NDArray[np.int64]) -> Replicates:
        return Replicates(means[0], means[1:], len(np.unique(patients)))


def _ratio(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(count > 0, total / np.maximum(count, 1e-300), np.nan)


def _estimate(value: float, drawn: NDArray[np.float64], patients: int, confidence: float) -> Estimate:
    if np.isnan(value):
        return Estimate(None)
    known = drawn[~np.isnan(drawn)]
    if patients < 2 or not known.size:
        return Estimate(value)
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))
