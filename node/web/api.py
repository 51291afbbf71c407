"""The node over HTTP: is it ready, what does it hold, what is similar to a study."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import JSONResponse

from indexer.answer import Finder, Seed
from indexer.catalog import Catalog
from indexer.errors import NotFound, Parked, Transient
from indexer.keeper import IndexKeeper
from indexer.uids import StudyInstanceUID
from node.describe import answer_json, status_json
from node.reports import Reports
from node.supervisor import WorkerSupervisor
from node.web.reports import add_reports

_MOST_RESULTS = 1000


def make_app(
    catalog: Catalog, finder: Finder, keeper: IndexKeeper, worker: WorkerSupervisor, reports: Reports
) -> FastAPI:
    """Make the application.

    Parameters
    ----------
    finder : Finder
        Answers questions for similar studies.
    keeper : IndexKeeper
        Whose index is reported.
    worker : WorkerSupervisor
        Whose health is.
    reports : Reports
        Who makes evidence reports.
    """
    app = FastAPI(title="Pacsimile", description="Finds studies like this one.", redoc_url=None)

    @app.get("/health")
    def health() -> JSONResponse:
        """Say whether the node can receive and answer: 200, or 503 where the catalog is out of reach.

        A node whose worker does not run still receives and answers; `worker` says what is wrong with it.
        """
        try:
            outstanding = catalog.progress.outstanding()
        except Exception:
            return JSONResponse({"ready": False, "worker": asdict(worker.health)}, status_code=503)
        index, encoder_id = keeper.current()
        return JSONResponse(
            {
                "ready": True,
                "worker": asdict(worker.health),
                "encoder_id": encoder_id,
                "index_size": len(index),
                "outstanding_series": outstanding,
            }
        )

    @app.get("/status")
    def status() -> dict[str, Any]:
        """Count what the catalog holds, and list parked series with their reasons."""
        return status_json(catalog)

    @app.get("/studies/{study_instance_uid}/similar")
    def similar(
        study_instance_uid: str, limit: Annotated[int, Query(ge=1, le=_MOST_RESULTS)] = 20
    ) -> dict[str, Any]:
        """Find the studies that look like one that the node holds, with the slices that match."""
        seed = Seed(study_instance_uid=StudyInstanceUID(study_instance_uid))
        try:
            return answer_json(finder.similar(seed, limit=limit))
        except NotFound as error:
            raise HTTPException(404, str(error)) from error
        except Parked as error:
            raise HTTPException(422, str(error)) from error
        except Transient as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "10"}) from error

    add_reports(app, catalog, reports)
    return app
