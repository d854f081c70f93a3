"""odil (its Python bindings, a DICOM stack of its own) as a modality: worklist, N-CREATE, N-SET."""

import json
import shutil
from pathlib import Path

import pytest
from pydicom import Dataset

from pacsnode.node import Node
from pacsnode.workflow.mpps import StepState
from tests.conftest import run
from tests.support.dimse_n import final, step
from tests.support.worklist import nested, schedule, scheduled

PYTHON = "/usr/bin/python3"  # Debian's, for which odil is packaged
SCRIPT = """
import json, sys
import odil

port, folder = int(sys.argv[1]), sys.argv[2]
MPPS, WORKLIST = "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.5.1.4.31"
Context = odil.AssociationParameters.PresentationContext
association = odil.Association()
association.set_peer_host("127.0.0.1")
association.set_peer_port(port)
association.update_parameters().set_calling_ae_title("ODIL").set_called_ae_title("PACSNODE")
syntaxes = [odil.registry.ExplicitVRLittleEndian]
association.update_parameters().set_presentation_contexts(
    [Context(MPPS, syntaxes, Context.Role.SCU), Context(WORKLIST, syntaxes, Context.Role.SCU)]
)
association.associate()


def given(name):
    with open(f"{folder}/{name}.json") as file:
        return odil.from_json(file.read())


def asked(request):
    association.send_message(request, MPPS)
    response = association.receive_message()
    return json.loads(odil.as_json(response.get_command_set()))


find = odil.FindSCU(association)
find.set_affected_sop_class(WORKLIST)
told = {"found": [json.loads(odil.as_json(one)) for one in find.find(given("query"))]}
told["created"] = asked(odil.messages.NCreateRequest(association.next_message_id(), MPPS, given("begun")))
uid = told["created"]["00001000"]["Value"][0]
for name in ("set", "again"):
    told[name] = asked(odil.messages.NSetRequest(association.next_message_id(), MPPS, uid, given("ended")))
association.release()
print(json.dumps(told))
"""


async def test_odil_works_its_list_off(node: Node, tmp_path: Path) -> None:
    if shutil.which(PYTHON) is None or (await run(PYTHON, "-c", "import odil")).status:
        pytest.skip("the Python bindings of odil are not installed")
    await schedule(node, scheduled(1, PatientName="Müller^Jörg"), scheduled(2, Modality="MR"))
    query = nested(
        PatientName="", StudyInstanceUID="", AccessionNumber="", ScheduledProcedureStepID="", Modality="CT"
    )
    begun = step(SpecificCharacterSet="ISO_IR 192")
    begun.ScheduledStepAttributesSequence[0].StudyInstanceUID = "1.2.840.1"
    for name, data_set in (("query", query), ("begun", begun), ("ended", final())):
        (tmp_path / f"{name}.json").write_text(data_set.to_json())
    (tmp_path / "script.py").write_text(SCRIPT)
    done = await run(PYTHON, str(tmp_path / "script.py"), str(node.dimse_port), str(tmp_path))
    assert done.status == 0, done.output
    told = json.loads(done.output.splitlines()[-1])
    (found,) = [Dataset.from_json(one) for one in told["found"]]
    assert (found.PatientName, found.AccessionNumber) == ("Müller^Jörg", "A1")
    created, ended, again = (Dataset.from_json(told[name]) for name in ("created", "set", "again"))
    assert (created.Status, ended.Status) == (0x0000, 0x0000)
    assert (again.Status, again.ErrorID) == (0x0110, 0xA710)
    (performed,) = await node.workflow.mpps.all()
    assert performed.sop_instance == created.AffectedSOPInstanceUID  # odil tells none: the node makes one
    assert performed.state is StepState.COMPLETED
    assert performed.source_ae == "ODIL"
