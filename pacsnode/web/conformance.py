"""The part of the Conformance Statement about the web services, in Markdown (PS3.2 A, PS3.18 9.2, 10.2)."""

from collections.abc import Iterable, Iterator
from typing import Final

from pacsnode.web.capabilities import served
from pacsnode.web.decoding import DECODERS
from pacsnode.web.openapi import by_group
from pacsnode.web.rendering import THUMBNAIL_SIDE
from pacsnode.web.resources import Resource
from pacsnode.web.store_report import MEANINGS

# PS3.18 10.4.5, 10.5.5, 10.6.5
_NOTES: Final[dict[str, Iterable[str]]] = {
    "Search (QIDO-RS)": (
        "- A native implementation; matching is that of C-FIND, by the index and the headers kept with it.",
        "- At most `web.max_results` matches in an answer; a Warning tells how many more there are.",
        "- Fuzzy, empty value and multiple value matching are supported. Private attributes are not matched.",
        "- An empty attribute matches no value, unlike in C-FIND, where `query.match_unknown` decides.",
        "- A parameter that is neither an attribute nor known here is ignored, with a Warning; a misspelt",
        "  keyword, and an attribute below the level that is searched, are refused (400).",
    ),
    "Retrieve (WADO-RS)": (
        "- Without a transfer syntax instances are sent in Explicit VR Little Endian, lossy ones as stored;",
        "  `transfer-syntax=*` means as stored. Implicit VR and Big Endian are never sent.",
        "- A request without Accept is answered as `*/*`, not with 406.",
        "- What is not here is 404. Nothing is ever deleted, so nothing is 410.",
        "- One byte range of an answer of one part is served; ETags are those of the objects.",
        "- A ZIP archive is a File-set with its DICOMDIR where `dicomdir=true` asks for it.",
        "- Text is UTF-8.",
        f"- A thumbnail shows the middle image, {THUMBNAIL_SIDE} pixels at most or as `viewport` says; what",
        "  cannot be shown, such as raw data, is a card that names its kind. It never names the patient.",
    ),
    "Store (STOW-RS)": (
        "- SOP Classes and transfer syntaxes are those of the Storage Service.",
        "- Metadata may come with bulk data as `application/octet-stream`, `image/jpeg`, `image/jls`,",
        "  `image/jp2`, `image/jpx`, `image/jphc`, `image/jxl`, `image/dicom-rle`, `video/mpeg`,",
        "  `video/mp4`, `video/H265`, kept as they are; `image/png` and `image/gif`, which become",
        "  uncompressed; and documents of any type. Its text becomes UTF-8.",
        f"- Bodies may be in the content codings {', '.join(DECODERS)}.",
        "- 200 says that all were stored, 202 that some were not or have warnings, 409 that none was.",
    ),
}


def statement() -> str:
    """As origin server; the node is no user agent."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "## 6 Web services"
    yield ""
    yield "Role: origin server. OPTIONS on any resource describes it."
    for group, resources in by_group().items():
        yield ""
        yield f"### {group}"
        yield ""
        yield from _NOTES.get(group, ())
        for resource in resources:
            yield from _described(resource)
        if group == "Store (STOW-RS)":
            yield from _reasons()
    made = next(rows for title, rows in served() if title.startswith("Transfer syntaxes that are made"))
    yield ""
    yield "### Transfer syntaxes"
    yield ""
    yield "As stored, or when asked for, from what can be decoded:"
    yield ""
    yield from (f"- {name} `{uid}`" for uid, name in made)
    yield ""


def _reasons() -> Iterator[str]:
    """Table I.2-1 and I.2-2, with what is our own (10.5.5)."""
    yield ""
    yield "Failure and Warning Reasons:"
    yield ""
    yield from (f"- {reason:04X}H ({reason}): {meaning}" for reason, meaning in MEANINGS.items())


def _described(resource: Resource) -> Iterator[str]:
    yield ""
    yield f"**{resource.transaction}**: `{resource.method} {resource.template}`"
    yield ""
    if resource.takes:
        yield f"- Takes {_listed(resource.takes)}"
    yield f"- Answers with {_listed(resource.answers)}"
    if resource.parameters:
        yield f"- Parameters {_listed(one.name for one in resource.parameters)}"
    yield f"- Statuses {', '.join(map(str, resource.statuses))}"


def _listed(items: Iterable[str]) -> str:
    return ", ".join(f"`{one}`" for one in items)
