"""multipart/related, written for and read from the standard library's and dicomweb-client's idea of it."""

import email
import email.policy
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsnode.errors import InvalidMultipart
from pacsnode.web.multipart import (
    HEADERS_LIMIT,
    PREAMBLE_LIMIT,
    BodyEnds,
    PartBegins,
    PartData,
    PartEnds,
    Reader,
    Writer,
    content_type_of,
)

Parts = list[tuple[dict[str, str], bytes]]


def read(body: bytes, boundary: str, *cuts: int) -> Parts:
    """The parts of a body that comes cut at these positions."""
    reader = Reader(boundary)
    parts: Parts = []
    ended = 0
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for start, end in pairwise(places):
        for event in reader.receive_data(body[start:end]):
            match event:
                case PartBegins(headers):
                    parts.append((headers, b""))
                    ended -= 1
                case PartData(data):
                    parts[-1] = (parts[-1][0], parts[-1][1] + bytes(data))
                case PartEnds():
                    ended += 1
                case BodyEnds():
                    assert ended == 0
    reader.receive_eof()
    return parts


def body_of(boundary: str, *contents: bytes) -> bytes:
    parts = [
        f"--{boundary}\r\nContent-Type: a/b\r\n\r\n".encode() + content + b"\r\n" for content in contents
    ]
    return b"".join(parts) + f"--{boundary}--".encode()


alike = st.lists(
    st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--", b"\r\n--xy", b"\r\n--xyz", b"x", b"\0"]),
    max_size=12,
).map(b"".join)


@given(st.lists(alike, max_size=4), st.lists(st.integers(0, 500), max_size=8))
def test_content_full_of_things_like_delimiters_comes_back_however_it_is_cut(
    contents: list[bytes], cuts: list[int]
) -> None:
    assert [content for _, content in read(body_of("xyzzy", *contents), "xyzzy", *cuts)] == contents


def test_preamble_epilogue_padding_and_folded_headers() -> None:
    contents = [b"first", b"", bytes(range(256)) * 40]
    raw = b"".join(
        b"\r\n--=_b'(1)\t\r\nContent-Type: application/dicom\r\nContent-Location:\r\n  here\r\n\r\n" + content
        for content in contents
    )
    parts = read(b"preamble" + raw + b"\r\n--=_b'(1)--\r\nepilogue --=_b'(1)", "=_b'(1)", 7, 90, 91)
    assert [content for _, content in parts] == contents
    assert parts[0][0] == {"content-type": "application/dicom", "content-location": "here"}


def test_what_the_writer_makes_the_standard_library_reads() -> None:
    writer = Writer("application/dicom", "/studies/1")
    body = writer.head("application/dicom", "/a", 3, first=True) + b"a\r\n"
    body += writer.head("image/jls; transfer-syntax=1.2", "/b", None, first=False) + b"bb" + writer.end
    message = email.message_from_bytes(
        f"Content-Type: {writer.content_type}\r\n\r\n".encode() + body, policy=email.policy.HTTP
    )
    first, second = message.iter_parts()
    assert first["Content-Location"] == "/a"
    assert first["Content-Length"] == "3"
    assert first.get_payload(decode=True) == b"a\r\n"
    assert second.get_content_type() == "image/jls"
    assert second.get_param("transfer-syntax") == "1.2"
    assert second.get_payload(decode=True) == b"bb"


def test_the_same_resource_has_the_same_boundary_and_another_one_another() -> None:
    assert Writer("a/b", "x").end == Writer("a/b", "x").end != Writer("a/b", "y").end


@pytest.mark.parametrize(
    ("header", "root_type"),
    [
        ('multipart/related; type="application/dicom"; boundary="a b"', "application/dicom"),
        ("Multipart/Related;type=application/dicom+json;boundary=a'b", "application/dicom+json"),
        ("multipart/related; boundary=xyz", ""),
    ],
)
def test_content_types_quoted_and_not(header: str, root_type: str) -> None:
    assert content_type_of(header).root_type == root_type


@pytest.mark.parametrize(
    "header",
    [
        "",
        "application/dicom",
        "multipart/related",
        "multipart/related; boundary=",
        "multipart/form-data; boundary=x",
        f"multipart/related; boundary={'x' * 71}",
        'multipart/related; boundary="ä"',
        'multipart/related; boundary="x "',
    ],
)
def test_content_types_without_a_usable_boundary(header: str) -> None:
    with pytest.raises(InvalidMultipart):
        content_type_of(header)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--xy",
        b"--xyz\r\n\r\nnever ends",
        b"--xyz\r\n\r\n\r\n--xyz-",
        b"x" * (PREAMBLE_LIMIT + 1) + b"\r\n--xyz--",
        b"--xyz\r\nno field\r\n\r\n\r\n--xyz--",
        b"--xyz\r\nA: " + b"b" * HEADERS_LIMIT + b"\r\n\r\n\r\n--xyz--",
        b"--xyz\r\n" + b"A: b\r\n" * 65 + b"\r\n\r\n--xyz--",
        b"--xyz" + b" " * 300 + b"\r\n\r\n\r\n--xyz",
    ],
)
def test_bad_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidMultipart):
        read(body, "xyz")
    with pytest.raises(InvalidMultipart):
        read(body, "xyz", *range(len(body)))


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(InvalidMultipart):
        list(Reader("xyz", parts_limit=2).receive_data(body_of("xyz", b"", b"", b"")))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_noise_raises_nothing_else(noise: bytes, cuts: list[int]) -> None:
    with suppress(InvalidMultipart):
        read(b"--xyz\r\n" + noise, "xyz", *cuts)


def test_a_long_part_is_not_kept_in_memory() -> None:
    reader = Reader("xyz")
    list(reader.receive_data(b"--xyz\r\n\r\n"))
    piece = b"\r\n--xy" * 10_000
    for _ in range(20):
        events = list(reader.receive_data(piece))
        assert sum(len(event.data) for event in events if isinstance(event, PartData)) >= len(piece) - 8
