"""Errors over HTTP: problem details (RFC 9457) for whatever goes wrong, without patient data."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from config.errors import PacsimileError
from dicom_scp.errors import Mismatched
from indexer.errors import Damaged, NotFound, Parked, Refused, Transient

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = 10
_VERDICTS: tuple[tuple[type[PacsimileError], int, str], ...] = (
    (NotFound, 404, "not-found"),
    (Parked, 422, "cannot-be-compared"),
    (Mismatched, 400, "bad-request"),
    (Refused, 422, "refused"),
    (Transient, 503, "try-again"),
    (Damaged, 500, "damaged"),
)
"""Status and code of each error of the tree in `config.errors`; the first that fits."""


class Fault(BaseModel):
    """One value of a request that is not what was expected."""

    model_config = ConfigDict(frozen=True)

    where: Annotated[str, Field(description="Place of the value", examples=["query.limit"])]
    expected: Annotated[str, Field(examples=["Input should be greater than or equal to 1"])]


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: Annotated[str, Field(description="Always about:blank; `code` tells problems apart")] = "about:blank"
    title: Annotated[str, Field(description="The status in words", examples=["Not Found"])]
    status: Annotated[int, Field(description="HTTP status", examples=[404])]
    detail: Annotated[str, Field(description="For people", examples=["the seed is not in the catalog"])]
    code: Annotated[str, Field(description="For programs", examples=["not-found"])]
    errors: Annotated[list[Fault] | None, Field(description="Of a request that is not valid: each fault")] = None


class ProblemError(HTTPException):
    """A problem with a code of its own; raised by routes.

    Parameters
    ----------
    status : int
        HTTP status.
    code : str
        For programs.
    """

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.code = code


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route may answer with, for OpenAPI; 401 and 422 are always among them."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({401, 422, *statuses})
    }


def problem_response(
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: list[Fault] | None = None,
) -> JSONResponse:
    """Answer with a problem."""
    problem = Problem(title=_phrase(status), status=status, detail=detail, code=code, errors=errors)
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, status, dict(headers or {}), media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Let every error of an application be answered as a problem."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(PacsimileError, _error_of_ours)
    app.add_exception_handler(Exception, _unexpected)


def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    code = error.code if isinstance(error, ProblemError) else _phrase(error.status_code).lower().replace(" ", "-")
    return problem_response(error.status_code, code, str(error.detail), error.headers)


def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    faults = [
        Fault(where=".".join(map(str, one["loc"])), expected=str(one["msg"]).removeprefix("Value error, "))
        for one in error.errors()
    ]
    detail = "the request is not valid: " + "; ".join(f"{one.where}: {one.expected}" for one in faults)
    return problem_response(422, "invalid-request", detail, errors=faults)


def _error_of_ours(_request: Request, error: Exception) -> JSONResponse:
    for kind, status, code in _VERDICTS:
        if isinstance(error, kind):
            headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else None
            return problem_response(status, code, str(error), headers)
    return problem_response(500, "unexpected", "see the log of the node")


def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
    return problem_response(500, "unexpected", "see the log of the node")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
