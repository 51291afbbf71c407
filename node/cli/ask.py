"""`pacsimile similar`, `export`: reading what a node knows; it may run meanwhile."""

import logging
from pathlib import Path

import numpy as np

from config.model import Settings
from indexer.answer import Answer, Seed
from indexer.bundle import EMBEDDING_DIM
from indexer.catalog import Catalog
from indexer.errors import NotFound, Transient
from indexer.keeper import IndexKeeper
from indexer.search import Search
from indexer.uids import EncoderId, SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID
from indexer.vectors import exact, milvus
from node import logs
from node.audit_subjects import demand_export
from node.cli.archive import existing_catalog
from node.cli.output import console, print_json, print_table
from node.describe import answer_json

log = logging.getLogger(__name__)


def similar(settings: Settings, uid: str, limit: int, *, as_json: bool) -> None:
    """Print the studies that look like a study, series or instance."""
    logs.configure_for_command(settings.log)
    with existing_catalog(settings) as catalog:
        active, seed = active_encoder(catalog), seed_of(catalog, uid)
        answer = search_of(settings, catalog, active).similar(seed, limit=limit)
    if as_json:
        print_json(answer_json(answer))
    else:
        _print_answer(answer)


def export(settings: Settings, out: Path, *, as_json: bool) -> None:
    """Write every embedding of the active encoder to a NumPy file."""
    logs.configure_for_command(settings.log)
    with existing_catalog(settings) as catalog:
        active = active_encoder(catalog)
        rows = list(catalog.embeddings.rows(active))
        demand_export(settings, catalog, out, {row[0] for row in rows})
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    studies, series, modalities, kinds, boxes, vectors = columns
    out = out if out.suffix == ".npz" else out.with_name(out.name + ".npz")
    np.savez_compressed(
        out,
        study_uid=np.array(studies, dtype=np.str_),
        series_uid=np.array(series, dtype=np.str_),
        modality=np.array(modalities, dtype=np.str_),
        kind=np.array(kinds, dtype=np.str_),
        box_lps_mm=np.array(boxes, dtype=np.float64).reshape(len(rows), 6),
        embedding=np.array(vectors, dtype=np.float32).reshape(len(rows), EMBEDDING_DIM),
        encoder_id=np.array(active),
    )
    if as_json:
        print_json({"embeddings": len(rows), "encoder_id": active, "file": str(out)})
    else:
        console.print(f"{len(rows)} embeddings of {active} in {out}")


def search_of(settings: Settings, catalog: Catalog, active: EncoderId) -> Search:
    """Search beside the node that keeps the index; exactly in the catalog where an index server cannot be asked."""
    vectors = settings.vectors
    try:
        keeper = IndexKeeper(catalog, vectors, settings.snapshot_dir, active, read_only=True)
    except Transient as error:
        if vectors.kind != milvus.KIND:
            raise
        log.warning("exact search answers: %s", error)
        vectors = vectors.model_copy(update={"kind": exact.KIND})
        keeper = IndexKeeper(catalog, vectors, settings.snapshot_dir, active, read_only=True)
    return Search(catalog, keeper, settings.search)


def active_encoder(catalog: Catalog) -> EncoderId:
    """Name the encoder whose embeddings answer.

    Raises
    ------
    NotFound
        There is none yet.
    """
    active = catalog.embeddings.active_encoder()
    if active is None:
        raise NotFound("nothing is indexed yet")
    return active


def seed_of(catalog: Catalog, uid: str) -> Seed:
    """Ask about whatever has the UID: a study, series or instance.

    Raises
    ------
    NotFound
        Nothing has.
    """
    if catalog.lookup.series_of_study(uid):
        return Seed(study_instance_uid=StudyInstanceUID(uid))
    if catalog.lookup.series_by_uid(uid) is not None:
        return Seed(series_instance_uid=SeriesInstanceUID(uid))
    if catalog.lookup.instance_path(uid) is not None:
        return Seed(sop_instance_uids=(SOPInstanceUID(uid),))
    raise NotFound(f"no study, series or instance {uid} in the catalog")


def _print_answer(answer: Answer) -> None:
    rows = []
    for hit in answer.hits:
        best = hit.series[0]
        match = best.matches[0] if best.matches else None
        where = ""
        if match:
            (q0, q1), (f0, f1) = match.query_z_mm, match.found_z_mm
            level = f" ({match.found_level})" if match.found_level else ""
            where = f"{f0:.0f}…{f1:.0f} mm{level} ~ {q0:.0f}…{q1:.0f} mm"
        relation = hit.relation if hit.completeness == "COMPLETE" else f"{hit.relation} ({hit.completeness})"
        rows.append((hit.rank, f"{hit.similarity:.3f}", relation, hit.study_instance_uid, where))
    print_table(
        "Similar studies", ("rank", "similarity", "relation", "study", "best match in z: there ~ here"), rows
    )
    if answer.is_no_good_match:
        console.print("No good match: no other patient's study is alike enough (search.least_similarity).")
    if answer.is_unusual:
        console.print("Unusual: unlike anything else in the archive.")
    if not answer.is_calibrated:
        console.print("The archive is too small to say what a similarity means; 0.5 is a cosine of 0.")
