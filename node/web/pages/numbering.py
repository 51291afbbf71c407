"""Slices counted from the head, as the comparison counts them; told from the chunks alone."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from indexer.catalog.embeddings import StoredChunk
from indexer.uids import SliceRef
from node.web.pages.words import DASH


def numbers_of(chunks: Sequence[StoredChunk]) -> dict[SliceRef, int]:
    """Number the slices of some series from 1.

    Parameters
    ----------
    chunks : sequence of StoredChunk
        All of these series, each series' ordered by volume and z.
    """
    found: dict[SliceRef, int] = {}
    for _, of_volume in groupby(chunks, key=lambda chunk: (chunk.series_pk, chunk.volume)):
        for number, ref in enumerate(_from_the_head(list(of_volume)), start=1):
            found.setdefault(ref, number)
    return found


def span(slices: Sequence[SliceRef], numbers: Mapping[SliceRef, int]) -> str:
    """First and last number of some slices."""
    known = [numbers[ref] for ref in slices if ref in numbers]
    if not known:
        return f"{len(slices)} slices"
    return f"{min(known)}{DASH}{max(known)}" if len(known) > 1 else str(known[0])


def _from_the_head(chunks: Sequence[StoredChunk]) -> list[SliceRef]:
    """Put the slices of one volume in order; chunks go up, the slices within each up or down."""
    upwards = _joined([chunk.slices for chunk in chunks])
    downwards = _joined([chunk.slices for chunk in reversed(chunks)])
    return upwards[::-1] if _is_in_order(chunks, upwards) else downwards


def _joined(parts: Sequence[Sequence[SliceRef]]) -> list[SliceRef]:
    return list(dict.fromkeys(ref for part in parts for ref in part))


def _is_in_order(chunks: Sequence[StoredChunk], ordered: Sequence[SliceRef]) -> bool:
    places = {ref: place for place, ref in enumerate(ordered)}
    runs = [[places[ref] for ref in chunk.slices] for chunk in chunks]
    return all(run == sorted(run) for run in runs)
