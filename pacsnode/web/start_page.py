"""The start page: what node this is and how it does, for people. It names no patient and changes nothing."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pacsnode.web import pages
from pacsnode.web.facade import Facade
from pacsnode.web.origin import base_url
from pacsnode.workflow.jobs import State

_WAITING: Final = (State.GATHERING, State.QUEUED, State.WAITING)
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")


def start_page(
    facade: Facade, health: Callable[[], dict[str, str | int]]
) -> Callable[[Request], Awaitable[Response]]:
    """The resource at `/`."""
    settings = facade.settings

    async def show(request: Request) -> Response:
        totals = await facade.archive.totals.get()
        jobs = await facade.workflow.jobs.counts()
        facts = health()
        groups = (
            (
                "Archive",
                (
                    ("Patients", f"{totals.patients:,}"),
                    ("Studies", f"{totals.studies:,}"),
                    ("Series", f"{totals.series:,}"),
                    ("Instances", f"{totals.instances:,}"),
                    ("Stored", in_units(totals.size)),
                    ("Free", in_units(totals.free)),
                ),
            ),
            (
                "Now",
                (
                    ("Status", str(facts["status"])),
                    ("Associations", f"{facts['associations']:,}"),
                    ("Jobs running", f"{jobs.get(State.RUNNING, 0):,}"),
                    ("Jobs waiting", f"{sum(jobs.get(state, 0) for state in _WAITING):,}"),
                    ("Jobs dead", f"{jobs.get(State.DEAD, 0):,}"),
                ),
            ),
        )
        base = base_url(request, settings.web.public_url)
        page = pages.start(settings.node.ae_title, settings.dimse.port, groups, base)
        return HTMLResponse(
            page, headers={"Cache-Control": "no-store", "Content-Security-Policy": pages.POLICY}
        )

    return show


def in_units(size: int) -> str:
    """Bytes as people read them: three digits, and a unit."""
    amount, unit = float(size), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    digits = 0 if unit == 0 or amount >= 100 else 1
    return f"{amount:,.{digits}f} {_UNITS[unit]}"
