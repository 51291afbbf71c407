"""Every page that needs a token, in one router."""

from fastapi import APIRouter, Security

from config.web import Scope
from node.web.access import require_scopes
from node.web.pages import compare, hits, search, status, values

router = APIRouter()
for _part, _scope in (
    (search.router, Scope.SEARCH),
    (hits.router, Scope.SEARCH),
    (compare.router, Scope.READ),
    (values.router, Scope.READ),
    (status.router, Scope.MONITOR),
):
    router.include_router(_part, dependencies=[Security(require_scopes, scopes=[_scope])])
