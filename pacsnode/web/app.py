"""The HTTP application: routes to handlers. So far the state of the node, for monitors."""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

Health = Callable[[], dict[str, str | int]]
"""The facts of /health; `status` is among them and is "ok" while the node takes objects."""


def build_app(health: Health) -> Starlette:
    """The application. `health()` must not block."""

    async def get_health(request: Request) -> JSONResponse:
        facts = health()
        return JSONResponse(facts, status_code=200 if facts["status"] == "ok" else 503)

    return Starlette(routes=[Route("/health", get_health, methods=["GET"])])
