"""The Native DICOM Model of every bundled object against the schema of PS3.19 A.1.6."""

import warnings
from pathlib import Path

import pytest
from lxml import etree
from pydicom import dcmread

from pacsnode.dicom.xml_model import NAMESPACE, native_model
from tests.dicom.test_json_reading import PLAIN, model

# PS3.19 A.1.6 in the XML syntax of RELAX NG, with the xml:space that Table A.1.5-1 asks for.
TEXT = '<data type="string"/>'
COMPONENTS = "".join(
    f'<optional><element name="{name}">{TEXT}</element></optional>'
    for name in ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
)
VRS = "AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV"
SCHEMA = f"""
<grammar xmlns="http://relaxng.org/ns/structure/1.0" ns="{NAMESPACE}"
    datatypeLibrary="http://www.w3.org/2001/XMLSchema-datatypes">
  <start><element name="NativeDicomModel">
    <attribute name="xml:space"><value>preserve</value></attribute><ref name="DataSet"/>
  </element></start>
  <define name="DataSet"><zeroOrMore><ref name="Attribute"/></zeroOrMore></define>
  <define name="Number"><attribute name="number"><data type="positiveInteger"/></attribute></define>
  <define name="Attribute"><element name="DicomAttribute">
    <attribute name="tag"><data type="string"><param name="pattern">[0-9A-F]{{8}}</param></data></attribute>
    <attribute name="vr"><choice>{"".join(f"<value>{vr}</value>" for vr in VRS.split())}</choice></attribute>
    <optional><attribute name="keyword"><data type="token"/></attribute></optional>
    <optional><attribute name="privateCreator">{TEXT}</attribute></optional>
    <optional><choice>
      <element name="BulkData"><choice>
        <attribute name="uuid">{TEXT}</attribute><attribute name="uri"><data type="anyURI"/></attribute>
      </choice></element>
      <oneOrMore><element name="Value"><ref name="Number"/>{TEXT}</element></oneOrMore>
      <oneOrMore><element name="Item"><ref name="Number"/><ref name="DataSet"/></element></oneOrMore>
      <oneOrMore><element name="PersonName"><ref name="Number"/>
        <optional><element name="Alphabetic">{COMPONENTS}</element></optional>
        <optional><element name="Ideographic">{COMPONENTS}</element></optional>
        <optional><element name="Phonetic">{COMPONENTS}</element></optional>
      </element></oneOrMore>
      <element name="InlineBinary"><data type="base64Binary"/></element>
    </choice></optional>
  </element></define>
</grammar>"""


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.fromstring(SCHEMA))


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.name)
def test_the_document_is_valid_and_tells_the_uid(schema: etree.RelaxNG, path: Path) -> None:
    document = etree.fromstring(native_model(model(path)))
    assert schema.validate(document), schema.error_log
    # The XPath of PS3.19 A.1.7
    found = document.xpath(
        '/n:NativeDicomModel/n:DicomAttribute[@keyword="SOPInstanceUID"]/n:Value[@number=1]/text()',
        namespaces={"n": NAMESPACE},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found == [dcmread(path, stop_before_pixels=True).SOPInstanceUID]


def test_the_schema_can_fail(schema: etree.RelaxNG) -> None:
    assert not schema.validate(etree.fromstring(native_model({"00100020": {"vr": "XX", "Value": ["1"]}})))


def test_private_elements_name_their_creator() -> None:
    document = native_model(
        {"00090010": {"vr": "LO", "Value": ['A "B"']}, "00091001": {"vr": "SH", "Value": ["<&>\r"]}}
    )
    private = etree.fromstring(document)[1]
    assert private.get("tag") == "00090001"
    assert private.get("privateCreator") == 'A "B"'
    assert private[0].text == "<&>\r"
