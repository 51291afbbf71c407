"""A patient's other studies over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query

from indexer.uids import StudyInstanceUID
from node.web.context import Context, StudyUid
from node.web.models import PriorsAnswer
from node.web.problems import responses

router = APIRouter(tags=["similar"])
_MOST_RESULTS = 1000


@router.get("/studies/{study_uid}/priors", responses=responses(404, 422, 503))
def priors(
    context: Context, study_uid: StudyUid, limit: Annotated[int, Query(ge=1, le=_MOST_RESULTS)] = 20
) -> PriorsAnswer:
    """List the patient's other studies, newest first, with the slices at the same levels on both sides."""
    return PriorsAnswer.model_validate(context.priors.of_study(StudyInstanceUID(study_uid), limit))
