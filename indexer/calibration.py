"""What a score means in this archive: how alike unrelated series are, and how near the nearest of them.

A cosine of 0.4 may be much in one archive, modality or encoder and little in another. The archive says so itself:
a sample of its series, one a patient, is compared pair by pair.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from indexer.alignment import align_all
from indexer.catalog.embeddings import EmbeddingSequence
from indexer.catalog.lookup import SeriesInfo

MOST_REFERENCES = 64
"""Series of one modality that stand for all: 4,032 pairs."""
LEAST_PATIENTS = 8
"""Fewer say nothing about what is usual: then scores are shown as they are."""
UNUSUAL_SHARE = 0.05
"""A query is unusual if no more than this share of the archive's own series are as far from all others."""
_HIGHEST = 0.999999
"""Scores nearer to 1 are cut, where Fisher's transformation has no end."""
_LEAST_SPREAD = 1e-6
"""Scores that differ by less are all the same but for rounding."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How scores between unrelated series are spread, after Fisher's transformation (artanh).

    Attributes
    ----------
    centre, spread : float
        Mean and standard deviation of the transformed scores.
    """

    centre: float
    spread: float

    def standing(self, score: float) -> float:
        """Standard deviations by which a score of -1 to 1 lies above what two unrelated series come to."""
        return (_transformed(score) - self.centre) / self.spread

    @staticmethod
    def similarity(standing: float) -> float:
        """Share of unrelated pairs, 0 to 1, that are less alike; 0.5 is what two unrelated series come to.

        A normal distribution of the transformed scores stands for the tail that no sample holds [1]_.

        References
        ----------
        .. [1] Fisher, On the "probable error" of a coefficient of correlation deduced from a small sample,
           Metron 1921.
        """
        return 0.5 * math.erfc(-standing / math.sqrt(2.0))


class Uncalibrated:
    """Where nothing is known about what is usual, a score of -1 to 1 is shown as 0 to 1."""

    @staticmethod
    def standing(score: float) -> float:
        """Return the score itself."""
        return score

    @staticmethod
    def similarity(standing: float) -> float:
        """Show -1 to 1 as 0 to 1."""
        return min(max((1.0 + standing) / 2.0, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Scales:
    """How the scores of whole series and of single chunks are to be read."""

    series: Scale | Uncalibrated
    chunk: Scale | Uncalibrated


@dataclass(frozen=True, eq=False)
class Background:
    """What is usual among the series of one modality.

    Attributes
    ----------
    references : tuple of (int, EmbeddingSequence)
        Series of different patients: patient key and embeddings.
    scales : Scales
        Of scores between whole series, and of single chunks in a series.
    nearest : (N,) float64
        For each reference the score of the one nearest to it, ascending.
    """

    references: tuple[tuple[int, EmbeddingSequence], ...]
    scales: Scales
    nearest: NDArray[np.float64]

    def is_unusual(self, query: NDArray[np.float32], patient_pk: int) -> bool:
        """Whether a query (Q, D) is further from the references than nearly all of these are from each other.

        A conformal test [1]_: of queries that are like the archive, `UNUSUAL_SHARE` are called unusual.

        References
        ----------
        .. [1] Vovk, Gammerman and Shafer, Algorithmic learning in a random world, Springer 2005.
        """
        others = [sequence.looks for patient, sequence in self.references if patient != patient_pk]
        best = max((one.score for one in align_all(query, others)), default=-1.0)
        as_far = int(np.searchsorted(self.nearest, best, side="right"))
        return (1 + as_far) / (1 + len(self.nearest)) <= UNUSUAL_SHARE


@dataclass(frozen=True)
class Calibration:
    """What scores mean, by modality; a modality with too few patients has no background."""

    backgrounds: Mapping[str, Background] = field(default_factory=dict)

    def scales(self, modalities: Collection[str]) -> dict[str, Scales] | None:
        """How to read the scores of some modalities side by side; None where one of them has no background."""
        if not all(modality in self.backgrounds for modality in modalities):
            return None
        return {modality: self.backgrounds[modality].scales for modality in modalities}

    def is_unusual(self, modality: str, query: NDArray[np.float32], patient_pk: int) -> bool:
        """Whether nothing in the archive is as near to a query (Q, D) as its series usually are to each other."""
        background = self.backgrounds.get(modality)
        return background is not None and background.is_unusual(query, patient_pk)


UNCALIBRATED = Scales(Uncalibrated(), Uncalibrated())


def calibrate(infos: Mapping[int, SeriesInfo], sequences: Mapping[int, EmbeddingSequence]) -> Calibration:
    """Compare series of an archive with each other.

    Parameters
    ----------
    infos, sequences : mapping
        By series key, in an order that has nothing to do with what they show; of each patient the first of a
        modality counts, and `MOST_REFERENCES` of a modality are enough.
    """
    chosen: dict[str, dict[int, EmbeddingSequence]] = {}
    for pk, sequence in sequences.items():
        of_modality = chosen.setdefault(infos[pk].modality, {})
        if len(of_modality) < MOST_REFERENCES:
            of_modality.setdefault(infos[pk].patient_pk, sequence)
    found = {modality: _background(of) for modality, of in chosen.items() if len(of) >= LEAST_PATIENTS}
    return Calibration({modality: one for modality, one in found.items() if one is not None})


def _background(by_patient: Mapping[int, EmbeddingSequence]) -> Background | None:
    looks = [sequence.looks for sequence in by_patient.values()]
    scores = np.full((len(looks), len(looks)), -np.inf)
    cosines: list[NDArray[np.float32]] = []
    for row, query in enumerate(looks):
        others = [column for column in range(len(looks)) if column != row]
        aligned = align_all(query, [looks[column] for column in others])
        scores[row, others] = [one.score for one in aligned]
        cosines += [one.cosines for one in aligned]
    series = _scale(scores[np.isfinite(scores)])
    chunk = _scale(np.concatenate(cosines))
    if series is None or chunk is None:
        return None
    return Background(tuple(by_patient.items()), Scales(series, chunk), np.sort(scores.max(axis=1)))


def _scale(scores: Sequence[float] | NDArray[np.floating]) -> Scale | None:
    """None where all scores are the same: nothing can be told apart by them."""
    transformed = np.arctanh(np.clip(np.asarray(scores, dtype=np.float64), -_HIGHEST, _HIGHEST))
    spread = float(transformed.std())
    return Scale(float(transformed.mean()), spread) if spread > _LEAST_SPREAD else None


def _transformed(score: float) -> float:
    return math.atanh(min(max(score, -_HIGHEST), _HIGHEST))
