"""In which order an answer names the query's own patient's studies."""

from dataclasses import replace

from indexer.answer import Answer, Relation
from indexer.catalog import Lookup
from indexer.catalog.dates import study_dates


def own_newest_first(lookup: Lookup, found: Answer) -> Answer:
    """Rank the patient's own studies as a reader looks for them: the latest first, of one day the best first.

    Analogues stay before them; priors come before duplicates.
    """
    own = [hit for hit in found.hits if hit.relation is not Relation.ANALOGUE]
    dates = study_dates(lookup, {hit.study_instance_uid for hit in own})
    own.sort(key=lambda hit: (dates[hit.study_instance_uid], hit.similarity), reverse=True)
    own.sort(key=lambda hit: hit.relation is Relation.DUPLICATE)
    analogues = [hit for hit in found.hits if hit.relation is Relation.ANALOGUE]
    ranked = enumerate([*analogues, *own], start=1)
    return replace(found, hits=tuple(replace(hit, rank=rank) for rank, hit in ranked))
