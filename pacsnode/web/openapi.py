"""Capabilities as an OpenAPI 3.1 document."""

from typing import Final

from pacsnode import __version__
from pacsnode.web.problem import MEDIA_TYPE
from pacsnode.web.resources import RESOURCES, VARIABLES, Parameter, Resource

JSON = dict[str, object]

_MEANINGS: Final = {
    200: "done",
    202: "some instances were not stored, or not as they came",
    204: "nothing matches",
    206: "a range of the bytes, or what of the instances can be had",
    304: "the client has it already",
    400: "the request is wrong",
    403: "refused",
    404: "there is no such thing here",
    406: "it cannot be had in an acceptable form",
    409: "no instance was stored",
    413: "the body is too long, or becomes so when its coding is undone",
    415: "the body is of a media type, or in a content coding, that is not taken",
    416: "there are no such bytes",
}
_GROUPS: Final = {
    "10.4": "Retrieve (WADO-RS)",
    "10.5": "Store (STOW-RS)",
    "10.6": "Search (QIDO-RS)",
    "9": "URI service (WADO-URI)",
    "9.2": "Capabilities",
    "8.9": "Capabilities",
}
_PROBLEM: Final[JSON] = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def group_of(resource: Resource) -> str:
    """The service a resource belongs to."""
    return _GROUPS[resource.section]


def by_group() -> dict[str, list[Resource]]:
    """All resources, by the services they belong to."""
    groups: dict[str, list[Resource]] = {}
    for resource in RESOURCES:
        groups.setdefault(group_of(resource), []).append(resource)
    return groups


def document(base: str) -> JSON:
    """The description of all resources; `base`: what stands before their paths."""
    paths: dict[str, JSON] = {}
    for resource in RESOURCES:
        paths.setdefault(resource.template, {})[resource.method.lower()] = _operation(resource)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pacsnode: DICOMweb and WADO-URI",
            "version": __version__,
            "description": "The Studies service and the URI service of DICOM PS3.18.",
        },
        "servers": [{"url": base or "/"}],
        "tags": [{"name": name} for name in by_group()],
        "paths": paths,
        "components": {"schemas": {"Problem": _PROBLEM}},
    }


def _operation(resource: Resource) -> JSON:
    operation: JSON = {
        "operationId": "".join(char for char in resource.transaction.title() if char.isalnum()),
        "summary": resource.transaction,
        "description": f"PS3.18 {resource.section}. {resource.note}".strip(),
        "tags": [group_of(resource)],
        "parameters": [
            *(_path_parameter(name) for name in resource.variables),
            *map(_query_parameter, resource.parameters),
        ],
        "responses": {str(status): _response(resource, status) for status in resource.statuses},
    }
    if resource.takes:
        operation["requestBody"] = {"required": True, "content": {one: {} for one in resource.takes}}
    return operation


def _path_parameter(name: str) -> JSON:
    meaning = VARIABLES[name]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": meaning,
        "schema": {"type": "string"},
    }


def _query_parameter(parameter: Parameter) -> JSON:
    schema: JSON = {"type": parameter.type}
    if parameter.values and parameter.type == "string":
        # A list in one value is separated by commas
        schema = {"type": "string", "examples": list(parameter.values)}
    if parameter.repeats:
        schema = {"type": "array", "items": schema}
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "description": parameter.meaning,
        "schema": schema,
    }


def _response(resource: Resource, status: int) -> JSON:
    response: JSON = {"description": _MEANINGS[status]}
    if status in (200, 202, 206, 409):
        response["content"] = {one: {} for one in resource.answers}
    elif status >= 400:
        response["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return response
