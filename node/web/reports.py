"""Evidence reports over HTTP."""

from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.responses import JSONResponse

from indexer.answer import Seed
from indexer.catalog import Catalog
from indexer.errors import NotFound, Parked, Refused, Transient
from indexer.uids import StudyInstanceUID
from node.courier import REPORT
from node.reports import Report, Reports

_MOST_RESULTS = 100
_BUSY = {"Retry-After": "10"}


def add_reports(app: FastAPI, catalog: Catalog, reports: Reports) -> None:
    """Add the report of a study's similar studies to the application."""

    @app.post("/studies/{study_instance_uid}/report", response_class=Response)
    def report(
        study_instance_uid: str,
        limit: Annotated[int, Query(ge=1, le=_MOST_RESULTS)] = 20,
        send: Annotated[list[str] | None, Query(description="AE title of a peer; repeatable")] = None,
    ) -> Response:
        """Write down the studies that look like one, as a DICOM SR that is kept in that study.

        Answers with the DICOM file; with `send`, 202 and its UIDs: it is then sent until the peers have it.
        """
        targets = list(dict.fromkeys(send or []))
        unknown = [aet for aet in targets if not reports.can_send_to(aet)]
        if unknown:
            raise HTTPException(422, f"no peer has the AE title {', '.join(unknown)}")
        made = _made(reports, study_instance_uid, limit)
        if not targets:
            name = f'attachment; filename="{made.sop_instance_uid}.dcm"'
            content = reports.part10(made.sop_instance_uid)
            return Response(content, media_type="application/dicom", headers={"Content-Disposition": name})
        for aet in targets:
            payload = {"sop_instance_uid": made.sop_instance_uid}
            catalog.outbox.request(made.study_instance_uid, REPORT, aet, payload)
        return JSONResponse({**asdict(made), "send": targets}, status_code=202)


def _made(reports: Reports, study_instance_uid: str, limit: int) -> Report:
    seed = Seed(study_instance_uid=StudyInstanceUID(study_instance_uid))
    try:
        return reports.make(seed, limit)
    except NotFound as error:
        raise HTTPException(404, str(error)) from error
    except (Parked, Refused) as error:
        raise HTTPException(422, str(error)) from error
    except Transient as error:
        raise HTTPException(503, str(error), headers=_BUSY) from error
