"""Capabilities: OPTIONS, WADL, OpenAPI and the pages, beside the routes and what resources really answer."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from xml.etree import ElementTree

import httpx
import pytest
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from pacsnode.node import Node
from pacsnode.web.app import ROUTE_GROUPS
from pacsnode.web.facade import Facade
from pacsnode.web.origin import ROOT
from pacsnode.web.pictures import Pictures
from pacsnode.web.resources import RESOURCES, WADL, Resource
from tests.conftest import real_objects, settings_for
from tests.support.objects import Part10, part10
from tests.support.sending import send_files

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = {"w": "http://wadl.dev.java.net/2009/02"}
OPENAPI = "application/vnd.oai.openapi+json"


@dataclass
class Web:
    client: httpx.AsyncClient
    node: Node
    item: Part10

    async def options(self, path: str, accept: str = "*/*") -> httpx.Response:
        return await self.client.options(path, headers={"Accept": accept})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Web]:
    item = part10(next(path for path in real_objects() if path.name == "CT_small.dcm"))
    async with Node(settings_for(tmp_path_factory.mktemp("capabilities") / "root")) as node:
        assert await send_files(node.dimse_port, [item]) == [0]
        base = f"http://127.0.0.1:{node.web_port}"
        async with httpx.AsyncClient(base_url=base, timeout=30) as client:
            yield Web(client, node, item)


def declared(text: str) -> str:
    """A media type as a header may have it: without the space and the quotes that one writer adds."""
    return text.replace(" ", "").replace('"', "").partition(";boundary")[0]


async def test_every_route_has_its_row_and_every_row_its_route(web: Web) -> None:
    transcoder = web.node._transcoder
    assert transcoder is not None
    archive, settings = web.node.archive, web.node.settings
    facade = Facade(archive, transcoder, web.node.workflow, settings, Pictures(archive, transcoder))
    routes = {
        (route.path.rstrip("/"), method)
        for group in ROUTE_GROUPS
        for route in group(facade)
        if isinstance(route, Route) and route.path.startswith((ROOT, "/wado"))
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes == {(row.path.rstrip("/"), row.method) for row in RESOURCES}


def url_of(resource: Resource, item: Part10) -> str:
    values = {"study": item.study, "series": item.series, "instance": item.sop, "frames": "1"}
    url = resource.template.format(**values, element="7FE00010")
    if resource.path == "/wado":
        url += f"?requestType=WADO&studyUID={item.study}&seriesUID={item.series}&objectUID={item.sop}"
    return url


@pytest.mark.parametrize("row", [row for row in RESOURCES if row.method == "GET"], ids=lambda row: row.path)
async def test_a_resource_answers_in_its_media_types_and_refuses_others(row: Resource, web: Web) -> None:
    """A CT image has no text, document or video form, and its frames are not compressed."""
    url = url_of(row, web.item)
    answered = 0
    for media_type in row.answers:
        answer = await web.client.get(url, headers={"Accept": media_type})
        if answer.status_code == 406:
            assert not media_type.startswith(("application/dicom", "application/json"))
            continue
        assert answer.status_code == 200, answer.text
        answered += 1
        assert declared(answer.headers["content-type"]).startswith(declared(media_type))
    assert answered
    if "conformance" not in url and "openapi" not in url:
        assert (await web.client.get(url, headers={"Accept": "image/x-nothing"})).status_code == 406


async def test_the_root_is_described_as_wadl(web: Web) -> None:
    for path in ("/dicomweb", "/dicomweb/"):
        answer = await web.options(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == WADL
        application = ElementTree.fromstring(answer.content)
        assert application.tag == "{http://wadl.dev.java.net/2009/02}application"
        (resources,) = application.findall("w:resources", NAMESPACE)
        assert resources.get("base") == str(web.client.base_url).rstrip("/") + "/dicomweb/"
        methods = resources.findall(".//w:method", NAMESPACE)
        assert len(methods) == sum(row.path.startswith(ROOT) for row in RESOURCES)
        assert len({method.get("id") for method in methods}) == len(methods)
    described = {found.get("path") for found in resources.findall("w:resource", NAMESPACE)}
    assert {"studies", "series", "instances"} <= described


async def test_a_resource_is_described_with_those_below_it(web: Web) -> None:
    answer = await web.options(f"/dicomweb/studies/{web.item.study}/series/{web.item.series}")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    names = {
        found.get("id") for found in ElementTree.fromstring(answer.content).findall(".//w:method", NAMESPACE)
    }
    assert {"retrieveSeries", "retrieveSeriesThumbnail", "retrieveInstance", "retrieveFrames"} <= names
    assert not names & {"retrieveStudy", "searchforStudies"}
    studies = await web.options("/dicomweb/studies")
    assert studies.headers["allow"] == "GET, POST, HEAD, OPTIONS"
    assert (await web.options("/wado")).headers["allow"] == "GET, HEAD, OPTIONS"


async def test_json_is_the_wadl_of_annex_g(web: Web) -> None:
    answer = await web.options("/wado", "application/json")
    tree = answer.json()["application"]["resources"]
    (resource,) = tree["resource"]
    assert resource["@path"] == "wado"
    (method,) = resource["method"]
    assert method["@name"] == "GET"
    names = {param["@name"] for param in method["request"]["param"]}
    assert {"requestType", "studyUID", "anonymize", "region"} <= names


async def test_the_openapi_document_is_valid(web: Web) -> None:
    answer = await web.client.get("/dicomweb/openapi.json")
    document = answer.json()
    OpenAPIV31SpecValidator(document).validate()
    assert document["servers"] == [{"url": str(web.client.base_url).rstrip("/")}]
    described = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert described == {(row.template, row.method) for row in RESOURCES}
    again = await web.options("/dicomweb", OPENAPI)
    assert again.headers["content-type"].startswith(OPENAPI)
    assert again.json() == document


async def test_unknown_paths_stay_unknown_and_preflights_stay_preflights(web: Web) -> None:
    for method in ("GET", "OPTIONS", "POST"):
        assert (await web.client.request(method, "/dicomweb/nothing")).status_code == 404
    refused = await web.client.delete("/dicomweb/studies")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, POST, HEAD, OPTIONS"
    fields = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "GET"}
    preflight = await web.client.options("/dicomweb/studies", headers=fields)
    assert preflight.status_code == 204
    assert not preflight.content


async def test_pages_list_everything_and_load_nothing_from_elsewhere(web: Web) -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
    page = await web.client.get("/dicomweb/", headers={"Accept": browser})
    assert page.headers["content-type"].startswith("text/html")
    for row in RESOURCES:
        assert row.template in page.text
    served = await web.client.get("/dicomweb/conformance", headers={"Accept": browser})
    assert "CT Image Storage" in served.text
    assert "JPEG 2000 Image Compression (Lossless Only)" in served.text
    for answer in (page, served):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"<script|<link|src=|@import|url\(", answer.text)
        for link in re.findall(r'href="([^"]+)"', answer.text):
            assert (await web.client.get(link.replace("&amp;", "&"))).status_code == 200
    facts = await web.client.get("/dicomweb/conformance", headers={"Accept": "application/json"})
    assert ["1.2.840.10008.5.1.4.1.1.2", "CT Image Storage"] in json.loads(facts.content)["SOP classes"]


async def test_a_description_that_is_known_is_not_sent_again(web: Web) -> None:
    for path in ("/dicomweb/", "/dicomweb/openapi.json", "/dicomweb/conformance"):
        first = await web.client.get(path)
        again = await web.client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304
