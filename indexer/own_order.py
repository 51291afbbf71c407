"""In which order an answer names the query's own patient's studies."""

from collections.abc import Sequence
from dataclasses import replace

from indexer.answer import Relation, StudyHit
from indexer.catalog import Lookup
from indexer.catalog.dates import study_dates


def own_newest_first(lookup: Lookup, hits: Sequence[StudyHit], limit: int) -> list[StudyHit]:
    """Rank the patient's own studies as a reader looks for them: the latest first, of one day the best first.

    Analogues stay before them; priors come before duplicates. The newest `limit` stay, so that a longer list begins
    with the shorter one.
    """
    own = [hit for hit in hits if hit.relation is not Relation.ANALOGUE]
    dates = study_dates(lookup, {hit.study_instance_uid for hit in own})
    own.sort(key=lambda hit: (dates[hit.study_instance_uid], hit.similarity), reverse=True)
    own.sort(key=lambda hit: hit.relation is Relation.DUPLICATE)
    analogues = [hit for hit in hits if hit.relation is Relation.ANALOGUE]
    return [replace(hit, rank=rank) for rank, hit in enumerate([*analogues, *own[:limit]], start=1)]
