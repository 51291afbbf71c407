"""Forgetting over HTTP."""

from fastapi import APIRouter, Request

from indexer.catalog.lookup import Level
from indexer.catalog.tombstones import Target
from indexer.errors import NotFound
from node.web.access import known
from node.web.context import Context, StudyUid
from node.web.gate import address_of
from node.web.models import Removed
from node.web.problems import responses

router = APIRouter(tags=["node"])


@router.delete("/studies/{study_uid}", responses=responses(403, 404, 503))
def forget(request: Request, context: Context, study_uid: StudyUid) -> Removed:
    """Remove a study for good; answers with how much went.

    Its rows and files are gone then; index and database are freed of what they still hold in the background.
    """
    targets = [Target(Level.STUDY, study_uid)]
    if context.forgetter.would_remove(targets).is_nothing:
        raise NotFound("no such study is held")
    with context.witness.deleting(known(request).name, address_of(request), targets):
        return Removed.model_validate(context.forgetter.forget(targets))
