"""QIDO-RS: the Search transaction of the Studies service (PS3.18 10.6)."""

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pacsnode.dicom.qido import (
    SERIES_UID,
    STUDY_UID,
    Resource,
    WebQuery,
    query_of_parameters,
)
from pacsnode.dicom.xml_model import native_model
from pacsnode.web import media, multipart
from pacsnode.web.body import conditional
from pacsnode.web.facade import Facade
from pacsnode.web.origin import ROOT, dicomweb_root
from pacsnode.web.results import ResultWriter

OFFERS: Final = (
    media.Offer(media.JSON),
    media.Offer("application/json"),  # what it was called once, and what scripts still ask for
    media.Offer(media.XML, multipart=True),
)
_PATHS: Final = {
    "/studies": Resource.STUDIES,
    "/series": Resource.SERIES,
    "/instances": Resource.INSTANCES,
    "/studies/{study}/series": Resource.STUDY_SERIES,
    "/studies/{study}/instances": Resource.STUDY_INSTANCES,
    "/studies/{study}/series/{series}/instances": Resource.SERIES_INSTANCES,
}
_TAG_OF: Final = {"study": STUDY_UID, "series": SERIES_UID}


def routes(facade: Facade) -> list[BaseRoute]:
    """The search resources (Table 10.6.1-1)."""
    search = StudySearch(facade)
    return [
        Route(ROOT + path, search.endpoint(resource), methods=["GET"]) for path, resource in _PATHS.items()
    ]


class StudySearch:
    """Answers searches from the index."""

    def __init__(self, facade: Facade) -> None:
        self._archive = facade.archive
        self._settings = facade.settings

    def endpoint(self, resource: Resource) -> Callable[[Request], Awaitable[Response]]:
        async def search(request: Request) -> Response:
            return await self._search(request, resource)

        return search

    async def _search(self, request: Request, resource: Resource) -> Response:
        offer = media.acceptable(request).select(OFFERS)
        settings = self._settings
        web_query = query_of_parameters(
            resource,
            {_TAG_OF[name]: uid for name, uid in request.path_params.items()},
            request.query_params.multi_items(),
            max_results=settings.web.max_results,
        )
        root = dicomweb_root(request, settings.web.public_url)
        results = await self._results(web_query, root)
        warnings = await self._remaining(web_query, len(results))
        if web_query.ignored:
            warnings.append(f"Ignored, since nothing here is called so: {', '.join(web_query.ignored[:10])}")
        headers = {"Warning": ", ".join(f'299 {root} "{text}"' for text in warnings)} if warnings else {}
        if not results:
            return Response(status_code=204, headers=headers)
        headers |= {"Cache-Control": "private, no-cache", "Vary": "Accept, Accept-Encoding"}
        if not offer.multipart:
            body = ("[" + ",".join(results) + "]").encode()
            return await conditional(request, body, offer.type, headers)
        writer = multipart.Writer(media.XML, str(request.url))
        parts = [
            writer.head(media.XML, "", None, first=not number) + native_model(json.loads(result))
            for number, result in enumerate(results)
        ]
        return await conditional(request, b"".join(parts) + writer.end, writer.content_type, headers)

    async def _results(self, web_query: WebQuery, root: str) -> list[str]:
        query = web_query.query
        if web_query.exhausted or query.limit == 0:
            return []
        found: list[str] = []
        async with aclosing(self._archive.search_as(query, ResultWriter(web_query, root))) as chunks:
            async for chunk in chunks:
                found += chunk
        return found

    async def _remaining(self, web_query: WebQuery, results: int) -> list[str]:
        """What a page says of the rest (8.3.4.4.1). Only a full page, or one behind the end, is counted."""
        query = web_query.query
        if web_query.exhausted or results < (query.limit or 0):
            return []
        remaining = await self._archive.count(replace(query, limit=None, offset=0)) - query.offset - results
        return [f"There are {remaining} additional results that can be requested"] if remaining > 0 else []
