"""OHIF in Chromium, served from another origin, against a node with real objects.

Its screenshots are in pytest's temporary folder; `PACSNODE_TEST_PICTURES` names another one.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
import pytest_asyncio

from pacsnode.node import Node
from tests.conftest import real_objects, settings_for
from tests.support.browser import ohif, script, workshop
from tests.support.objects import part10 as read
from tests.support.sending import send_files
from tests.support.viewed_study import SLICES, part10, viewed_study

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        os.environ.get("PACSNODE_TEST_BROWSER") != "1", reason="takes half a minute: `make test-browser`"
    ),
]

OTHERS = ("MR_small.dcm", "image_dfl.dcm", "examples_ybr_color.dcm", "test-SR.dcm", "GDCMJ2K_TextGBR.dcm")
# Field, what is typed, and what OHIF makes of it
FILTERS = (
    ("patientName", "müller", "PatientName=*m%C3%BCller*"),
    ("mrn", "VW-5", "00100020=*VW-5*"),
    ("description", "Schädel", "StudyDescription=*Sch%C3%A4del*"),
    ("accession", "A1004", "AccessionNumber=*A1004*"),
)
SHOWN = (("SEG", "/instances/"), ("RTSTRUCT", None), ("DOC", "/rendered"))


@dataclass(frozen=True)
class Scene:
    seen: dict[str, Any]
    pictures: Path


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """All of it in one run, since OHIF takes seconds to start."""
    pages = await ohif()
    folder = await workshop(tmp_path_factory.mktemp("ohif"))
    pictures = Path(os.environ.get("PACSNODE_TEST_PICTURES") or folder)
    objects = viewed_study()
    async with Node(settings_for(tmp_path_factory.mktemp("node") / "root")) as node:
        others = [read(path) for path in real_objects() if path.name in OTHERS]
        assert set(await send_files(node.dimse_port, others)) == {0}
        root = f"http://127.0.0.1:{node.web_port}/dicomweb"
        async with httpx.AsyncClient(timeout=20) as client:
            for one in objects:
                await _store(client, root, part10(one))
        given = {
            "root": root,
            "pages": str(pages),
            "study": objects[0].StudyInstanceUID,
            "filters": FILTERS,
            "shows": SHOWN,
            "pictures": str(pictures),
        }
        return Scene(await script(folder, "ohif.mjs", given, limit=180), pictures)


async def _store(client: httpx.AsyncClient, root: str, content: bytes) -> None:
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--"
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    answer = await client.post(f"{root}/studies", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text


async def test_the_list_has_every_study_one_without_modality_too(scene: Scene) -> None:
    assert scene.seen["rows"][""] == 1 + len(OTHERS)


@pytest.mark.parametrize(("field", "text"), [(field, text) for field, text, _ in FILTERS])
async def test_a_filter_leaves_the_study_it_describes(scene: Scene, field: str, text: str) -> None:
    (row,) = scene.seen["rows"][f"{field}={text}"]
    for shown in ("Müller, Jürgen", "VW-55", "15-May-2024", "CT Schädel nativ", "A1004"):
        assert shown in row


async def test_modality_and_date_filter_too(scene: Scene) -> None:
    (magnetic,) = scene.seen["rows"]["modalities=MR"]
    assert "CompressedSamples, MR1" in magnetic
    (recent,) = scene.seen["rows"]["startDate=20240501&endDate=20240601"]
    assert "Müller, Jürgen" in recent


async def test_a_study_opens_with_a_thumbnail_and_all_its_frames(scene: Scene) -> None:
    pictures = {text.split()[0]: width for text, width in scene.seen["thumbnails"]}
    assert set(pictures) == {"CT", "SEG", "RTSTRUCT", "DOC"}
    assert pictures["CT"] > 0
    assert scene.seen["frames"] >= SLICES


async def test_slices_and_what_belongs_to_them_are_drawn(scene: Scene) -> None:
    assert scene.seen["shown"] == {"SEG": 200, "RTSTRUCT": None, "DOC": 200}
    plain, segmented = (_pane(scene.pictures / f"{name}.png") for name in ("scrolled", "SEG"))
    assert plain.std() > 20
    assert _red(plain) == 0
    assert _red(segmented) > 0.05
    contoured = _pane(scene.pictures / "RTSTRUCT.png")
    red, green, blue = (contoured[..., channel] for channel in range(3))
    assert ((red > 200) & (abs(green - 150) < 40) & (blue < 90)).sum() > 500  # the orange line
    assert _red(_pane(scene.pictures / "DOC.png")) > 0.02  # the page is a red field


async def test_the_node_refuses_nothing(scene: Scene) -> None:
    assert [one for one in scene.seen["requests"] if one[0] >= 400] == []
    assert [one for one in scene.seen["errors"] if "127.0.0.1" in one or "CORS" in one] == []


def _pane(path: Path) -> np.ndarray:
    """The viewport of a screenshot, without what lies beside it."""
    return imagecodecs.png_decode(path.read_bytes())[80:900, 320:1430, :3].astype(int)


def _red(cells: np.ndarray) -> float:
    return float(((cells[..., 0] - cells[..., 1] > 60) & (cells[..., 0] - cells[..., 2] > 60)).mean())
