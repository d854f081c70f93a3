"""QIDO-RS over HTTP: what viewers ask (recorded queries), compared with what the objects hold."""

import json
from collections.abc import AsyncIterator
from xml.etree import ElementTree

import httpx
import pytest
import pytest_asyncio
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread

from pacsnode.node import Node
from tests.archive.conftest import store
from tests.conftest import SettingsOf
from tests.support.files import bundled
from tests.support.objects import made, part10
from tests.support.truth import REFUSED

NATIVE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
STORABLE = [path for path in bundled() if path.name not in REFUSED]
JSON = {"Accept": "application/dicom+json"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def held(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node with 30 made studies of two series, and all of pydicom's objects."""
    from tests.conftest import settings_for

    async with Node(settings_for(tmp_path_factory.mktemp("qido"))) as node:
        for study in range(1, 31):
            for series in (1, 2):
                item = Dataset()
                item.ScheduledProcedureStepID = f"S{study}"
                item.RequestedProcedureID = f"R{study}.{series}"
                item.ReasonForTheRequestedProcedure = "pain"
                await store(
                    node.archive,
                    made(
                        1,
                        study=study,
                        series=series,
                        Modality="MR" if series == 2 else "CT",
                        PatientName="Müller^Jürgen=山田^太郎" if study == 7 else f"Made^{study:05}",
                        StudyDescription="Segmentation" if study % 10 == 0 else "",
                        StudyDate=f"202405{study:02}",
                        SeriesDescription=f"Series {series}" if series == 1 else "",
                        RequestAttributesSequence=[item] if study < 5 else [],
                        ImageType=["ORIGINAL", "PRIMARY"],
                    ),
                )
        for path in STORABLE:
            await store(node.archive, part10(path))
        yield node


@pytest_asyncio.fixture(loop_scope="module")
async def web(held: Node) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{held.web_port}/dicomweb"
    async with httpx.AsyncClient(base_url=url, timeout=20, headers=JSON) as client:
        yield client


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def found(web: httpx.AsyncClient, path: str) -> list[dict]:
    answer = await web.get(path)
    if answer.status_code == 204:
        assert not answer.content
        return []
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    results = json.loads(answer.content)
    assert all(list(result) == sorted(result) for result in results)
    return results


def value(result: dict, tag: str) -> object:
    return result[tag]["Value"][0]


OHIF = "limit=101&offset=0&fuzzymatching=true&includefield=00081030%2C00080060"


async def test_the_study_list_of_ohif(web: httpx.AsyncClient) -> None:
    results = await found(web, f"/studies?{OHIF}")
    assert len(results) > 30
    for result in results:
        for tag in ("00080020", "00080050", "00081030", "00100010", "00201206", "00201208"):
            assert tag in result
        assert result.get("00080061", {"Value": 1})["Value"]  # OHIF's list fails at an empty one
        assert "00080060" not in result  # of series
        assert value(result, "00080056") == "ONLINE"
        assert value(result, "00081190") == f"{web.base_url}studies/{value(result, '0020000D')}"
        assert all("Value" not in member or member["Value"] for member in result.values())


@pytest.mark.parametrize(
    ("query", "studies"),
    [
        ("PatientName=*mADE^00003*", {3}),
        ("PatientName=*m%C3%BCller*", {7}),
        ("PatientName=MULLER&fuzzymatching=true", {7}),
        ("00100020=*P1*&PatientName=made*", {1, *range(10, 20)}),
        ("StudyDescription=*Segmentation*", {10, 20, 30}),
        ("AccessionNumber=*A30*", {30}),
        ("AccessionNumber=A3", {3}),
        ("00080050=A3", {3}),
        ("StudyDate=20240505-20240507", {5, 6, 7}),
        ("StudyDate=20240529-&PatientName=Made*", {29, 30}),
        ("ModalitiesInStudy=MR%2CUS&StudyID=4&AccessionNumber=A4", {4}),
        ("StudyDate=20240504&StudyTime=1000-1100", {4}),
        ("ModalitiesInStudy=MR%5CUS&StudyID=4&AccessionNumber=A4&multiplevaluematching=false", {4}),
        ("ModalitiesInStudy=MR%5CUS&StudyID=4&AccessionNumber=A4&multiplevaluematching=true", set()),
        ("ModalitiesInStudy=MR%2CCT&StudyID=4&AccessionNumber=A4&multiplevaluematching=true", {4}),
        (
            "RequestAttributesSequence.RequestedProcedureID=%22%22&RequestAttributesSequence."
            "ScheduledProcedureStepID=S4&emptyvaluematching=true",
            set(),
        ),
        (
            "RequestAttributesSequence.RequestedProcedureDescription=%22%22&RequestAttributesSequence."
            "ScheduledProcedureStepID=S4&emptyvaluematching=true",
            {4},
        ),
        ("RequestAttributesSequence.RequestedProcedureID=R2.1", {2}),
        ("00400275.00400009=S3", {3}),
    ],
)
async def test_filters(web: httpx.AsyncClient, query: str, studies: set[int]) -> None:
    results = await found(web, f"/studies?{query}")
    uids = {made(1, study=number).study for number in studies}
    assert {value(result, "0020000D") for result in results if _is_made(result)} == uids


def _is_made(result: dict) -> bool:
    return str(value(result, "0020000D")).startswith("1.2.826.0.1.3680043.10.1474.")


@pytest.mark.parametrize("separator", ["%2C", ",", "%5C"])
async def test_lists_of_uids(web: httpx.AsyncClient, separator: str) -> None:
    wanted = [made(1, study=number).study for number in (2, 9)]
    results = await found(web, f"/studies?StudyInstanceUID={separator.join(wanted)}")
    assert [value(result, "0020000D") for result in results] == wanted


async def test_names_keep_their_groups(web: httpx.AsyncClient) -> None:
    (result,) = await found(web, "/studies?PatientName=M%C3%BCller*")
    assert value(result, "00100010") == {"Alphabetic": "Müller^Jürgen", "Ideographic": "山田^太郎"}
    assert "00080005" not in result


async def test_the_series_of_a_study(web: httpx.AsyncClient) -> None:
    item = made(1, study=3, series=2)
    results = await found(
        web, f"/studies/{item.study}/series?includefield=00080021%2C00080031%2C0008103E%2C00200011"
    )
    assert {value(result, "0020000E") for result in results} == {made(1, study=3).series, item.series}
    result = next(one for one in results if value(one, "0020000E") == item.series)
    assert value(result, "00080060") == "MR"
    assert value(result, "00200011") == 2
    assert value(result, "00201209") == 1
    assert result["0008103E"] == {"vr": "LO"}  # asked for, so it is there, empty
    assert value(result, "00081190") == f"{web.base_url}studies/{item.study}/series/{item.series}"
    assert result["00400275"]["Value"] == [
        {"00400009": {"vr": "SH", "Value": ["S3"]}, "00401001": {"vr": "SH", "Value": ["R3.2"]}}
    ]
    assert "00100010" not in result
    plain = await found(web, f"/studies/{made(1, study=9).study}/series")
    assert not any("00400275" in one for one in plain)
    assert "0008103E" not in next(one for one in plain if value(one, "00200011") == 2)


async def test_all_series_are_described_with_their_study(web: httpx.AsyncClient) -> None:
    results = await found(web, f"/series?0020000E={made(1, study=7).series}&includefield=00100010")
    assert value(results[0], "00100010")["Alphabetic"] == "Müller^Jürgen"
    assert value(results[0], "00201206") == 2
    assert value(results[0], "0020000D") == made(1, study=7).study


async def test_instances_with_what_slim_and_weasis_want(web: httpx.AsyncClient) -> None:
    item = made(1, study=5)
    path = f"/studies/{item.study}/series/{item.series}/instances"
    (result,) = await found(web, f"{path}?Modality=CT&includefield=ImageType")
    assert result["00080008"]["Value"] == ["ORIGINAL", "PRIMARY"]
    assert result["00280010"] == {"vr": "US", "Value": [1]}
    assert value(result, "00083002") == "1.2.840.10008.1.2.1"
    assert value(result, "00081190") == f"{web.base_url}{path[1:]}/{item.sop}"
    (unscoped,) = await found(web, f"/instances?00080018={item.sop}&includefield=00081030")
    assert value(unscoped, "00100020") == "P5"
    assert value(unscoped, "00080060") == "CT"
    assert unscoped["00081030"] == {"vr": "LO"}
    (in_study,) = await found(web, f"/studies/{item.study}/instances?InstanceNumber=1&Modality=CT")
    assert "00080060" in in_study
    assert "00100010" not in in_study


async def test_every_object_is_found_and_says_what_it_holds(web: httpx.AsyncClient) -> None:
    for path in STORABLE:
        expected = dcmread(path, stop_before_pixels=True)
        (result,) = await found(
            web, f"/instances?SOPInstanceUID={expected.SOPInstanceUID}&includefield=SoftwareVersions,Modality"
        )
        assert value(result, "0020000D") == expected.StudyInstanceUID
        rows = expected.get("Rows")
        assert result.get("00280010", {}).get("Value", [None])[0] == rows
        versions = [one for one in _several(expected.get("SoftwareVersions")) if one]
        assert [one for one in result["00181020"].get("Value", []) if one] == versions, path


def _several(found: object) -> list[object]:
    if found is None or isinstance(found, str):
        return [found] if found else []
    return list(found)  # type: ignore[call-overload]


async def test_pages_are_stable_and_tell_what_is_left(web: httpx.AsyncClient) -> None:
    everything = [value(result, "0020000D") for result in await found(web, "/studies")]
    first = await web.get("/studies?limit=10")
    text = f"There are {len(everything) - 10} additional results that can be requested"
    assert first.headers["warning"] == f'299 {str(web.base_url).rstrip("/")} "{text}"'
    pages = [await found(web, f"/studies?limit=10&offset={start}") for start in range(0, len(everything), 10)]
    assert [value(result, "0020000D") for page in pages for result in page] == everything
    last = await web.get(f"/studies?limit={len(everything)}")
    assert "warning" not in last.headers
    assert await found(web, f"/studies?offset={len(everything)}") == []
    fuzzy = await web.get("/studies?PatientName=made&fuzzymatching=true&limit=5")
    assert "There are " in fuzzy.headers["warning"]


async def test_empty_values_are_matched_when_asked_for(web: httpx.AsyncClient) -> None:
    query = "/studies?PatientName=Made*&StudyDescription=%22%22&emptyvaluematching=true"
    results = await found(web, query)
    assert len(results) == 26
    assert all("Value" not in result["00081030"] for result in results)


async def test_includefield_all(web: httpx.AsyncClient) -> None:
    (result,) = await found(web, "/studies?AccessionNumber=A3&includefield=all")
    assert {"00081060", "00101010", "00201200", "00100021"} <= result.keys()


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("PatientNam=x", "did you mean PatientName?"),
        ("patientname=x", "did you mean PatientName?"),
        ("limit=1&limit=2", "twice"),
        ("limit=-1", "unsigned integer"),
        ("offset=x", "unsigned integer"),
        ("fuzzymatching=maybe", "true or false"),
        ("StudyDate=yesterday", "0008,0020"),
        ("PatientID=1&00100020=2", "repeated"),
        ("Modality=CT", "ModalitiesInStudy"),
        ("StudyInstanceUID=../etc", "no UID"),
        ("PatientName.PatientID=1", "no sequence"),
        ("7FE00010=1", "cannot be matched"),
        ("00091001=x", "cannot be matched"),
        ("includefield=Nonsense", "no keyword"),
        ("StudyInstanceUID=" + "x" * 100, "no UID"),
    ],
)
async def test_wrong_queries_are_told_what_is_wrong(web: httpx.AsyncClient, query: str, reason: str) -> None:
    answer = await web.get(f"/studies?{query}")
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["detail"]


async def test_parameters_of_others_are_ignored_and_told(web: httpx.AsyncClient) -> None:
    """PS3.18 8.3: dcm4chee sorts by one, tokens of gateways come in others."""
    plain = await web.get("/studies?limit=1")
    answer = await web.get("/studies?limit=1&orderby=-StudyDate&access_token=abc&_=17")
    assert answer.json() == plain.json()
    assert "orderby, access_token" in answer.headers["warning"]
    assert plain.headers["warning"] in answer.headers["warning"]
    nothing = await web.get("/studies?PatientID=nobody&orderby=x")
    assert nothing.status_code == 204
    assert "orderby" in nothing.headers["warning"]


async def test_wrong_uid_in_the_path(web: httpx.AsyncClient) -> None:
    assert (await web.get("/studies/abc/series")).status_code == 400
    assert (await web.get("/studies/1.2.3.4/series")).status_code == 204
    other = made(1, study=2).study
    assert (await web.get(f"/studies/{other}/series?StudyInstanceUID=1.2.3")).status_code == 204


async def test_xml(web: httpx.AsyncClient) -> None:
    answer = await web.get(
        "/studies?limit=3", headers={"Accept": 'multipart/related; type="application/dicom+xml"'}
    )
    kind = answer.headers["content-type"]
    assert kind.startswith('multipart/related; type="application/dicom+xml"; boundary=')
    boundary = kind.rpartition("=")[2]
    parts = answer.content.split(f"--{boundary}".encode())[1:-1]
    assert len(parts) == 3
    for part in parts:
        root = ElementTree.fromstring(part.partition(b"\r\n\r\n")[2])
        keywords = [one.get("keyword") for one in root.iter(f"{NATIVE}DicomAttribute")]
        assert "StudyInstanceUID" in keywords


async def test_conditional_compressed_and_head(web: httpx.AsyncClient) -> None:
    full = await web.get("/studies", headers={"Accept-Encoding": "identity"})
    zipped = await web.get("/studies", headers={"Accept-Encoding": "gzip, br;q=0.5"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.content == full.content
    assert zipped.headers["etag"] != full.headers["etag"]
    again = await web.get("/studies", headers={"If-None-Match": full.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await web.head("/studies", headers={"Accept-Encoding": "identity"})
    assert head.status_code == 200
    assert head.headers["content-length"] == full.headers["content-length"]
    assert (await web.get("/studies", headers={"Accept": "image/png"})).status_code == 406


async def test_a_cap_on_results(settings_of: SettingsOf) -> None:
    async with Node(settings_of(web={"port": 0, "max_results": 2})) as node:
        for number in range(1, 4):
            await store(node.archive, made(1, study=number))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.web_port}/dicomweb") as web:
            answer = await web.get("/studies?limit=100")
            assert len(answer.json()) == 2
            assert "There are 1 additional" in answer.headers["warning"]


async def test_the_python_client(held: Node) -> None:
    import asyncio

    client = DICOMwebClient(f"http://127.0.0.1:{held.web_port}/dicomweb")
    item = made(1, study=4)

    def ask() -> tuple[list, list, list]:
        return (
            client.search_for_studies(search_filters={"PatientID": "P4"}, fields=["StudyDescription"]),
            client.search_for_series(item.study, search_filters={"Modality": "MR"}),
            client.search_for_instances(item.study, item.series, get_remaining=True, limit=1),
        )

    studies, series, instances = await asyncio.to_thread(ask)
    assert [Dataset.from_json(one).PatientID for one in studies] == ["P4"]
    assert [Dataset.from_json(one).Modality for one in series] == ["MR"]
    assert [Dataset.from_json(one).SOPInstanceUID for one in instances] == [item.sop]
