"""The Native DICOM Model, data sets as XML (PS3.19 A.1), from the JSON Model and back (PS3.18 F.3.1). Pure.

What is read was sent by somebody: a document type declaration, and with it every entity, is refused.
"""

from collections.abc import Iterator
from typing import Any, Final
from xml.etree import ElementTree as ET
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

from pacsnode.errors import CannotUnderstand

Model = dict[str, Any]
"""A DICOM JSON Model object, as the json module reads it."""

NAMESPACE: Final = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
DEPTH_LIMIT: Final = 200  # elements within elements; four belong to one level of sequences
_HEAD: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_FORBIDDEN: Final = dict.fromkeys(
    [*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF], "\N{REPLACEMENT CHARACTER}"
)


def native_model(model: Model) -> bytes:
    """The XML document of a data set."""
    root = f'<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">'
    return f"{_HEAD}{root}{''.join(_attributes(model))}</NativeDicomModel>".encode()


def _attributes(model: Model) -> Iterator[str]:
    for name, attribute in model.items():
        tag, vr = int(name, 16), attribute["vr"]
        creator = _creator(model, tag)
        if creator is not None:
            # A private element is told by its creator, not by its block (Table A.1.5-2)
            identity = f'tag="{tag & 0xFFFF00FF:08X}" vr="{vr}" privateCreator={quoteattr(creator)}'
        else:
            keyword = keyword_for_tag(tag)
            identity = f'tag="{tag:08X}" vr="{vr}"' + (f' keyword="{keyword}"' if keyword else "")
        yield f"<DicomAttribute {identity}>{_content(attribute)}</DicomAttribute>"


def _creator(model: Model, tag: int) -> str | None:
    block = tag >> 8 & 0xFF
    if not tag >> 16 & 1 or not block:
        return None
    values = model.get(f"{tag >> 16:04X}{block:04X}", {}).get("Value", [None])
    return values[0] if values else None


def _content(attribute: Model) -> str:
    if "BulkDataURI" in attribute:
        return f"<BulkData uri={quoteattr(attribute['BulkDataURI'])}/>"
    if "InlineBinary" in attribute:
        return f"<InlineBinary>{attribute['InlineBinary']}</InlineBinary>"
    write = {"SQ": _item, "PN": _person_name}.get(attribute["vr"], _value)
    return "".join(write(number, value) for number, value in enumerate(attribute.get("Value", ()), 1))


def _value(number: int, value: str | int | float | None) -> str:
    return f'<Value number="{number}">{"" if value is None else _text(str(value))}</Value>'


def _item(number: int, value: Model | None) -> str:
    return f'<Item number="{number}">{"".join(_attributes(value or {}))}</Item>'


def _person_name(number: int, value: Model | None) -> str:
    name = value or {}
    groups = [f"<{group}>{_components(name[group])}</{group}>" for group in _GROUPS if name.get(group)]
    return f'<PersonName number="{number}">{"".join(groups)}</PersonName>'


def _components(name: str) -> str:
    parts = zip(_COMPONENTS, name.split("^", 4), strict=False)
    return "".join(f"<{component}>{_text(part)}</{component}>" for component, part in parts if part)


def _text(text: str) -> str:
    return escape(text.translate(_FORBIDDEN), {"\r": "&#13;"})


def model_of(document: bytes) -> Model:
    """The JSON Model object of an XML document. Raises CannotUnderstand."""
    root = _parsed(document)
    if _name(root) != "NativeDicomModel":
        raise CannotUnderstand("the document is no NativeDicomModel")
    return _model(root)


def _parsed(document: bytes) -> ET.Element:
    parser = expat.ParserCreate(namespace_separator="}")
    builder = ET.TreeBuilder()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEPTH_LIMIT:
            raise CannotUnderstand("the XML document is nested too deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise CannotUnderstand("the XML document has a document type declaration")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.buffer_text = True
    try:
        parser.Parse(document, True)
        return builder.close()
    except expat.ExpatError as error:
        raise CannotUnderstand(f"the XML document is broken: {error}") from error


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _model(parent: ET.Element) -> Model:
    model: Model = {}
    blocks: dict[tuple[int, str], int] = {}
    for element in parent:
        if _name(element) != "DicomAttribute":
            raise CannotUnderstand(f"{_name(element)} stands where a DicomAttribute should")
        tag = _tag(element, model, blocks)
        model[f"{tag:08X}"] = _attribute(element)
    return dict(sorted(model.items()))


def _tag(element: ET.Element, model: Model, blocks: dict[tuple[int, str], int]) -> int:
    """The tag, a private one in the block of its creator, which is reserved where it is not (PS3.5 7.8.1)."""
    try:
        tag = int(element.get("tag", ""), 16)
    except ValueError:
        raise CannotUnderstand(f"{element.get('tag')!r} is no tag") from None
    if not 0 <= tag <= 0xFFFFFFFF:
        raise CannotUnderstand(f"{element.get('tag')!r} is no tag")
    creator = element.get("privateCreator")
    if not tag >> 16 & 1 or creator is None or tag & 0xFF00:
        return tag
    group = tag >> 16
    block = blocks.get((group, creator))
    if block is None:
        block = next(
            (
                number
                for number in range(0x10, 0x100)
                if model.get(f"{group:04X}{number:04X}", {"Value": [creator]}).get("Value") == [creator]
            ),
            0xFF,
        )
        blocks[group, creator] = block
        model[f"{group:04X}{block:04X}"] = {"vr": "LO", "Value": [creator]}
    return tag | block << 8


def _attribute(element: ET.Element) -> Model:
    vr = element.get("vr", "UN")
    attribute: Model = {"vr": vr}
    children = sorted(element, key=_number)
    if not children:
        return attribute
    match _name(children[0]):
        case "BulkData":
            attribute["BulkDataURI"] = children[0].get("uri", "") or children[0].get("uuid", "")
        case "InlineBinary":
            attribute["InlineBinary"] = "".join((children[0].text or "").split())
        case "Item":
            attribute["Value"] = [_model(child) for child in children]
        case "PersonName":
            attribute["Value"] = [_name_groups(child) or None for child in children]
        case _:
            # Numbers stay text here: the digits are those that were sent.
            attribute["Value"] = [child.text or None for child in children]
    return attribute


def _number(element: ET.Element) -> int:
    text = element.get("number", "1")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 1


def _name_groups(element: ET.Element) -> Model:
    groups = {}
    for group in element:
        parts = {_name(child): child.text or "" for child in group}
        name = "^".join(parts.get(component, "") for component in _COMPONENTS).rstrip("^")
        if name:
            groups[_name(group)] = name
    return groups
