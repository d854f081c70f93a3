"""Retrieve Capabilities (PS3.18 8.9): OPTIONS on every resource, and the same for people and for tools.

application/json is WADL as Annex G writes it; OpenAPI has a media type and a URL of its own. A preflight of
a browser is OPTIONS too, and answered before it gets here (front.py).
"""

import json
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import URLPath
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route, compile_path
from starlette.types import Receive, Scope, Send

from pacsnode.dicom.sop_class import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES, name_of
from pacsnode.errors import RequestRefused
from pacsnode.pixels import plan
from pacsnode.web import openapi, pages, wadl
from pacsnode.web.body import conditional
from pacsnode.web.facade import Facade
from pacsnode.web.media import Offer, acceptable
from pacsnode.web.origin import ROOT, base_url, dicomweb_root
from pacsnode.web.resources import HTML, OPENAPI, PLAIN_JSON, RENDERED_TYPES, RESOURCES, WADL, Resource
from pacsnode.web.syntaxes import FORBIDDEN, media_type_of
from pacsnode.web.target import METHODS

HEADERS: Final = {"Cache-Control": "no-cache", "Vary": "Accept, Accept-Encoding"}
_DESCRIPTIONS: Final = (Offer(WADL), Offer(PLAIN_JSON), Offer(OPENAPI.partition(";")[0]))
_PATTERNS: Final = {resource.path: compile_path(resource.path)[0] for resource in RESOURCES}

Facts = Sequence[tuple[str, Sequence[tuple[str, ...]]]]


def routes(facade: Facade) -> list[BaseRoute]:
    public_url = facade.settings.web.public_url

    async def describe(request: Request) -> Response:
        target = _target(request.url.path)
        offer = acceptable(request).select(_DESCRIPTIONS)
        headers = {**HEADERS, "Allow": allowed(request.url.path) or "OPTIONS"}
        return await _description(request, offer, target, public_url, headers)

    async def browse(request: Request) -> Response:
        offer = acceptable(request).select((Offer(HTML), *_DESCRIPTIONS))
        if offer.type != HTML:
            return await _description(request, offer, RESOURCES, public_url, HEADERS)
        return await _page(request, pages.browsable(dicomweb_root(request, public_url)))

    async def describe_as_openapi(request: Request) -> Response:
        document = json.dumps(openapi.document(base_url(request, public_url))).encode()
        return await conditional(request, document, PLAIN_JSON, HEADERS)

    async def list_served(request: Request) -> Response:
        offer = acceptable(request).select((Offer(HTML), Offer(PLAIN_JSON)))
        facts = served()
        if offer.type == HTML:
            return await _page(request, pages.conformance(facts, dicomweb_root(request, public_url)))
        body = json.dumps({title: [list(row) for row in rows] for title, rows in facts}).encode()
        return await conditional(request, body, PLAIN_JSON, HEADERS)

    return [
        *(Route(path, browse, methods=METHODS) for path in (ROOT, f"{ROOT}/")),
        Route(f"{ROOT}/openapi.json", describe_as_openapi, methods=METHODS),
        Route(f"{ROOT}/conformance", list_served, methods=METHODS),
        OptionsRoute(Route("/", describe, methods=["OPTIONS"])),
    ]


class OptionsRoute(BaseRoute):
    """OPTIONS on any path; no other method ever comes here, so that an unknown path stays 404 for those."""

    def __init__(self, route: Route) -> None:
        self._route = route

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_options = scope["type"] == "http" and scope["method"] == "OPTIONS"
        return (Match.FULL if is_options else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: object) -> URLPath:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._route.app(scope, receive, send)


def served() -> Facts:
    """What is stored and served: SOP classes, transfer syntaxes with their media types, rendered forms."""
    classes = sorted((name_of(uid), uid) for uid in STORAGE_SOP_CLASSES)
    targets = {uid: plan.targets_of(uid, recompress_lossy=True)[1:] for uid in TRANSFER_SYNTAXES}
    made = sorted({one for others in targets.values() for one in others} - FORBIDDEN)
    syntaxes = [
        (
            uid,
            name_of(uid),
            "not as stored" if uid in FORBIDDEN else media_type_of(uid),
            "transcoded" if targets[uid] else "as stored only",
        )
        for uid in TRANSFER_SYNTAXES
    ]
    return (
        ("Transfer syntaxes that are stored", syntaxes),
        ("Transfer syntaxes that are made when asked for", [(uid, name_of(uid)) for uid in made]),
        ("Rendered media types", [(one,) for one in RENDERED_TYPES]),
        ("Character sets", [("UTF-8", "DICOM JSON, Native DICOM Model, rendered text")]),
        ("SOP classes", [(uid, name) for name, uid in classes]),
    )


def allowed(path: str) -> str:
    """The methods of a path, as Allow lists them (RFC 9110 10.2.1); "" for no resource of these services."""
    methods = dict.fromkeys(one.method for one in RESOURCES if _PATTERNS[one.path].match(path))
    return ", ".join([*methods, *(("HEAD",) if "GET" in methods else ()), "OPTIONS"]) if methods else ""


def _target(path: str) -> tuple[Resource, ...]:
    """The resource of a path and those below it. Raises RequestRefused (404)."""
    if path in ("/", ROOT, f"{ROOT}/"):
        return RESOURCES
    found = next((one.path for one in RESOURCES if _PATTERNS[one.path].match(path)), None)
    if found is None:
        raise RequestRefused(404, "there is no such resource")
    return tuple(one for one in RESOURCES if one.path == found or one.path.startswith(f"{found}/"))


async def _description(
    request: Request, offer: Offer, resources: Sequence[Resource], public_url: str, headers: dict[str, str]
) -> Response:
    """What `resources` are, those of one service below its base URI (Annex H)."""
    base = base_url(request, public_url)
    if offer.type not in (WADL, PLAIN_JSON):
        return await conditional(request, json.dumps(openapi.document(base)).encode(), OPENAPI, headers)
    prefix = ROOT if request.url.path.startswith(ROOT) else ""
    tree = wadl.application([one for one in resources if one.path.startswith(prefix)], base, prefix)
    body = wadl.xml_of(tree) if offer.type == WADL else json.dumps(tree).encode()
    return await conditional(request, body, offer.type, headers)


async def _page(request: Request, text: str) -> Response:
    headers = {**HEADERS, "Content-Security-Policy": pages.POLICY}
    return await conditional(request, text.encode(), HTML, headers)
