"""Every resource of the web services with its media types and parameters (PS3.18 10.1.1, 9, 8.9, H).

Capabilities are generated from this table. A test compares it with the routes, so that no route is without
its row, and asks each resource for each of its media types.
"""

from dataclasses import dataclass, replace
from typing import Final

from pydicom.datadict import dictionary_description, dictionary_VR

from pacsnode.pixels.plan import VIDEO
from pacsnode.web import metadata, qido
from pacsnode.web.media import DICOM, JSON, OCTETS, XML, Offer
from pacsnode.web.origin import ROOT
from pacsnode.web.rendered import DOCUMENT_TYPES, IMAGE_TYPES, TEXT_TYPES, THUMBNAIL_TYPES
from pacsnode.web.rendering import ANNOTATIONS, ICC_PROFILES
from pacsnode.web.store_metadata import METADATA_TYPES
from pacsnode.web.syntaxes import MEDIA_TYPE_OF
from pacsnode.web.target import INSTANCE, SERIES, STUDY
from pacsnode.web.wado_uri import PATH as WADO_URI
from pacsnode.web.zipped import ZIP

HTML: Final = "text/html"
WADL: Final = "application/vnd.sun.wadl+xml"
PLAIN_JSON: Final = "application/json"
OPENAPI: Final = "application/vnd.oai.openapi+json;version=3.1"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter. `type` as JSON Schema has it; `values`: all there are, any where it is empty."""

    name: str
    meaning: str
    type: str = "string"
    values: tuple[str, ...] = ()
    required: bool = False
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Resource:
    """One method of a resource. `path` is that of its route; `takes` are the media types of a body."""

    path: str
    method: str
    transaction: str
    section: str
    answers: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    takes: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200, 304, 400, 404, 406)
    note: str = ""

    @property
    def template(self) -> str:
        """The path as a URI Template, without the converters of routes."""
        return self.path.replace(":path}", "}")

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(part.partition("}")[0] for part in self.template.split("{")[1:])


VARIABLES: Final = {
    "study": "Study Instance UID",
    "series": "Series Instance UID",
    "instance": "SOP Instance UID",
    "frames": "numbers of frames from 1 on, separated by commas",
    "element": "where a value is, as the BulkDataURI of the metadata names it: tag, or tag/item/tag",
}

_ACCEPT: Final = Parameter("accept", "acceptable media types, before those of the Accept header")
_PAGE: Final = (
    Parameter("limit", "results at most", "integer"),
    Parameter("offset", "results to pass over", "integer"),
)
_SEARCH: Final = (
    *_PAGE,
    Parameter("includefield", "attributes to return too: keyword, tag, path, or all", repeats=True),
    Parameter("fuzzymatching", "match names by their sound", "boolean", ("true", "false")),
    Parameter("emptyvaluematching", "a value of two quotes matches no value", "boolean", ("true", "false")),
    Parameter("multiplevaluematching", "a list of values matches each", "boolean", ("true", "false")),
    _ACCEPT,
)
_KEYS: Final = {
    "studies": "StudyDate StudyTime AccessionNumber ModalitiesInStudy ReferringPhysicianName PatientName "
    "PatientID StudyInstanceUID StudyID",
    "series": "Modality SeriesInstanceUID SeriesNumber PerformedProcedureStepStartDate "
    "PerformedProcedureStepStartTime",
    "instances": "SOPClassUID SOPInstanceUID InstanceNumber",
}
_MATCHING: Final = {
    "CS": "a value, * and ?, or a list",
    "DA": "a day, or a range",
    "IS": "a number",
    "LO": "a value, * and ?",
    "PN": "a name, * and ?",
    "SH": "a value, * and ?",
    "TM": "a time, or a range",
    "UI": "a UID, or a list",
}
_RENDERED: Final = (
    Parameter(
        "annotation", "what is written on the image: a list of keywords", values=tuple(sorted(ANNOTATIONS))
    ),
    Parameter("quality", "quality of lossy compression, from 1 to 100", "integer"),
    Parameter("viewport", "width,height to fit into, then x,y,width,height of the region"),
    Parameter("window", "center,width and one of linear, linear-exact, sigmoid"),
    Parameter("iccprofile", "the ICC profile in the image", values=tuple(sorted(ICC_PROFILES))),
    _ACCEPT,
)
_WADO_URI: Final = (
    Parameter("requestType", "always WADO", values=("WADO",), required=True),
    Parameter("studyUID", "Study Instance UID", required=True),
    Parameter("seriesUID", "Series Instance UID", required=True),
    Parameter("objectUID", "SOP Instance UID", required=True),
    Parameter("contentType", "acceptable media types, before those of the Accept header"),
    Parameter("charset", "acceptable character sets of text; there is UTF-8"),
    Parameter("transferSyntax", "transfer syntax of application/dicom; Explicit VR Little Endian without it"),
    Parameter("anonymize", "leave out what identifies the patient (PS3.15 E)", values=("yes",)),
    Parameter("annotation", "as imageAnnotation"),
    Parameter("imageAnnotation", "what is written on the image", values=tuple(sorted(ANNOTATIONS))),
    Parameter("rows", "height to fit into, in pixels", "integer"),
    Parameter("columns", "width to fit into, in pixels", "integer"),
    Parameter("region", "left,top,right,bottom from 0.0 to 1.0"),
    Parameter("windowCenter", "with windowWidth", "number"),
    Parameter("windowWidth", "with windowCenter", "number"),
    Parameter("frameNumber", "frame from 1 on", "integer"),
    Parameter("imageQuality", "quality of lossy compression, from 1 to 100", "integer"),
    Parameter("presentationUID", "presentation state to apply, with presentationSeriesUID"),
    Parameter("presentationSeriesUID", "the series of the presentation state"),
)

_FRAME_TYPES: Final = tuple(dict.fromkeys(MEDIA_TYPE_OF.values()))
_VIDEO_TYPES: Final = tuple(dict.fromkeys(MEDIA_TYPE_OF[uid] for uid in sorted(VIDEO)))
_DOCUMENTS: Final = tuple(dict.fromkeys(one for types in DOCUMENT_TYPES.values() for one in types))
RENDERED_TYPES: Final = tuple(dict.fromkeys((*IMAGE_TYPES, *TEXT_TYPES, *_DOCUMENTS, *_VIDEO_TYPES)))


def _parts(*types: str) -> tuple[str, ...]:
    return tuple(str(Offer(one, multipart=True)) for one in types)


def _of_level(path: str, level: str) -> tuple[Resource, ...]:
    """What a study, a series and an instance have in common (Table 10.4.1-1 to 10.4.1-4)."""
    alone = (DICOM,) if level == "Instance" else ()
    octets = (*_parts(OCTETS), *((OCTETS,) if level == "Instance" else ()))
    statuses = (200, 206, 304, 400, 404, 406)
    directory = Parameter("dicomdir", "a DICOMDIR in the ZIP archive", "boolean", ("true", "false"))
    retrieve = Resource(
        path, "GET", f"Retrieve {level}", "10.4",
        (*_parts(DICOM), *alone, ZIP, *_parts(OCTETS, *_FRAME_TYPES)), (_ACCEPT,), statuses=statuses,
    )  # fmt: skip
    return (
        replace(retrieve, parameters=(_ACCEPT, directory)),
        replace(
            retrieve, path=f"{path}/metadata", transaction=f"Retrieve {level} Metadata",
            answers=tuple(map(str, metadata.OFFERS)), statuses=(200, 304, 400, 404, 406),
        ),
        replace(
            retrieve, path=f"{path}/bulkdata", transaction=f"Retrieve {level} Bulkdata",
            answers=_parts(OCTETS),
        ),
        replace(
            retrieve, path=f"{path}/pixeldata", transaction=f"Retrieve {level} Pixel Data",
            answers=(*octets, *_parts(*_FRAME_TYPES)),
        ),
        Resource(
            f"{path}/rendered", "GET", f"Retrieve Rendered {level}", "10.4",
            (*RENDERED_TYPES, *_parts(*RENDERED_TYPES)), _RENDERED, statuses=statuses,
        ),
        Resource(
            f"{path}/thumbnail", "GET", f"Retrieve {level} Thumbnail", "10.4", THUMBNAIL_TYPES,
            (_RENDERED[2], _ACCEPT),
        ),
    )  # fmt: skip


def _search(path: str, transaction: str, *levels: str) -> Resource:
    keys = (
        Parameter(name, f"{dictionary_description(name)}: {_MATCHING[dictionary_VR(name)]}")
        for level in levels
        for name in _KEYS[level].split()
    )
    return Resource(
        ROOT + path, "GET", transaction, "10.6", tuple(map(str, qido.OFFERS)), (*keys, *_SEARCH),
        statuses=(200, 204, 304, 400, 406),
        note="Any other attribute matches too: by keyword, tag, or path into sequences. Other parameters are "
        "ignored, with a Warning.",
    )  # fmt: skip


def _store(path: str, transaction: str) -> Resource:
    takes = (DICOM, *METADATA_TYPES)
    return Resource(
        path, "POST", transaction, "10.5", (JSON, XML), (_ACCEPT,), (*_parts(*takes), DICOM),
        (200, 202, 400, 406, 409, 413, 415),
    )  # fmt: skip


_FRAMES: Final = INSTANCE + "/frames/{frames}"

RESOURCES: Final[tuple[Resource, ...]] = (
    _search("/studies", "Search for Studies", "studies"),
    _store(f"{ROOT}/studies", "Store Instances"),
    *_of_level(STUDY, "Study"),
    _store(STUDY, "Store Study Instances"),
    _search("/studies/{study}/series", "Search for Study Series", "series"),
    *_of_level(SERIES, "Series"),
    _search("/studies/{study}/series/{series}/instances", "Search for Study Series Instances", "instances"),
    *_of_level(INSTANCE, "Instance"),
    Resource(
        INSTANCE + "/bulkdata/{element:path}", "GET", "Retrieve Bulkdata", "10.4", (OCTETS, *_parts(OCTETS)),
        (_ACCEPT,), statuses=(200, 206, 304, 400, 404, 406, 416),
    ),
    Resource(
        _FRAMES, "GET", "Retrieve Frames", "10.4", (*_parts(OCTETS, *_FRAME_TYPES), OCTETS, *_FRAME_TYPES),
        (_ACCEPT,), statuses=(200, 206, 304, 400, 404, 406, 416),
    ),
    Resource(
        f"{_FRAMES}/rendered", "GET", "Retrieve Rendered Frames", "10.4",
        (*IMAGE_TYPES, *_parts(*IMAGE_TYPES)), _RENDERED, statuses=(200, 206, 304, 400, 404, 406),
    ),
    Resource(
        f"{_FRAMES}/thumbnail", "GET", "Retrieve Frame Thumbnail", "10.4", THUMBNAIL_TYPES,
        (_RENDERED[2], _ACCEPT),
    ),
    _search("/studies/{study}/instances", "Search for Study Instances", "series", "instances"),
    _search("/series", "Search for Series", "studies", "series"),
    _search("/instances", "Search for Instances", "studies", "series", "instances"),
    Resource(
        WADO_URI, "GET", "Retrieve Instance (URI)", "9", (*RENDERED_TYPES, DICOM), _WADO_URI,
        statuses=(200, 206, 304, 400, 403, 404, 406),
    ),
    Resource(f"{ROOT}/", "GET", "Browse Capabilities", "8.9", (HTML, WADL, PLAIN_JSON, OPENAPI)),
    Resource(f"{ROOT}/openapi.json", "GET", "Retrieve OpenAPI Description", "8.9", (PLAIN_JSON,)),
    Resource(f"{ROOT}/conformance", "GET", "Retrieve What Is Served", "9.2", (HTML, PLAIN_JSON)),
)  # fmt: skip
