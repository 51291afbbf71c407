"""Forgetting over HTTP."""

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, HTTPException

from dicom_scp.forgetting import Forgetter
from indexer.catalog.lookup import Level
from indexer.catalog.tombstones import Target
from indexer.errors import Transient


def add_forgetting(app: FastAPI, forgetter: Forgetter) -> None:
    """Add the removal of a study to the application."""

    @app.delete("/studies/{study_instance_uid}")
    def forget(study_instance_uid: str) -> dict[str, Any]:
        """Remove a study for good; answers with how much went.

        Its rows and files are gone then; index and database are freed of what they still hold in the background.
        """
        targets = [Target(Level.STUDY, study_instance_uid)]
        if forgetter.would_remove(targets).is_nothing:
            raise HTTPException(404, "no such study is held")
        try:
            return asdict(forgetter.forget(targets))
        except Transient as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "10"}) from error
