"""Structured Reports as HTML (PS3.3 C.17.3): the content tree as nested sections, in the order it has."""

from collections.abc import Iterator
from html import escape
from typing import Final

from pydicom import Dataset

DEEPEST: Final = 64  # levels; a tree is drawn by recursion

_STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:56em;margin:2em auto;padding:0 1em;color:#1a1a1a}"
    "h1{font-size:1.4em}h2,h3,h4,h5,h6{font-size:1.05em;margin:1em 0 .2em}section{margin-left:1em}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1em;color:#444}dt{font-weight:600}"
    "p{margin:.2em 0}.name{color:#555}"
)
_HEAD: Final = (
    ("Patient", "PatientName"),
    ("ID", "PatientID"),
    ("Born", "PatientBirthDate"),
    ("Sex", "PatientSex"),
    ("Study", "StudyDescription"),
    ("Date", "ContentDate"),
    ("Completion", "CompletionFlag"),
    ("Verification", "VerificationFlag"),
)


def report_html(attributes: Dataset) -> str:
    """The whole report as a page that loads nothing from elsewhere."""
    title = _meaning(attributes.get("ConceptNameCodeSequence")) or "Report"
    facts = "".join(
        f"<dt>{label}</dt><dd>{_text(attributes.get(keyword))}</dd>"
        for label, keyword in _HEAD
        if attributes.get(keyword)
    )
    body = "".join(_children(attributes, 2))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><dl>{facts}</dl>{body}</body></html>"
    )


def report_text(attributes: Dataset) -> str:
    """The report as plain text, an indented line for each content item."""
    title = _meaning(attributes.get("ConceptNameCodeSequence")) or "Report"
    return "\n".join([title, *_lines(attributes, 1)]) + "\n"


def _children(item: Dataset, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        return
    for child in item.get("ContentSequence") or ():
        name = escape(_meaning(child.get("ConceptNameCodeSequence")))
        inner = "".join(_children(child, depth + 1))
        if str(child.get("ValueType")) == "CONTAINER":
            heading = f"h{min(depth, 6)}"
            yield f"<section><{heading}>{name}</{heading}>{inner}</section>"
        else:
            yield f'<p><span class="name">{name}:</span> {_value_html(child)}</p>'
            if inner:
                yield f"<section>{inner}</section>"


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        return
    for child in item.get("ContentSequence") or ():
        name = _meaning(child.get("ConceptNameCodeSequence"))
        yield f"{'  ' * depth}{name}: {_value(child)}".rstrip(": ")
        yield from _lines(child, depth + 1)


def _value_html(item: Dataset) -> str:
    return escape(_value(item)).replace("\n", "<br>")


def _value(item: Dataset) -> str:
    """The value of a content item by its Value Type (PS3.3 Table C.17.3.2.1-1)."""
    match str(item.get("ValueType")):
        case "TEXT":
            return str(item.get("TextValue") or "").replace("\r\n", "\n").replace("\r", "\n")
        case "CODE":
            return _meaning(item.get("ConceptCodeSequence"))
        case "NUM":
            return _number(item)
        case "PNAME":
            return str(item.get("PersonName") or "").replace("^", " ").strip()
        case "DATE" | "TIME" | "DATETIME" as kind:
            return str(item.get({"DATE": "Date", "TIME": "Time", "DATETIME": "DateTime"}[kind]) or "")
        case "UIDREF":
            return str(item.get("UID") or "")
        case "IMAGE" | "COMPOSITE" | "WAVEFORM":
            references = item.get("ReferencedSOPSequence")
            return f"object {references[0].get('ReferencedSOPInstanceUID', '')}" if references else "object"
        case "SCOORD" | "SCOORD3D":
            return f"{str(item.get('GraphicType') or '').lower()} in an image"
        case "TCOORD":
            return f"{str(item.get('TemporalRangeType') or '').lower()} in time"
    return ""


def _number(item: Dataset) -> str:
    measured = item.get("MeasuredValueSequence")
    if not measured:
        qualifier = _meaning(item.get("NumericValueQualifierCodeSequence"))
        return qualifier or "no value"
    value = measured[0].get("NumericValue")
    units = measured[0].get("MeasurementUnitsCodeSequence")
    unit = str(units[0].get("CodeValue") or "") if units else ""
    return f"{value} {'' if unit == '1' else unit}".strip()


def _meaning(codes: object) -> str:
    if not codes:
        return ""
    return str(codes[0].get("CodeMeaning") or "")  # type: ignore[index]


def _text(value: object) -> str:
    return escape(str(value).replace("^", " ").strip())
