"""Every page that needs a token, in one router."""

from fastapi import APIRouter

from node.web.pages import compare, hits, search, status, values

router = APIRouter()
for _part in (search, hits, compare, values, status):
    router.include_router(_part.router)
