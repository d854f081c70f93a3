"""What every answer has: CORS, a number, a line in the log, a reason when something is wrong."""

import httpx
import pytest
from starlette.requests import Request
from structlog.testing import capture_logs

from pacsnode.node import Node
from pacsnode.web.origin import dicomweb_root
from tests.conftest import SettingsOf

PAGE = {"Origin": "https://viewer.example.org"}


async def test_a_page_of_any_origin_may_read(web: httpx.AsyncClient) -> None:
    for path in ("/health", "/nothing-here"):
        answer = await web.get(path, headers=PAGE)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
        assert "Warning" in answer.headers["access-control-expose-headers"]


async def test_a_preflight_is_answered_for_any_resource(web: httpx.AsyncClient) -> None:
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "accept,authorization"}
    answer = await web.options("/dicomweb/studies/1.2/series", headers=PAGE | asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD"
    assert answer.headers["access-control-allow-headers"] == "accept,authorization"
    assert int(answer.headers["access-control-max-age"]) > 600


async def test_other_origins_where_one_is_configured(settings_of: SettingsOf) -> None:
    settings = settings_of(web={"port": 0, "cors_origins": ["https://viewer.example.org"]})
    async with Node(settings) as node, httpx.AsyncClient() as web:
        url = f"http://127.0.0.1:{node.web_port}/health"
        allowed = await web.get(url, headers=PAGE)
        assert allowed.headers["access-control-allow-origin"] == PAGE["Origin"]
        assert allowed.headers["vary"] == "Origin"
        refused = await web.get(url, headers={"Origin": "https://elsewhere.example.org"})
        assert "access-control-allow-origin" not in refused.headers
        # As for a picture in a page: a browser must not keep it for the page's own request
        unnamed = await web.get(url)
        assert "access-control-allow-origin" not in unnamed.headers
        assert unnamed.headers["vary"] == refused.headers["vary"] == "Origin"


async def test_browsers_are_told_to_believe_the_content_type(web: httpx.AsyncClient) -> None:
    for path in ("/", "/health", "/nothing-here", "/dicomweb/studies"):
        assert (await web.get(path)).headers["x-content-type-options"] == "nosniff"


async def test_errors_have_a_reason_and_a_number(web: httpx.AsyncClient) -> None:
    missing = await web.get("/dicomweb/nothing", headers={"X-Request-ID": "abc-1"})
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json()["detail"] == "there is no such resource"
    assert missing.headers["x-request-id"] == "abc-1"
    forged = await web.get("/health", headers={"X-Request-ID": "a b\\n"})
    assert forged.headers["x-request-id"] != "a b\\n"
    assert (await web.delete("/health")).status_code == 405


async def test_the_access_log_tells_no_query(web: httpx.AsyncClient) -> None:
    with capture_logs() as lines:
        await web.get("/health?PatientName=Doe")
    answered = next(line for line in lines if line["event"] == "http.answered")
    assert answered["status"] == 200
    assert answered["path"] == "/health"
    assert not any("Doe" in str(line) for line in lines if line["log_level"] != "debug")


@pytest.mark.parametrize(
    ("headers", "root"),
    [
        ({"host": "pacs:8042"}, "http://pacs:8042/dicomweb"),
        ({"host": "[::1]:8042"}, "http://[::1]:8042/dicomweb"),
        ({"host": "pacs"}, "/dicomweb"),
        ({"host": 'evil":8042'}, "/dicomweb"),
        ({"host": "pacs", "forwarded": 'for=1.2.3.4;proto=https;host="pacs.example:8443", host=inner'},
         "https://pacs.example:8443/dicomweb"),
        ({"host": "pacs", "forwarded": "host=pacs.example"}, "http://pacs.example/dicomweb"),
        ({"host": "pacs", "x-forwarded-host": "pacs.example", "x-forwarded-proto": "https"},
         "https://pacs.example/dicomweb"),
        ({"x-forwarded-host": "pacs.example", "x-forwarded-proto": "https", "x-forwarded-port": "444",
          "x-forwarded-prefix": "/node/"}, "https://pacs.example:444/node/dicomweb"),
        ({"host": "pacs", "x-forwarded-prefix": "/node"}, "/node/dicomweb"),
        ({"x-forwarded-host": "a<b>"}, "/dicomweb"),
    ],
)  # fmt: skip
def test_urls_lead_back_the_way_the_request_came(headers: dict[str, str], root: str) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request(
        {"type": "http", "scheme": "http", "server": ("127.0.0.1", 8042), "path": "/", "headers": raw}
    )
    assert dicomweb_root(request, "") == root
    assert dicomweb_root(request, "https://pub/x") == "https://pub/x/dicomweb"
