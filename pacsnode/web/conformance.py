"""The part of the Conformance Statement about the web services, in Markdown (PS3.2 A, PS3.18 9.2, 10.2)."""

from collections.abc import Iterable, Iterator

from pacsnode.web.capabilities import served
from pacsnode.web.openapi import by_group
from pacsnode.web.resources import Resource


def statement() -> str:
    """As origin server; the node is no user agent."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "## 6 Web services"
    yield ""
    yield "Role: origin server. OPTIONS on any resource describes it."
    for group, resources in by_group().items():
        yield ""
        yield f"### {group}"
        for resource in resources:
            yield from _described(resource)
    made = next(rows for title, rows in served() if title.startswith("Transfer syntaxes that are made"))
    yield ""
    yield "### Transfer syntaxes"
    yield ""
    yield "As stored, or when asked for, from what can be decoded:"
    yield ""
    yield from (f"- {name} `{uid}`" for uid, name in made)
    yield ""


def _described(resource: Resource) -> Iterator[str]:
    yield ""
    yield f"**{resource.transaction}**: `{resource.method} {resource.template}`"
    yield ""
    if resource.takes:
        yield f"- Takes {_listed(resource.takes)}"
    yield f"- Answers with {_listed(resource.answers)}"
    if resource.parameters:
        yield f"- Parameters {_listed(one.name for one in resource.parameters)}"
    yield f"- Statuses {', '.join(map(str, resource.statuses))}"


def _listed(items: Iterable[str]) -> str:
    return ", ".join(f"`{one}`" for one in items)
