"""Errors as HTTP has them: a status, and a sentence that says what is wrong (RFC 9457, PS3.18 8.5)."""

from http import HTTPStatus
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pacsnode import errors

log = structlog.get_logger()

MEDIA_TYPE: Final = "application/problem+json"

# The nearest class above an error decides.
HTTP_OF: Final[dict[type[errors.PacsnodeError], int]] = {
    errors.OutOfResources: 503,
    errors.MatchesNotCounted: 503,
    errors.InvalidIdentifier: 400,
    errors.InvalidMultipart: 400,
    errors.CannotTranscode: 406,
    errors.CannotDeidentify: 403,
    errors.NotAuthorized: 403,
    errors.OperationError: 500,
    errors.PacsnodeError: 500,
}


def problem(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """An answer that says what is wrong."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": reason}
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def status_of(error: errors.PacsnodeError) -> int:
    if isinstance(error, errors.RequestRefused):
        return error.status
    return next(HTTP_OF[kind] for kind in type(error).__mro__ if kind in HTTP_OF)


async def answer_error(_request: Request, error: Exception) -> Response:
    """For our own errors, and Starlette's (404, 405)."""
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        reason = error.detail if error.detail != HTTPStatus(error.status_code).phrase else ""
        return problem(error.status_code, reason or _MEANING.get(error.status_code, error.detail), headers)
    assert isinstance(error, errors.PacsnodeError)
    status = status_of(error)
    told = error.headers if isinstance(error, errors.RequestRefused) else None
    return problem(status, str(error), {"Retry-After": "5"} if status == 503 else told)


_MEANING: Final = {
    404: "there is no such resource",
    405: "this resource does not know the method; Allow tells the ones it knows",
}
