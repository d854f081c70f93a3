"""Capabilities as a WADL document, in XML and in JSON (PS3.18 H, G; W3C Member Submission of 31 August 2009).

Both are written from one tree: `@name` is an attribute, a list holds elements that may be repeated.
"""

from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

from pacsnode.web.resources import VARIABLES, Parameter, Resource

NAMESPACE: Final = "http://wadl.dev.java.net/2009/02"
_XS: Final = "http://www.w3.org/2001/XMLSchema"
_TYPES: Final = {
    "string": "xs:string",
    "integer": "xs:int",
    "number": "xs:decimal",
    "boolean": "xs:boolean",
}

Tree = dict[str, "str | Tree | list[Tree]"]


def application(resources: Sequence[Resource], base: str, prefix: str) -> Tree:
    """The `application` element as a tree; `base` stands before all paths, which all begin with `prefix`."""
    nodes: dict[str, Tree] = {}
    roots: list[Tree] = []
    for resource in resources:
        siblings, path = roots, ""
        for segment in resource.template.removeprefix(prefix).split("/")[1:]:
            path = f"{path}/{segment}"
            if path not in nodes:
                nodes[path] = _node(segment)
                siblings.append(nodes[path])
            siblings = _children(nodes[path], "resource")
        _children(nodes[path], "method").append(_method(resource))
    for node in nodes.values():
        for name in ("method", "resource"):
            if not node.get(name, True):
                del node[name]
    return {"application": {"resources": {"@base": f"{base}{prefix}/", "resource": roots}}}


def xml_of(tree: Tree) -> bytes:
    """A tree as an XML document."""
    (name,) = tree
    root = _element(name, tree[name])
    root.set("xmlns", NAMESPACE)
    root.set("xmlns:xs", _XS)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _node(segment: str) -> Tree:
    node: Tree = {"@path": segment}
    if segment.startswith("{"):
        name = segment.strip("{}")
        doc: Tree = {"value": VARIABLES[name]}
        node["param"] = [{"@name": name, "@style": "template", "@required": "true", "doc": [doc]}]
    return node


def _children(node: Tree, name: str) -> list[Tree]:
    children = node.setdefault(name, [])
    assert isinstance(children, list)
    return children


def _method(resource: Resource) -> Tree:
    accept: Tree = {"@name": "Accept", "@style": "header", "@default": resource.answers[0]}
    accept["option"] = [{"@value": one} for one in resource.answers]
    request: Tree = {"param": [accept, *map(_param, resource.parameters)]}
    if resource.takes:
        request["representation"] = [{"@mediaType": one} for one in resource.takes]
    success = [status for status in resource.statuses if status < 400]
    failure = [status for status in resource.statuses if status >= 400]
    words = resource.transaction.replace("(", "").replace(")", "").split()
    doc: Tree = {
        "@title": resource.transaction,
        "value": f"PS3.18 {resource.section}. {resource.note}".strip(),
    }
    return {
        "@id": words[0].lower() + "".join(words[1:]),
        "@name": resource.method,
        "doc": [doc],
        "request": request,
        "response": [
            {
                "@status": " ".join(map(str, success)),
                "representation": [{"@mediaType": one} for one in resource.answers],
            },
            {"@status": " ".join(map(str, failure))},
        ],
    }


def _param(parameter: Parameter) -> Tree:
    param: Tree = {"@name": parameter.name, "@style": "query", "@type": _TYPES[parameter.type]}
    if parameter.required:
        param["@required"] = "true"
    if parameter.repeats:
        param["@repeating"] = "true"
    param["doc"] = [{"value": parameter.meaning}]
    if parameter.values:
        param["option"] = [{"@value": one} for one in parameter.values]
    return param


def _element(name: str, content: "str | Tree | list[Tree]") -> ElementTree.Element:
    assert isinstance(content, dict)
    element = ElementTree.Element(name)
    for key, value in content.items():
        if isinstance(value, str):
            if key.startswith("@"):
                element.set(key[1:], value)
            else:
                element.text = value
        else:
            many = value if isinstance(value, list) else [value]
            element.extend(_element(key, one) for one in many)
    return element
