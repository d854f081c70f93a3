"""Media type negotiation by PS3.18 8.7, with what viewers really send."""

from contextlib import nullcontext

import pytest
from starlette.requests import Request

from pacsnode.errors import RequestRefused
from pacsnode.web.media import DICOM, JSON, OCTETS, XML, Acceptable, Offer, acceptable, parse

CHROMIUM_IMG = "image/jxl,image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
METADATA = (Offer(JSON), Offer(XML, multipart=True))
RENDERED = (Offer("image/jpeg"), Offer("image/png"), Offer("image/gif"))


def asked(accept: str | None = None, query: str = "") -> Acceptable:
    headers = [] if accept is None else [(b"accept", accept.encode())]
    return acceptable(Request({"type": "http", "headers": headers, "query_string": query.encode()}))


@pytest.mark.parametrize(
    ("accept", "selected"),
    [
        (None, METADATA[0]),
        ("", METADATA[0]),
        ("*/*", METADATA[0]),
        ("application/*", METADATA[0]),
        ("application/dicom+json", METADATA[0]),
        ("Application/DICOM+JSON;charset=utf-8", METADATA[0]),
        ('multipart/related; type="application/dicom+xml"', METADATA[1]),
        ("multipart/related;type=application/dicom+xml", METADATA[1]),
        ("multipart/related", METADATA[1]),
        ("multipart/*", METADATA[1]),
        ('application/dicom+json;q=0.2, multipart/related; type="application/dicom+xml"; q=0.9', METADATA[1]),
        ("*/*;q=0.1, application/dicom+json;q=0", METADATA[1]),
        ("nonsense, ;;, application/dicom+json", METADATA[0]),
    ],
)
def test_the_header(accept: str | None, selected: Offer) -> None:
    assert asked(accept).select(METADATA) == selected


def test_wildcards_of_an_img_element() -> None:
    assert asked(CHROMIUM_IMG).select(RENDERED) == RENDERED[0]
    assert asked("image/*;q=0.5, image/png").select(RENDERED) == RENDERED[1]


def test_the_example_of_the_standard() -> None:
    accept = "text/*; q=0.5, text/html; q=0.4, image/png, */*; q=0.4"
    offers = (Offer("text/html"), Offer("text/plain"), Offer("text/x-latex"))
    assert asked(accept).select(offers) == offers[1]


def test_the_query_parameter_goes_first() -> None:
    ohif = asked('multipart/related; type="application/octet-stream"', "accept=image/png")
    assert ohif.select(RENDERED) == RENDERED[1]
    assert asked("application/dicom+json", "accept=image/nonsense").select(METADATA) == METADATA[0]
    assert asked("image/png", "accept=application/dicom+json").select(METADATA) == METADATA[0]
    assert asked("image/png", "accept=application/dicom%2Bjson").select(METADATA) == METADATA[0]


@pytest.mark.parametrize(
    ("accept", "refused"),
    [
        ("application/dicom, image/png", True),
        ('multipart/related; type="application/dicom+xml", text/html;q=0.5', True),
        ("application/dicom, image/jpeg", False),  # which may be bulk data
        (
            'multipart/related; type="application/pdf", multipart/related; type="application/octet-stream"',
            False,
        ),
        ("application/dicom+json, */*;q=0.1", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/png,*/*;q=0.8", False),
    ],
)
def test_dicom_and_rendered_media_types_do_not_mix(accept: str, refused: bool) -> None:
    with pytest.raises(RequestRefused) if refused else nullcontext() as caught:
        asked(accept)
    assert caught is None or caught.value.status == 400


def test_nothing_fits() -> None:
    with pytest.raises(
        RequestRefused, match=r"there are: application/dicom\+json, multipart/related"
    ) as refused:
        asked("image/png").select(METADATA)
    assert refused.value.status == 406


@pytest.mark.parametrize(
    "accept",
    [
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
        'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
        'multipart/related; type="application/octet-stream; transfer-syntax=*"',
    ],
)
def test_transfer_syntax_of_a_frame(accept: str) -> None:
    offer = Offer(OCTETS, multipart=True)
    assert asked(accept).select((offer,)) == offer
    assert asked(accept).transfer_syntaxes(offer) == ("*",)


def test_transfer_syntaxes_in_order_of_their_weight() -> None:
    accept = (
        'multipart/related; type="image/jls"; transfer-syntax=1.2.840.10008.1.2.4.81; q=0.5,'
        'multipart/related; type="image/x-jls"; transfer-syntax=1.2.840.10008.1.2.4.80, */*;q=0.1'
    )
    found = asked(accept).transfer_syntaxes(Offer("image/jls", multipart=True))
    assert found == ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "")


def test_quotes_hold_commas_and_semicolons() -> None:
    found = asked('application/dicom; note="a, b; c\\"d", image/jpeg')
    assert [one.type for one in found.ranges] == [DICOM, "image/jpeg"]


@pytest.mark.parametrize("text", ["", "text", "*/png", "a/b c", "/", "text/"])
def test_what_is_no_media_range(text: str) -> None:
    assert parse(text) is None
