"""From embeddings to similarities, as the node's search computes them; with or without what a patient taught."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from indexer.alignment import align
from indexer.evaluate.protocol import Similarities

Rows = NDArray[np.float32]
"""Vectors of one volume's chunks, (n, D), ordered along z; what `indexer.alignment.align` compares."""
Evidence = tuple[tuple[Rows, ...], ...]
"""What is known of an item: its series, of each its volumes, of each its chunks."""


def similarities_of(evidence: Sequence[Evidence]) -> Similarities:
    """Compare items as the node's search does: late interaction of ordered chunks, best volume, best series.

    Parameters
    ----------
    evidence : sequence of Evidence
        Of N items; unit vectors.

    Returns
    -------
    callable
        Query to (N,) mean cosine over the query's series of what fits each best; all modalities are compared.
    """
    single = all(len(one) == len(one[0]) == len(one[0][0]) == 1 for one in evidence)
    if single and len({one[0][0].shape[1] for one in evidence}) == 1:
        vectors = np.concatenate([one[0][0] for one in evidence]).astype(np.float64)
        return lambda query: vectors @ vectors[query]
    return lambda query: np.array([_score(evidence[query], found) for found in evidence])


def leaving_out(
    patients: Sequence[str], fitted_without: Callable[[frozenset[str]], Sequence[Evidence]], folds: int
) -> Similarities:
    """Answer every query with embeddings that its patient had no part in.

    Parameters
    ----------
    patients : sequence of str
        Of N items.
    fitted_without : callable
        Patients to leave out of the fit, to the evidence of all N items.
    folds : int
        Where there are more patients than this, so many groups of them are left out in turn.
    """
    names = np.unique(np.asarray(patients))
    groups = [frozenset(part.tolist()) for part in np.array_split(names, min(folds, len(names)))]
    group_of = {name: group for group in groups for name in group}
    held: dict[frozenset[str], Similarities] = {}

    def answer(query: int) -> NDArray[np.float64]:
        group = group_of[patients[query]]
        if group not in held:
            held.clear()  # questions come patient by patient
            held[group] = similarities_of(fitted_without(group))
        return held[group](query)

    return answer


def leaving_both_out(
    patients: Sequence[str],
    modalities: Sequence[frozenset[str]],
    fitted_without: Callable[[frozenset[str], Sequence[int]], Sequence[Evidence]],
) -> Similarities:
    """Compare every two patients' items by embeddings that neither of them had a part in.

    Parameters
    ----------
    patients, modalities : sequence
        Of N items.
    fitted_without : callable
        The two patients and the items to embed, by index, to the evidence of these; called once for every pair of
        `pairs_of`, when the first query is answered.

    Returns
    -------
    callable
        Query to (N,); NaN for items of its own patient and of those that share no modality with its patient.
    """

    @cache
    def table() -> NDArray[np.float64]:
        found = np.full((len(patients), len(patients)), np.nan)
        for pair in pairs_of(patients, modalities):
            own, others = ([n for n, patient in enumerate(patients) if patient == name] for name in pair)
            similarities = similarities_of(fitted_without(frozenset(pair), [*own, *others]))
            near = np.stack([similarities(row) for row in range(len(own) + len(others))])
            found[np.ix_(own, others)] = near[: len(own), len(own) :]
            found[np.ix_(others, own)] = near[len(own) :, : len(own)]
        return found

    return lambda query: table()[query]


def pairs_of(patients: Sequence[str], modalities: Sequence[frozenset[str]]) -> list[tuple[str, str]]:
    """Every two patients of N items who share a modality, so that items of one may answer the other's."""
    seen: dict[str, frozenset[str]] = {}
    for patient, own in zip(patients, modalities, strict=True):
        seen[patient] = seen.get(patient, frozenset()) | own
    return [(one, other) for one, other in combinations(sorted(seen), 2) if seen[one] & seen[other]]


def _score(query: Evidence, found: Evidence) -> float:
    return float(np.mean([max(_best_volume(series, other) for other in found) for series in query]))


def _best_volume(query: tuple[Rows, ...], found: tuple[Rows, ...]) -> float:
    chunks = np.concatenate(query)
    return max(align(chunks, volume).score for volume in found)
