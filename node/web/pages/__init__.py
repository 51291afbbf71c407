"""The page: search, a study's hits, two studies side by side, how the node stands; HTML made here, as it is."""

from fastapi import APIRouter

from node.web.pages import compare, hits, search, status, values

router = APIRouter()
for _part in (search, hits, compare, values, status):
    router.include_router(_part.router)
