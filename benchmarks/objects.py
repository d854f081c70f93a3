"""Synthetic DICOM objects, encoded by hand in Explicit VR Little Endian (PS3.5 7.1.2).

Only the attributes are encoded per object; the pixel data of one shape is one random block shared by all
objects of that shape, so that neither memory nor the generator's speed limits what is sent.
"""

import os
import random
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from itertools import count, islice, product

EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MULTI_FRAME_WORD = "1.2.840.10008.5.1.4.1.1.7.3"  # Multi-frame Grayscale Word Secondary Capture
IMPLEMENTATION = "2.25.192837465546372819100"

LONG_VRS = frozenset({"OB", "OW"})  # of those used here: 32-bit length after two reserved bytes (PS3.5 7.1.2)
FIRST_DAY = date(2020, 1, 1)
DAYS = 5 * 365

# 500 names, as even as a telephone book is not: 4 in 500 are found by SMITH*, 8 by *son*.
FAMILY_NAMES = (
    *("SMITH", "SMITHERS", "SMITHEY", "SMITHSTON"),
    *("JOHNSON", "ANDERSON", "JACKSON", "WILSON", "NELSON", "ROBINSON", "THOMPSON", "PEARSON"),
    *islice(
        map(
            "".join,
            product(
                ("BA", "DE", "FI", "GO", "HU", "KA", "LE", "MI", "NO", "RU"),
                ("RD", "LK", "NT", "RS", "MM", "CK", "LL", "NG", "TZ", "SS"),
                ("ER", "INI", "OVA", "EZ", "AUD"),
            ),
        ),
        488,
    ),
)
GIVEN_NAMES = (
    "ALICE",
    "BRUNO",
    "CLARA",
    "DAVID",
    "ELENA",
    "FELIX",
    "GRETA",
    "HENRI",
    "IRENE",
    "JONAS",
    "OLGA",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Pixel dimensions: 16 bits a pixel."""

    name: str
    side: int
    frames: int = 1

    @property
    def sop_class(self) -> str:
        return CT_IMAGE if self.frames == 1 else MULTI_FRAME_WORD


TINY = Shape("tiny", 8)  # 128 bytes of pixels: an object that costs the index, not the disk
SMALL = Shape("9 KB", 64)
CT = Shape("525 KB CT", 512)
BIG = Shape("500 MB", 512, frames=954)  # 954 x 524,288 bytes


@dataclass(frozen=True, slots=True)
class Study:
    """The patient and study attributes that a query can ask for."""

    study: str
    series: str
    patient_id: str
    patient_name: str
    accession: str
    study_date: str
    modality: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One object: `head` holds everything up to the pixel data's length field, `pixels` the rest."""

    sop_class: str
    sop_instance: str
    head: bytes
    pixels: bytes

    def __len__(self) -> int:
        return len(self.head) + len(self.pixels)

    @property
    def part10_head(self) -> bytes:
        """Preamble, File Meta Information (PS3.10 7.1) and `head`."""
        meta = b"".join(
            (
                element(0x0002, 0x0001, "OB", b"\x00\x01"),
                element(0x0002, 0x0002, "UI", self.sop_class),
                element(0x0002, 0x0003, "UI", self.sop_instance),
                element(0x0002, 0x0010, "UI", EXPLICIT_VR_LE),
                element(0x0002, 0x0012, "UI", IMPLEMENTATION),
            )
        )
        length = element(0x0002, 0x0000, "UL", struct.pack("<I", len(meta)))
        return bytes(128) + b"DICM" + length + meta + self.head


@dataclass(slots=True)
class Batch:
    """The instances that one association sends: one series of one new study."""

    of: Study
    instances: list[Instance] = field(default_factory=list)


def uid() -> str:
    """A new UID under the UUID root (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def element(group: int, number: int, vr: str, value: str | bytes) -> bytes:
    """One data element, its value padded to even length (PS3.5 6.2)."""
    raw = value.encode("ascii") if isinstance(value, str) else value
    if len(raw) % 2:
        raw += b"\0" if vr in ("UI", "OB") else b" "
    if vr in LONG_VRS:
        return struct.pack("<HH2sxxI", group, number, vr.encode(), len(raw)) + raw
    return struct.pack("<HH2sH", group, number, vr.encode(), len(raw)) + raw


def identifier(keys: dict[int, str]) -> bytes:
    """A C-FIND identifier of text keys in Implicit VR Little Endian (PS3.5 7.1.3): tag -> value."""
    encoded = []
    for tag, value in sorted(keys.items()):
        raw = value.encode("ascii")
        if len(raw) % 2:
            raw += b"\0" if value.startswith("2.25.") else b" "
        encoded.append(struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw)) + raw)
    return b"".join(encoded)


@cache
def pixels(shape: Shape) -> bytes:
    frame = os.urandom(shape.side * shape.side * 2)
    return frame if shape.frames == 1 else frame * shape.frames


def instance(of: Study, shape: Shape, number: int) -> Instance:
    """Image `number` of the study's series, with the attributes a CT scanner would send."""
    sop_instance = uid()
    data = pixels(shape)
    elements = (
        element(0x0008, 0x0008, "CS", "ORIGINAL\\PRIMARY\\AXIAL"),
        element(0x0008, 0x0016, "UI", shape.sop_class),
        element(0x0008, 0x0018, "UI", sop_instance),
        element(0x0008, 0x0020, "DA", of.study_date),
        element(0x0008, 0x0021, "DA", of.study_date),
        element(0x0008, 0x0030, "TM", "081500"),
        element(0x0008, 0x0050, "SH", of.accession),
        element(0x0008, 0x0060, "CS", of.modality),
        element(0x0008, 0x0070, "LO", "BENCHMARK"),
        element(0x0008, 0x0080, "LO", "LOOPBACK CLINIC"),
        element(0x0008, 0x0090, "PN", "REFERRING^PHYSICIAN"),
        element(0x0008, 0x1030, "LO", "THORAX NATIVE"),
        element(0x0008, 0x103E, "LO", "AXIAL 1MM"),
        element(0x0010, 0x0010, "PN", of.patient_name),
        element(0x0010, 0x0020, "LO", of.patient_id),
        element(0x0010, 0x0030, "DA", "19610412"),
        element(0x0010, 0x0040, "CS", "O"),
        element(0x0018, 0x0050, "DS", "1"),
        element(0x0018, 0x0060, "DS", "120"),
        element(0x0018, 0x5100, "CS", "HFS"),
        element(0x0020, 0x000D, "UI", of.study),
        element(0x0020, 0x000E, "UI", of.series),
        element(0x0020, 0x0010, "SH", "1"),
        element(0x0020, 0x0011, "IS", "1"),
        element(0x0020, 0x0012, "IS", "1"),
        element(0x0020, 0x0013, "IS", str(number)),
        element(0x0020, 0x0032, "DS", f"0\\0\\{number}"),
        element(0x0020, 0x0037, "DS", "1\\0\\0\\0\\1\\0"),
        element(0x0020, 0x0052, "UI", of.series),  # a frame of reference of the series' own will do
        element(0x0020, 0x0060, "CS", ""),
        element(0x0020, 0x1040, "LO", ""),
        element(0x0028, 0x0002, "US", struct.pack("<H", 1)),
        element(0x0028, 0x0004, "CS", "MONOCHROME2"),
        element(0x0028, 0x0008, "IS", str(shape.frames)) if shape.frames > 1 else b"",
        element(0x0028, 0x0010, "US", struct.pack("<H", shape.side)),
        element(0x0028, 0x0011, "US", struct.pack("<H", shape.side)),
        element(0x0028, 0x0030, "DS", "0.75\\0.75"),
        element(0x0028, 0x0100, "US", struct.pack("<H", 16)),
        element(0x0028, 0x0101, "US", struct.pack("<H", 16)),
        element(0x0028, 0x0102, "US", struct.pack("<H", 15)),
        element(0x0028, 0x0103, "US", struct.pack("<H", 0)),
        element(0x0028, 0x1050, "DS", "40"),
        element(0x0028, 0x1051, "DS", "350"),
        element(0x0028, 0x1052, "DS", "-1024"),
        element(0x0028, 0x1053, "DS", "1"),
        struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", len(data)),
    )
    return Instance(shape.sop_class, sop_instance, b"".join(elements), data)


def studies(seed: int = 0) -> Iterator[Study]:
    """Endless new studies, each of a patient of its own; names, dates, modalities repeat with `seed`."""
    dice = random.Random(seed)
    run = uuid.uuid4().hex[:6].upper()  # keeps patient IDs and accession numbers of two calls apart
    for number in count(1):
        yield Study(
            study=uid(),
            series=uid(),
            patient_id=f"P{run}{number:07d}",
            patient_name=f"{dice.choice(FAMILY_NAMES)}^{dice.choice(GIVEN_NAMES)}",
            accession=f"A{run}{number:07d}",
            study_date=(FIRST_DAY + timedelta(days=dice.randrange(DAYS))).strftime("%Y%m%d"),
            modality=dice.choice(("CT", "MR", "CR", "US")),
        )


def batches(shape: Shape, total: int, associations: int) -> list[Batch]:
    """`total` new objects dealt out over as many new studies as there are associations."""
    dealt = [Batch(of) for of, _ in zip(studies(), range(associations), strict=False)]
    for at in range(total):
        batch = dealt[at % associations]
        batch.instances.append(instance(batch.of, shape, len(batch.instances) + 1))
    return dealt
