"""The page at the root of the web listener, read as a browser reads it."""

from html.parser import HTMLParser

import httpx

from pacsnode.node import Node
from pacsnode.web.start_page import in_units
from tests.support.objects import made
from tests.support.sending import send_made


class _Figures(HTMLParser):
    """The names and figures of the page, its links, and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self._tag = self._name = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        values = dict(attrs)
        if tag == "a":
            self.links.append(values.get("href") or "")
        elif tag in ("script", "link", "img", "iframe"):
            self.loaded.append(tag)

    def handle_data(self, data: str) -> None:
        if self._tag == "dt":
            self._name = data
        elif self._tag == "dd":
            self.found[self._name] = data
        self._tag = ""


async def test_it_tells_what_is_here_and_nobodys_name(node: Node, web: httpx.AsyncClient) -> None:
    objects = [
        made(number, study=study, PatientName="Secret^Name") for study in (1, 2) for number in (1, 2, 3)
    ]
    await send_made(node.dimse_port, objects)
    async with node.workflow.database.transaction() as transaction:
        await node.workflow.jobs.add(transaction, "nothing-does-this", "NOBODY", {}, until_released=True)

    answer = await web.get("/")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    page = _Figures()
    page.feed(answer.text)
    counts = [page.found[name] for name in ("Patients", "Studies", "Series", "Instances")]
    assert counts == ["2", "2", "2", "6"]
    stored = sum(path.stat().st_size for path in (node.settings.node.storage).rglob("objects/**/*.dcm"))
    assert page.found["Stored"] == in_units(stored)
    assert page.found["Free"].endswith("iB")
    assert (page.found["Status"], page.found["Associations"]) == ("ok", "0")
    assert (page.found["Jobs waiting"], page.found["Jobs dead"]) == ("1", "0")
    assert page.loaded == []
    assert node.settings.node.ae_title in answer.text
    assert "Secret" not in answer.text


async def test_its_links_lead_somewhere(web: httpx.AsyncClient) -> None:
    page = _Figures()
    page.feed((await web.get("/")).text)
    assert len(page.links) == 4
    for link in page.links:
        assert (await web.get(link)).status_code == 200, link


async def test_behind_a_proxy_its_links_are_those_of_the_proxy(web: httpx.AsyncClient) -> None:
    forwarded = {"Forwarded": "host=pacs.example;proto=https"}
    assert 'href="https://pacs.example/health"' in (await web.get("/", headers=forwarded)).text


def test_sizes_are_written_for_people() -> None:
    assert [in_units(size) for size in (0, 999, 1000, 2**20, 1_500_000_000, 5 * 2**40)] == [
        "0 bytes",
        "999 bytes",
        "1.0 KiB",
        "1.0 MiB",
        "1.4 GiB",
        "5.0 TiB",
    ]
