"""The pages people see who open the services in a browser: plain HTML, nothing from elsewhere, no scripts."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from pacsnode import __version__
from pacsnode.web.openapi import by_group
from pacsnode.web.resources import VARIABLES, Resource

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"
_STYLE: Final = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 16%, Canvas);
  --soft: color-mix(in srgb, CanvasText 62%, Canvas); --tint: color-mix(in srgb, CanvasText 5%, Canvas);
  --link: light-dark(#0b57a4, #8ab8f0); }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; } a { color: var(--link); }
.soft { color: var(--soft); } nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0; }
code { font: .875em/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); } details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .5rem .25rem; display: grid; gap: 0 1rem;
  grid-template-columns: 3.5rem minmax(0, 1fr) auto; align-items: baseline; }
summary:hover { background: var(--tint); } summary b { font-size: .8rem; letter-spacing: .04em; }
.body { padding: .25rem .25rem 1rem 4.75rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0;
  border-top: 1px solid var(--line); }
td:first-child code { white-space: nowrap; } ul { margin: .25rem 0; padding-left: 1.1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .75rem;
  margin: 0; }
.figures div { padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .5rem; }
dt { color: var(--soft); font-size: .875rem; } dd { margin: 0; font-size: 1.4rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
@media (max-width: 28rem) { td:first-child code { white-space: normal; } }
@media (max-width: 44rem) { summary { grid-template-columns: 3.5rem minmax(0, 1fr); }
  summary .soft { grid-column: 2; } .body { padding-left: .25rem; } }
"""


def start(
    ae_title: str, port: int, groups: Sequence[tuple[str, Sequence[tuple[str, str]]]], base: str
) -> str:
    """The start page; `groups` of names and figures; `base`: what stands before the paths of this server."""
    links = (
        ("dicomweb/", "Web services"),
        ("dicomweb/conformance", "SOP classes and transfer syntaxes"),
        ("dicomweb/openapi.json", "OpenAPI 3.1"),
        ("health", "Health"),
    )
    body = [
        f"<p>A DICOM node. AE title <code>{escape(ae_title)}</code>"
        + (f", DICOM port <code>{port}</code>" if port else "")
        + f", DICOMweb at <code>{escape(base)}/dicomweb</code>.</p>",
        "<nav>",
        *(f'<a href="{escape(f"{base}/{path}")}">{escape(text)}</a>' for path, text in links),
        "</nav>",
    ]
    for title, figures in groups:
        body.append(f'<h2>{escape(title)}</h2><dl class="figures">')
        body += (f"<div><dt>{escape(name)}</dt><dd>{escape(figure)}</dd></div>" for name, figure in figures)
        body.append("</dl>")
    return _page(ae_title, body)


def browsable(root: str) -> str:
    """All resources, by service; `root`: the base URI of the services."""
    links = (
        ("openapi.json", "OpenAPI 3.1"),
        ("conformance", "SOP classes and transfer syntaxes"),
        ("studies?limit=25", "The first studies"),
    )
    body = [
        "<p>DICOMweb and WADO-URI of DICOM PS3.18. OPTIONS on any resource describes it as WADL.</p>",
        "<nav>",
        *(f'<a href="{escape(f"{root}/{path}")}">{escape(text)}</a>' for path, text in links),
        "</nav>",
    ]
    for group, resources in by_group().items():
        body.append(f"<h2>{escape(group)}</h2>")
        body += map(_described, resources)
    return _page("Web services", body)


def conformance(facts: Sequence[tuple[str, Sequence[tuple[str, ...]]]], root: str) -> str:
    """Tables of what is served: their titles, and their rows."""
    body = [f'<nav><a href="{escape(root)}/">Resources</a></nav>']
    for title, rows in facts:
        body.append(f"<h2>{escape(title)}</h2>")
        body.append(_table(rows))
    return _page("What is served", body)


def _described(resource: Resource) -> str:
    parameters = [
        *((f"{{{name}}}", VARIABLES[name]) for name in resource.variables),
        *((one.name, one.meaning) for one in resource.parameters),
    ]
    parts = [
        f"<details><summary><b>{resource.method}</b><code>{escape(resource.template)}</code>"
        f'<span class="soft">{escape(resource.transaction)}</span></summary><div class="body">',
        f'<p class="soft">PS3.18 {resource.section}. Answers {", ".join(map(str, resource.statuses))}.</p>',
    ]
    if resource.note:
        parts.append(f"<p>{escape(resource.note)}</p>")
    if parameters:
        parts.append(_table(parameters))
    if resource.takes:
        parts.append(f"<p>Takes</p>{_list(resource.takes)}")
    parts.append(f"<p>Answers with</p>{_list(resource.answers)}</div></details>")
    return "".join(parts)


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li><code>{escape(one)}</code></li>" for one in items) + "</ul>"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    cells = (
        f"<tr><td><code>{escape(first)}</code></td>{''.join(f'<td>{escape(one)}</td>' for one in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _page(title: str, body: Iterable[str]) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)} - pacsnode</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="soft">pacsnode {__version__}</p>{"".join(body)}</body></html>'
    )
