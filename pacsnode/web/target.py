"""The resource that the path of a request names: UIDs, instances, where it is (PS3.18 10.4.1.1)."""

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from xxhash import xxh3_64_hexdigest

from pacsnode.archive.lookup import Held, Uids
from pacsnode.dicom.uid import UID, is_uid
from pacsnode.errors import RequestRefused
from pacsnode.web.facade import Facade
from pacsnode.web.origin import ROOT, dicomweb_root

STUDY: Final = ROOT + "/studies/{study}"
SERIES: Final = STUDY + "/series/{series}"
INSTANCE: Final = SERIES + "/instances/{instance}"
METHODS: Final = ("GET",)  # Starlette adds HEAD


def uids_of(request: Request) -> Uids:
    """The UIDs in the path. Raises RequestRefused (400) when one is none."""
    uids = []
    for level in ("study", "series", "instance"):
        text = request.path_params.get(level)
        if text is None:
            break
        if not is_uid(text):
            raise RequestRefused(400, f"the {level} in the path is no UID")
        uids.append(UID(text))
    return tuple(uids)


async def instance_of(facade: Facade, request: Request) -> Held:
    """The instance that the path names. Raises RequestRefused (404)."""
    held = await facade.archive.lookup.one(uids_of(request))
    if held is None:
        raise RequestRefused(404, "there is no such instance")
    return held


async def instances_of(facade: Facade, request: Request) -> list[Held]:
    """All instances that the path names. Raises RequestRefused (404)."""
    uids = uids_of(request)
    if len(uids) == 3:
        return [await instance_of(facade, request)]
    found = await facade.archive.lookup.find(uids)
    if not found:
        raise RequestRefused(404, f"there is no such {('study', 'series')[len(uids) - 1]}")
    return found


def location_of(facade: Facade, request: Request, held: Held) -> str:
    """The URL of an instance."""
    root = dicomweb_root(request, facade.settings.web.public_url)
    return f"{root}/studies/{held.study}/series/{held.series}/instances/{held.located.sop_instance}"


def resource_url(facade: Facade, request: Request) -> str:
    """The URL of what is asked for, without its query (RFC 9110 8.7)."""
    path: str = request.scope["path"]
    return dicomweb_root(request, facade.settings.web.public_url) + path.removeprefix(ROOT)


def etag_of(instances: Sequence[Held], *form: object, weak: bool = False) -> str:
    """An entity tag for some instances in some form; `weak` where another process cuts the body otherwise."""
    facts = [f"{held.digest}.{held.located.token}" for held in instances]
    facts += [f"{held.located.coerced}" for held in instances if held.located.coerced]
    tag = xxh3_64_hexdigest(f"{facts}{form}".encode())
    return f'W/"{tag}"' if weak else f'"{tag}"'
