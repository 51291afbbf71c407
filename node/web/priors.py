"""A patient's other studies over HTTP."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query

from indexer.errors import NotFound, Parked
from indexer.priors import Priors
from indexer.uids import StudyInstanceUID

_MOST_RESULTS = 1000


def add_priors(app: FastAPI, priors: Priors) -> None:
    """Add the priors of a study to the application."""

    @app.get("/studies/{study_instance_uid}/priors")
    def of_study(
        study_instance_uid: str, limit: Annotated[int, Query(ge=1, le=_MOST_RESULTS)] = 20
    ) -> dict[str, Any]:
        """List the patient's other studies, newest first, with the slices at the same levels on both sides."""
        try:
            return asdict(priors.of_study(StudyInstanceUID(study_instance_uid), limit))
        except NotFound as error:
            raise HTTPException(404, str(error)) from error
        except Parked as error:
            raise HTTPException(422, str(error)) from error
