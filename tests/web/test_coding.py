"""Content codings: the one a client wants most, in bytes that others can read."""

import gzip
import json

import brotli
import httpx
import pytest
from backports import zstd
from starlette.requests import Request

from pacsnode.node import Node
from pacsnode.web.coding import CODINGS, coding_of
from tests.support.objects import made
from tests.support.sending import send_made

DECODERS = {"zstd": zstd.decompress, "br": brotli.decompress, "gzip": gzip.decompress}


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("gzip, deflate, br, zstd", "zstd"),  # Chromium and Firefox, over HTTPS
        ("gzip, deflate, br", "br"),  # Safari
        ("gzip, deflate", "gzip"),  # browsers over plain HTTP
        ("gzip;q=1.0, br;q=0.5, zstd;q=0", "gzip"),
        ("*", "zstd"),
        ("*;q=0.1, zstd;q=0, BR;q=0", "gzip"),
        ("identity", None),
        ("gzip;q=0", None),
        ("*;q=0", None),
        ("gzip;q=much", None),
        ("", None),
    ],
)
def test_the_coding_that_is_wanted_most_is_chosen(field: str, name: str | None) -> None:
    headers = [(b"accept-encoding", field.encode())]
    coding = coding_of(Request({"type": "http", "headers": headers}))
    assert (coding.name if coding else None) == name


@pytest.mark.asyncio
async def test_metadata_and_results_are_the_same_in_every_coding(node: Node, web: httpx.AsyncClient) -> None:
    objects = [made(number) for number in range(1, 30)]
    await send_made(node.dimse_port, objects)
    series = f"/dicomweb/studies/{objects[0].study}/series/{objects[0].series}"
    for path in (f"{series}/metadata", f"{series}/instances", "/dicomweb/openapi.json"):
        plain = await web.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        tags = {plain.headers["etag"]}
        for coding in CODINGS:
            async with web.stream("GET", path, headers={"Accept-Encoding": coding.name}) as answer:
                raw = b"".join([piece async for piece in answer.aiter_raw()])
            assert answer.headers["content-encoding"] == coding.name
            assert "Accept-Encoding" in answer.headers["vary"]
            assert json.loads(DECODERS[coding.name](raw)) == plain.json()
            tags.add(answer.headers["etag"])
            again = await web.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304
        assert len(tags) == 1 + len(CODINGS)
