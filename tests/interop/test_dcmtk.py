"""DCMTK 3.6 as SCU: echoscu, storescu, dcmsend, findscu."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import structlog
from pydicom import Dataset, dcmread

from pacsnode.node import Node
from tests.conftest import Finished, SettingsOf, needs, real_objects, run, settings_for
from tests.support.compare import differences
from tests.support.files import NOT_FOR_DCMTK, bundled, named
from tests.support.objects import made, object_path, part10, stored_files
from tests.support.raw import EXPLICIT
from tests.support.sending import send_files, send_made
from tests.support.truth import REFUSED, Truth

pytestmark = [needs("storescu"), pytest.mark.filterwarnings("ignore::UserWarning:pydicom")]

# storescu's proposal -> the transfer syntax whose files fit it
COMPRESSED = {
    "-xs": "1.2.840.10008.1.2.4.70",
    "-xy": "1.2.840.10008.1.2.4.50",
    "-xx": "1.2.840.10008.1.2.4.51",
    "-xv": "1.2.840.10008.1.2.4.90",
    "-xw": "1.2.840.10008.1.2.4.91",
    "-xt": "1.2.840.10008.1.2.4.80",
    "-xr": "1.2.840.10008.1.2.5",
    "-xd": "1.2.840.10008.1.2.1.99",
}
UNCOMPRESSED = {"-xi": "1.2.840.10008.1.2", "-xe": EXPLICIT, "-xb": "1.2.840.10008.1.2.2"}
NATIVE = ("CT_small.dcm", "waveform_ecg.dcm", "reportsi.dcm", "MR_small.dcm")


def in_transfer_syntax(uid: str) -> list[Path]:
    """Bundled objects of a transfer syntax, one of each SOP Instance UID."""
    fit = [path for path in bundled() if path.name not in {*NOT_FOR_DCMTK, *REFUSED}]
    return [item.path for item in Truth.of(p for p in fit if part10(p).transfer_syntax == uid).items]


async def dcmtk(program: str, port: int, *arguments: object) -> Finished:
    options = [str(a) for a in arguments if not isinstance(a, Path)]
    files = [str(a) for a in arguments if isinstance(a, Path)]
    return await run(program, *options, "127.0.0.1", str(port), *files, env={"TCP_NODELAY": "1"})


# echoscu


async def test_echo(node: Node) -> None:
    done = await dcmtk("echoscu", node.dimse_port, "-v", "--repeat", 5)
    assert done.status == 0, done.output
    assert done.output.count("Received Echo Response (Success)") == 5


async def test_echo_with_128_contexts_and_38_transfer_syntaxes(node: Node) -> None:
    done = await dcmtk("echoscu", node.dimse_port, "-v", "-ppc", 128, "-pts", 38)
    assert done.status == 0, done.output


async def test_an_association_ended_by_abort_is_logged_and_the_next_one_works(node: Node) -> None:
    with structlog.testing.capture_logs() as events:
        aborted = await dcmtk("echoscu", node.dimse_port, "--abort")
        after = await dcmtk("echoscu", node.dimse_port)
    assert (aborted.status, after.status) == (0, 0)
    names = [event["event"] for event in events]
    assert names.count("association.aborted") == 1
    assert names.count("association.released") == 1


async def test_a_wrong_called_ae_title_is_rejected_only_where_it_is_asked_for(
    settings_of: SettingsOf,
) -> None:
    async with Node(settings_of(dimse={"require_called_ae_title": True})) as strict:
        wrong = await dcmtk("echoscu", strict.dimse_port, "-aec", "OTHER")
        right = await dcmtk("echoscu", strict.dimse_port, "-aec", "PACSNODE")
    assert wrong.status != 0
    assert "Called AE Title Not Recognized" in wrong.output
    assert right.status == 0


async def test_a_calling_ae_title_that_is_not_listed_is_rejected(settings_of: SettingsOf) -> None:
    async with Node(settings_of(dimse={"allowed_calling_ae_titles": ["CT1"]})) as strict:
        wrong = await dcmtk("echoscu", strict.dimse_port, "-aet", "STRANGER")
        right = await dcmtk("echoscu", strict.dimse_port, "-aet", "CT1")
    assert "Calling AE Title Not Recognized" in wrong.output
    assert right.status == 0


# storescu


@pytest.mark.parametrize(("proposal", "transfer_syntax"), COMPRESSED.items())
async def test_storescu_with_a_compressed_proposal(
    node: Node, root: Path, proposal: str, transfer_syntax: str
) -> None:
    files = in_transfer_syntax(transfer_syntax)
    assert files
    # without -R it proposes each class of its table and too few contexts are left for other classes
    done = await dcmtk("storescu", node.dimse_port, "-v", "-R", proposal, *files)
    assert done.status == 0, done.output
    for path in files:
        stored = object_path(root, part10(path))
        assert dcmread(stored).file_meta.TransferSyntaxUID == transfer_syntax
        assert differences(path, stored) == [], path


@pytest.mark.parametrize(("proposal", "transfer_syntax"), list(UNCOMPRESSED.items())[:2])
async def test_storescu_with_an_uncompressed_proposal(
    node: Node, root: Path, proposal: str, transfer_syntax: str
) -> None:
    done = await dcmtk("storescu", node.dimse_port, "-v", "-R", proposal, *named(*NATIVE))
    assert done.status == 0, done.output
    for path in named(*NATIVE):
        stored = object_path(root, part10(path))
        assert dcmread(stored).file_meta.TransferSyntaxUID == transfer_syntax
        assert differences(path, stored, private=False) == [], path


async def test_storescu_sends_big_endian_objects_as_they_are(node: Node, root: Path) -> None:
    files = in_transfer_syntax(UNCOMPRESSED["-xb"])
    done = await dcmtk("storescu", node.dimse_port, "-v", "-R", "-xb", *files)
    assert done.status == 0, done.output
    for path in files:
        assert dcmread(object_path(root, part10(path))).file_meta.TransferSyntaxUID == UNCOMPRESSED["-xb"]
        assert differences(path, object_path(root, part10(path))) == [], path


async def test_storescu_with_all_transfer_syntaxes_combined_in_one_context(node: Node, root: Path) -> None:
    path = named("MR_small_RLE.dcm")[0]
    done = await dcmtk("storescu", node.dimse_port, "-v", "-R", "+C", "-xr", path)
    assert done.status == 0, done.output
    # The requestor's first proposal is taken: what it holds compressed arrives compressed.
    stored = object_path(root, part10(path))
    assert dcmread(stored).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.5"
    assert differences(path, stored) == []


async def test_storescu_with_the_whole_table_of_sop_classes(node: Node) -> None:
    done = await dcmtk("storescu", node.dimse_port, "-v", *named("CT_small.dcm"))
    assert done.status == 0, done.output
    assert "Rejected" not in done.output


@pytest.mark.parametrize("ours", [4096, 0], ids=["node takes 4096", "node takes any"])
@pytest.mark.parametrize("theirs", [4096, 131072])
async def test_pdu_lengths(settings_of: SettingsOf, root: Path, ours: int, theirs: int) -> None:
    files = named("CT_small.dcm", "waveform_ecg.dcm")
    async with Node(settings_of(dimse={"max_pdu_length": ours})) as node:
        sizes = ("-pdu", theirs, "--max-send-pdu", theirs)
        done = await dcmtk("storescu", node.dimse_port, "-R", *sizes, *files)
    assert done.status == 0, done.output
    assert all(differences(path, object_path(root, part10(path))) == [] for path in files)


async def test_an_association_aborted_after_the_stores_keeps_what_was_acknowledged(
    node: Node, root: Path
) -> None:
    files = named("CT_small.dcm", "rtplan.dcm")
    done = await dcmtk("storescu", node.dimse_port, "-R", "--abort", *files)
    assert done.status == 0, done.output
    assert [path.exists() for path in (object_path(root, part10(p)) for p in files)] == [True, True]


async def test_a_user_identity_is_read_and_does_not_disturb(node: Node) -> None:
    identity = ("-usr", "doctor", "-pwd", "secret")
    with structlog.testing.capture_logs() as events:
        done = await dcmtk("storescu", node.dimse_port, "-R", *identity, *named("CT_small.dcm"))
    assert done.status == 0, done.output
    assert "secret" not in repr(events)


async def test_four_senders_at_once_mix_nothing_up(node: Node, root: Path) -> None:
    files = [item.path for item in Truth.of(real_objects()).items if item.transfer_syntax == EXPLICIT]
    quarters = [files[i::4] for i in range(4)]
    done = await asyncio.gather(*(dcmtk("storescu", node.dimse_port, "-R", *quarter) for quarter in quarters))
    assert [one.status for one in done] == [0] * 4, [one.output for one in done]
    assert all(differences(path, object_path(root, part10(path))) == [] for path in files)


# dcmsend


async def test_dcmsend_sends_everything_it_can_read(node: Node, root: Path) -> None:
    """Objects of every transfer syntax over the associations that dcmsend chooses by itself."""
    items = [item for item in Truth.of(real_objects()).items if item.path.name not in NOT_FOR_DCMTK]
    done = await dcmtk("dcmsend", node.dimse_port, "-v", "-dn", "-nuc", "-nh", *(item.path for item in items))
    assert done.status == 0, done.output
    assert "with status SUCCESS" in done.output
    assert set(stored_files(root)) == {object_path(root, item) for item in items}


# findscu


@dataclass(frozen=True)
class Queried:
    """A node with all bundled objects and what is true about them."""

    port: int
    truth: Truth
    folder: Path

    async def find(self, *arguments: object) -> list[Dataset]:
        """The responses, as findscu extracts them to files."""
        for old in self.folder.glob("rsp*.dcm"):
            old.unlink()
        done = await dcmtk("findscu", self.port, "-v", "-X", "-od", str(self.folder), *arguments)
        assert done.status == 0, done.output
        assert "Received Final Find Response (Success)" in done.output, done.output
        return [dcmread(path, force=True) for path in sorted(self.folder.glob("rsp*.dcm"))]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def queried(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Queried]:
    folder = tmp_path_factory.mktemp("queried")
    truth = Truth.of(bundled())
    async with Node(settings_for(folder / "root")) as node:
        assert set(await send_files(node.dimse_port, truth.items)) == {0x0000}
        yield Queried(node.dimse_port, truth, folder)


module_loop = pytest.mark.asyncio(loop_scope="module")


@module_loop
@pytest.mark.parametrize("model", ["-P", "-O"])
async def test_findscu_finds_every_patient(queried: Queried, model: str) -> None:
    rows = await queried.find(
        model, "-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID", "-k", "PatientName"
    )
    assert sorted(row.PatientID for row in rows) == sorted(key[0] for key in queried.truth.patients)


@module_loop
async def test_findscu_finds_every_study_in_study_root(queried: Queried) -> None:
    keys = (
        "StudyInstanceUID",
        "PatientID",
        "StudyDate",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedInstances",
    )
    rows = await queried.find("-S", "-k", "QueryRetrieveLevel=STUDY", *(o for k in keys for o in ("-k", k)))
    found = {row.StudyInstanceUID: row.NumberOfStudyRelatedInstances for row in rows}
    assert found == {study: len(items) for study, items in queried.truth.studies.items()}


@module_loop
@pytest.mark.parametrize("model", ["-P", "-O"])
async def test_findscu_finds_the_studies_of_each_patient(queried: Queried, model: str) -> None:
    for (patient_id, _), studies in queried.truth.patients.items():
        if patient_id:
            rows = await queried.find(
                model,
                "-k",
                "QueryRetrieveLevel=STUDY",
                "-k",
                f"PatientID={patient_id}",
                "-k",
                "StudyInstanceUID",
            )
            assert {row.StudyInstanceUID for row in rows} == studies, patient_id


@module_loop
async def test_findscu_finds_series_and_instances_down_the_hierarchy(queried: Queried) -> None:
    for (study, series), items in list(queried.truth.series.items())[:8]:
        above = ("-k", f"StudyInstanceUID={study}")
        rows = await queried.find("-S", "-k", "QueryRetrieveLevel=SERIES", *above, "-k", "SeriesInstanceUID")
        assert series in {row.SeriesInstanceUID for row in rows}
        rows = await queried.find(
            "-S",
            *("-k", "QueryRetrieveLevel=IMAGE"),
            *above,
            *("-k", f"SeriesInstanceUID={series}", "-k", "SOPInstanceUID", "-k", "SOPClassUID"),
        )
        assert {(row.SOPInstanceUID, row.SOPClassUID) for row in rows} == {
            (i.sop, i.sop_class) for i in items
        }


@module_loop
@pytest.mark.parametrize("proposal", ["-xi", "-xe", "-xb"])
async def test_findscu_in_each_uncompressed_transfer_syntax(queried: Queried, proposal: str) -> None:
    item = queried.truth.items[0]
    rows = await queried.find(
        "-S",
        proposal,
        "-k",
        "QueryRetrieveLevel=STUDY",
        "-k",
        f"StudyInstanceUID={item.study}",
        "-k",
        "StudyDate",
    )
    assert [row.StudyDate for row in rows] == [queried.truth.headers[item.sop].StudyDate]


@module_loop
async def test_findscu_matches_names_without_regard_to_case(queried: Queried) -> None:
    expected = {
        item.study
        for item in queried.truth.items
        if str(queried.truth.headers[item.sop].get("PatientName", "")).casefold().startswith("comp")
    }
    assert expected
    rows = await queried.find(
        "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=cOMP*", "-k", "StudyInstanceUID"
    )
    assert expected <= {row.StudyInstanceUID for row in rows}
    # Unknown names match as well (PS3.4 C.2.2.1.2); "^^^^" is none.
    assert {row.StudyInstanceUID for row in rows if str(row.PatientName).strip("^")} == expected


@module_loop
@pytest.mark.parametrize("part", ["SON", "omp", "o", "anonym"])
async def test_findscu_finds_a_part_of_a_name(queried: Queried, part: str) -> None:
    names = {
        study: str(queried.truth.headers[items[0].sop].get("PatientName", ""))
        for study, items in queried.truth.studies.items()
    }
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"PatientName=*{part}*", "-k", "StudyInstanceUID")
    rows = await queried.find("-S", *keys)
    found = {row.StudyInstanceUID for row in rows if str(row.PatientName).strip("^")}
    assert found == {study for study, name in names.items() if part.casefold() in name.casefold().rstrip("^")}


@module_loop
async def test_findscu_matches_a_range_of_dates(queried: Queried) -> None:
    dates = {
        study: str(queried.truth.headers[items[0].sop].get("StudyDate") or "")
        for study, items in queried.truth.studies.items()
    }
    rows = await queried.find(
        "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyDate=20000101-20041231", "-k", "StudyInstanceUID"
    )
    found = {row.StudyInstanceUID for row in rows if row.StudyDate}
    assert found == {study for study, date in dates.items() if "20000101" <= date <= "20041231"}


@module_loop
async def test_findscu_with_a_list_of_uids(queried: Queried) -> None:
    studies = sorted(queried.truth.studies)[:5]
    rows = await queried.find(
        "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=" + "\\".join(studies)
    )
    assert sorted(row.StudyInstanceUID for row in rows) == studies


async def test_findscu_cancels(node: Node) -> None:
    """600 answers of 10 KB do not fit in the buffers between the two: C-CANCEL must come through before."""
    items = (made(1, study=number, PatientComments="x" * 10_000) for number in range(1, 601))
    await send_made(node.dimse_port, items)
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "-k", "PatientComments")
    done = await dcmtk("findscu", node.dimse_port, "-v", "-S", "-pdu", 4096, "--cancel", 3, *keys)
    assert "Received Final Find Response (Cancel: " in done.output, done.output[-2000:]
