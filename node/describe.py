"""What the node knows, as plain values for JSON and for tables."""

from dataclasses import asdict
from typing import Any

from indexer.answer import Answer, StudyHit
from indexer.catalog import Catalog


def answer_json(answer: Answer) -> dict[str, Any]:
    """Describe an answer: every hit with its series and matched slices on both sides."""
    return {
        "encoder_id": answer.encoder_id,
        "is_calibrated": answer.is_calibrated,
        "is_no_good_match": answer.is_no_good_match,
        "is_unusual": answer.is_unusual,
        "hits": [hit_json(hit) for hit in answer.hits],
    }


def hit_json(hit: StudyHit) -> dict[str, Any]:
    """Describe one found study; catalog keys are left out."""
    described = asdict(hit)
    del described["study_pk"]
    for series in described["series"]:
        del series["series_pk"]
    return described


def status_json(catalog: Catalog) -> dict[str, Any]:
    """Describe what the catalog holds and what waits for a person."""
    counts = catalog.progress.counts()
    active = catalog.embeddings.active_encoder()
    deliveries = catalog.outbox.counts()
    return {
        "encoder_id": active,
        "embeddings": catalog.embeddings.count(active) if active else 0,
        "studies": counts.studies,
        "instances": counts.instances,
        "quarantined_instances": counts.quarantined,
        "conflicts": counts.conflicts,
        "series_by_state": {str(state): number for state, number in sorted(counts.series_by_state.items())},
        "deliveries": {str(state): number for state, number in sorted(deliveries.items())},
        "delivery_problems": [asdict(problem) for problem in catalog.outbox.problems()],
        "parked": [asdict(series) for series in catalog.progress.parked()],
        "quarantine": [
            {"reason": reason, "instances": number} for reason, number in catalog.progress.quarantined()
        ],
        "orthanc": [_orthanc_json(catalog, server) for server in catalog.orthanc_studies.servers()],
    }


def _orthanc_json(catalog: Catalog, server: str) -> dict[str, Any]:
    studies = catalog.orthanc_studies
    return {
        "waiting": studies.waiting(server),
        "taken_over": studies.taken_over(server),
        "problems": [asdict(problem) for problem in studies.problems(server)],
    }
