"""The HTTP application: the state of the node for monitors, and the groups of resources.

A new group of resources is a file here with `routes(facade)` and one line in ROUTE_GROUPS.
"""

from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from pacsnode.web.facade import Facade

Health = Callable[[], dict[str, str | int]]
"""The facts of /health; `status` is among them and is "ok" while the node takes objects."""

ROUTE_GROUPS: Final[tuple[Callable[[Facade], list[BaseRoute]], ...]] = ()


def build_app(facade: Facade, health: Health) -> Starlette:
    """The application. `health()` must not block."""

    async def get_health(request: Request) -> JSONResponse:
        facts = health()
        return JSONResponse(facts, status_code=200 if facts["status"] == "ok" else 503)

    routes = [route for group in ROUTE_GROUPS for route in group(facade)]
    return Starlette(routes=[Route("/health", get_health, methods=["GET"]), *routes])
