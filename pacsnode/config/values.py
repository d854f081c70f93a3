"""What the value of a setting may be: types with their limits, each with the words for a complaint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field

from pacsnode.dicom.uid import UID, AETitle, ae_title, is_uid


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a value may be, in words: the end of every complaint and a column of the documentation."""

    text: str


def no_bool(value: object) -> object:
    if isinstance(value, bool):  # pydantic would take true for 1
        raise ValueError("a number is wanted")
    return value


def split_at_commas(value: object) -> object:
    """An environment variable holds a list as text with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _uid(text: str) -> UID:
    if not is_uid(text):
        raise ValueError("not a UID")
    return UID(text)


def _pdu_length(value: int) -> int:
    if 0 < value < MIN_PDU_LENGTH:
        raise ValueError("too short")
    return value


def _keywords(keys: Mapping[str, str]) -> Mapping[str, str]:
    """Attributes by keyword; those inside a sequence as `Sequence.Attribute`."""
    if keys:
        from pydicom.datadict import dictionary_VR, tag_for_keyword  # slow to import, and seldom needed

        for path in keys:
            *sequences, last = (tag_for_keyword(keyword) for keyword in path.split("."))
            if last is None or not all(tag and dictionary_VR(tag) == "SQ" for tag in sequences):
                raise ValueError(f"{path} names no attribute")
    return keys


MIN_PDU_LENGTH: Final = 64  # bytes; shorter ones hold little more than the PDV's own header (PS3.8 9.3.5.1)
Title = Annotated[
    AETitle,
    AfterValidator(ae_title),
    Allowed("an AE title: 1 to 16 characters, no backslash, not only spaces"),
]
Port = Annotated[
    int, BeforeValidator(no_bool), Field(ge=0, le=65535), Allowed("0 to 65535 (0: any free port)")
]
Host = Annotated[str, Field(min_length=1), Allowed("a host name or an IP address")]
Seconds = Annotated[
    float, BeforeValidator(no_bool), Field(ge=0, le=86400), Allowed("seconds, 0 to 86400 (0: no limit)")
]
Patience = Annotated[
    float, BeforeValidator(no_bool), Field(gt=0, le=86400), Allowed("seconds, more than 0, to 86400")
]
Threads = Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=64), Allowed("1 to 64")]
Size = Annotated[
    ByteSize, BeforeValidator(no_bool), Field(ge=0), Allowed('bytes, or a size such as "512 MiB" or "1 GB"')
]
Switch = Annotated[bool, Allowed("true or false")]
PduLength = Annotated[
    int,
    BeforeValidator(no_bool),
    Field(ge=0, le=2**32 - 1),
    AfterValidator(_pdu_length),
    Allowed(f"bytes, {MIN_PDU_LENGTH} to {2**32 - 1}, or 0 (no limit)"),
]
Titles = Annotated[tuple[Title, ...], BeforeValidator(split_at_commas), Allowed("a list of AE titles")]
Uids = Annotated[
    tuple[Annotated[UID, AfterValidator(_uid)], ...],
    BeforeValidator(split_at_commas),
    Allowed("a list of UIDs"),
]
Hours = Annotated[
    float, BeforeValidator(no_bool), Field(ge=0, le=87600), Allowed("hours, 0 to 87600 (0: never)")
]
Removals = Annotated[
    tuple[Literal["started", "completed", "arrived"], ...],
    BeforeValidator(split_at_commas),
    Allowed('a list of "started", "completed", "arrived"'),
]
Views = Annotated[
    tuple[
        Annotated[str, Field(pattern=r"^[^=]+= *(all|none|station|modality +[^ ].*|location +[^ ].*)$")], ...
    ],
    BeforeValidator(split_at_commas),
    Allowed('a list of "AET = all", "= none", "= station", "= modality CT/MR" or "= location ROOM 1"'),
]
Stations = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Z0-9_ ]+= *[^= ][^=]*$")], ...],
    BeforeValidator(split_at_commas),
    Allowed('a list of "MODALITY = AET/AET"'),
]
CharacterSet = Annotated[
    str,
    Field(min_length=1),
    Allowed('a value of HL7 table 0211: "ASCII", "8859/1", "UNICODE UTF-8", "ISO IR87"'),
]
PublicUrl = Annotated[
    str,
    Field(pattern=r"^(https?://[^/?#\s]+(/[^?#\s]*)?)?$"),
    AfterValidator(lambda url: url.rstrip("/")),
    Allowed("an http or https URL without query, or empty"),
]
Origins = Annotated[
    tuple[Annotated[str, Field(pattern=r"^(\*|null|https?://[^/?#\s]+)$")], ...],
    BeforeValidator(split_at_commas),
    Allowed('a list of origins such as "https://viewer.example.org", or "*"'),
]
Methods = Annotated[
    tuple[Literal["GET", "HEAD", "POST", "PUT", "DELETE"], ...],
    BeforeValidator(split_at_commas),
    Allowed("a list of GET, HEAD, POST, PUT, DELETE"),
]
Texts = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(split_at_commas),
    Allowed("a list of texts"),
]
SomeTitles = Annotated[Titles, Field(min_length=1), Allowed("a list of AE titles, one at least")]
Patterns = Annotated[Texts, Allowed("a list of texts; `*` and `?` are wild cards")]
Keys = Annotated[
    Mapping[str, str],
    AfterValidator(_keywords),
    Allowed('a table: { PatientID = "A*", "RequestAttributesSequence.ScheduledProcedureStepID" = "S1" }'),
]
Priority = Annotated[Literal["high", "medium", "low"], Allowed('"high", "medium" or "low"')]
NAMES: Final = "1 to 32 letters, digits, hyphens and underscores"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$"), Allowed(NAMES)]
PeerPort = Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=65535), Allowed("1 to 65535")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
