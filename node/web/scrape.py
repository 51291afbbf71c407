"""What Prometheus reads."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from node.web.context import AnyNode
from node.web.problems import responses

router = APIRouter(tags=["node"], responses=responses())


@router.get("/metrics", response_class=Response)
def metrics(context: AnyNode) -> Response:
    """Tell figures in Prometheus's text format; docs/operations.md lists them."""
    return Response(context.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
