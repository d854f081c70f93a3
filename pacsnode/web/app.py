"""The HTTP application: the state of the node for monitors, and the groups of resources.

A new group of resources is a file here with `routes(facade)` and one line in ROUTE_GROUPS.
"""

from collections.abc import Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from pacsnode.errors import PacsnodeError
from pacsnode.web import bulkdata, capabilities, frames, metadata, qido, rendered, stow, wado, wado_uri
from pacsnode.web.facade import Facade
from pacsnode.web.front import Cors, Front
from pacsnode.web.problem import answer_error
from pacsnode.web.start_page import start_page

Health = Callable[[], dict[str, str | int]]
"""The facts of /health; `status` is among them and is "ok" while the node takes objects."""

ROUTE_GROUPS: Final[tuple[Callable[[Facade], list[BaseRoute]], ...]] = (
    frames.routes,
    wado.routes,
    bulkdata.routes,
    metadata.routes,
    rendered.routes,
    stow.routes,
    qido.routes,
    wado_uri.routes,
    capabilities.routes,
)


def build_app(facade: Facade, health: Health) -> ASGIApp:
    """The application. `health()` must not block."""

    async def get_health(request: Request) -> JSONResponse:
        facts = health()
        return JSONResponse(facts, status_code=200 if facts["status"] == "ok" else 503)

    routes = [route for group in ROUTE_GROUPS for route in group(facade)]
    first = [
        Route("/", start_page(facade, health), methods=["GET"]),
        Route("/health", get_health, methods=["GET"]),
    ]
    router = Router([*first, *routes], redirect_slashes=False)
    handlers = {HTTPException: _answer_http_error, PacsnodeError: answer_error}
    web = facade.settings.web
    return Front(ExceptionMiddleware(router, handlers), Cors(web.cors_origins, web.cors_methods))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette tells the methods of one route, and a path may have several (RFC 9110 15.5.6)."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405 and (allow := capabilities.allowed(request.url.path)):
        error.headers = {**(error.headers or {}), "Allow": allow}
    return await answer_error(request, error)
