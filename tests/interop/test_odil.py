"""odil as SCU."""

import re
from pathlib import Path

import pytest

from pacsnode.node import Node
from tests.conftest import Finished, needs, run
from tests.support.compare import differences
from tests.support.files import bundled, named
from tests.support.objects import object_path, part10
from tests.support.truth import Truth

pytestmark = [needs("odil"), pytest.mark.filterwarnings("ignore::UserWarning:pydicom")]


async def odil(node: Node, command: str, *arguments: object) -> Finished:
    address = ("127.0.0.1", str(node.dimse_port), "ODIL", "PACSNODE")
    done = await run("odil", command, *address, *map(str, arguments))
    assert done.status == 0, done.output
    return done


def answers(done: Finished, name: str) -> list[str]:
    """The values of one attribute in what `odil find` printed."""
    return sorted(re.findall(rf"^{name} .*\['(.*)'\]", done.output, re.MULTILINE))


async def test_echo(node: Node) -> None:
    await odil(node, "echo")


async def test_store_of_uncompressed_objects(node: Node, root: Path) -> None:
    files = named("CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "reportsi.dcm", "waveform_ecg.dcm")
    await odil(node, "store", *files)
    for path in files:
        assert differences(path, object_path(root, part10(path)), private=False) == [], path


async def test_store_of_compressed_objects(node: Node, root: Path) -> None:
    files = named("SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm")
    await odil(node, "store", *files)
    for path in files:
        assert differences(path, object_path(root, part10(path)), private=False) == [], path


async def test_find_down_the_hierarchy(node: Node) -> None:
    truth = Truth.of(
        path for path in bundled() if path.name in {"CT_small.dcm", "rtplan.dcm", "reportsi.dcm"}
    )
    await odil(node, "store", *(item.path for item in truth.items))
    done = await odil(node, "find", "study", "QueryRetrieveLevel=STUDY", "StudyInstanceUID=")
    assert answers(done, "Study Instance UID") == sorted(truth.studies)
    for (study, series), items in truth.series.items():
        above = ("study", f"StudyInstanceUID={study}")
        done = await odil(node, "find", *above, "QueryRetrieveLevel=SERIES", "SeriesInstanceUID=")
        assert answers(done, "Series Instance UID") == [series]
        keys = (f"SeriesInstanceUID={series}", "QueryRetrieveLevel=IMAGE", "SOPInstanceUID=")
        done = await odil(node, "find", *above, *keys)
        assert answers(done, "SOP Instance UID") == [item.sop for item in items]


async def test_find_patients_by_a_wild_card(node: Node) -> None:
    await odil(node, "store", *named("CT_small.dcm", "MR_small.dcm", "rtplan.dcm"))
    keys = ("QueryRetrieveLevel=PATIENT", "PatientName=*samples*", "PatientID=")
    assert answers(await odil(node, "find", "patient", *keys), "Patient ID") == ["1CT1", "4MR1"]
