"""The composition root: builds archive, services and listeners; starts, reloads, drains.

The only place that builds anything. Stops in this order: nobody new comes in,
what is running ends, the archive closes.
"""

import asyncio
import gc
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

import structlog

from pacsnode import __version__
from pacsnode.archive.archive import Archive, ArchiveOptions
from pacsnode.config import Settings, changes, titles_called
from pacsnode.dicom.uid import UID
from pacsnode.errors import ConfigurationError
from pacsnode.hl7.listener import Hl7Listener
from pacsnode.log import configure, set_level
from pacsnode.net.acceptor import CONNECTIONS_PER_ASSOCIATION, Acceptor, AcceptorOptions
from pacsnode.net.service import ServiceRegistry
from pacsnode.net.timeouts import timeouts_of
from pacsnode.net.transport import reason_of
from pacsnode.notify import ServiceManager
from pacsnode.pixels.pool import Transcoder, TranscoderOptions
from pacsnode.pulse import Pulse
from pacsnode.services import build_registry
from pacsnode.services.room import Room
from pacsnode.ul.negotiation import AcceptorPolicy, Support
from pacsnode.web.app import build_app
from pacsnode.web.facade import Facade
from pacsnode.web.pictures import Pictures
from pacsnode.web.server import WebListener
from pacsnode.workflow.workflow import Workflow

_STARTING_INTERVAL: Final = 30.0  # seconds between two signs of life before the node serves
_CLOSING_TIME: Final = 30.0  # seconds, generous, from the end of the drain to the end of the process
# An object makes some 100 containers and no cycles: the default of 700 would look for cycles all the time.
_COLLECT_AFTER: Final = 50_000
_DESCRIPTORS: Final = 65_536  # more than any number of associations the settings allow is likely to take
_DESCRIPTORS_BESIDE: Final = (
    256  # open files that are no DICOM connections: index, journal, objects, web clients
)


class Node:
    """A running node. `async with Node(settings) as node:` serves until the block ends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._log = structlog.get_logger()
        self._archive: Archive | None = None
        self._transcoder: Transcoder | None = None
        self._workflow: Workflow | None = None
        self._room: Room | None = None
        self._acceptor: Acceptor | None = None
        self._web: WebListener | None = None
        self._hl7: Hl7Listener | None = None
        self._pulse = Pulse()
        self.is_serving = False

    async def __aenter__(self) -> "Node":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def dimse_port(self) -> int:
        assert self._acceptor is not None
        return self._acceptor.port

    @property
    def web_port(self) -> int:
        assert self._web is not None
        return self._web.port

    @property
    def loop_lag(self) -> float:
        """The longest lag of the event loop in the last minute, in seconds."""
        return self._pulse.longest

    @property
    def hl7_port(self) -> int:
        assert self._hl7 is not None
        return self._hl7.port

    @property
    def archive(self) -> Archive:
        assert self._archive is not None
        return self._archive

    @property
    def workflow(self) -> Workflow:
        assert self._workflow is not None
        return self._workflow

    async def start(self) -> None:
        """Open the archive, then the listeners. Raises ArchiveError, OSError."""
        settings = self.settings
        root = Path(settings.node.storage)
        self._archive = await Archive.open(root, archive_options(settings))
        self._transcoder = Transcoder(root / "transcoded", transcoder_options(settings))
        try:
            self._workflow = await Workflow.open(root, self._archive, settings)
            self._room = Room(self._archive, self._transcoder, self._workflow, settings)
            registry = build_registry(self._room)
            policy = acceptor_policy(settings, registry)
            self._acceptor = Acceptor(acceptor_options(settings), registry, lambda: policy)
            with _listening("DICOM", settings.dimse.host, settings.dimse.port):
                await self._acceptor.start()
            pictures = Pictures(self._archive, self._transcoder)
            facade = Facade(self._archive, self._transcoder, self._workflow, settings, pictures)
            app = build_app(facade, self._health)
            self._web = WebListener(app, settings.web.host, settings.web.port)
            with _listening("HTTP", settings.web.host, settings.web.port):
                await self._web.start()
            if settings.hl7.enabled:
                self._hl7 = Hl7Listener(self._workflow.hl7.receive, settings.hl7)
                with _listening("HL7", settings.hl7.host, settings.hl7.port):
                    await self._hl7.start()
            await self._workflow.start()
            await self._tell_unknown_peers()
        except BaseException:
            await self.stop()
            raise
        self._pulse.start()
        self.is_serving = True
        self._log.info(
            "node.started",
            version=__version__,
            ae_title=settings.node.ae_title,
            dimse=f"{settings.dimse.host}:{self.dimse_port}",
            web=f"{settings.web.host}:{self.web_port}",
            storage=str(settings.node.storage),
        )

    async def stop(self) -> None:
        """Drain and close everything, each whatever becomes of the others."""
        was_serving = self.is_serving
        if was_serving and self._acceptor is not None:
            self._log.info("node.draining", associations=self._acceptor.associations)
        self.is_serving = False
        self._pulse.stop()
        async with AsyncExitStack() as closing:
            if self._archive is not None:
                closing.push_async_callback(self._archive.close)
            if self._workflow is not None:
                closing.push_async_callback(self._workflow.close)
            if self._transcoder is not None:
                closing.push_async_callback(self._transcoder.close)
            if self._web is not None:
                closing.push_async_callback(self._web.stop)
            if self._workflow is not None:
                closing.push_async_callback(self._workflow.stop)
            if self._hl7 is not None:
                closing.push_async_callback(self._hl7.stop)
            if self._acceptor is not None:
                await self._acceptor.drain(self.settings.dimse.drain_timeout)
        if was_serving:
            self._log.info("node.stopped")

    def reload(self, settings: Settings) -> None:
        """Take over what may change while running: peers, rules and the log level; tell of what may not.

        Raises ConfigurationError over a rule, having changed nothing.
        """
        changed = changes(self.settings, settings)
        assert self._room is not None
        taking_over = [reload(settings) for reload in self._room.reloads]
        set_level(settings.log.level)
        log = self.settings.log.model_copy(update={"level": settings.log.level})
        followed = {"peers": settings.peers, "forward": settings.forward, "prefetch": settings.prefetch}
        self.settings = self.settings.model_copy(update={**followed, "log": log})
        self.workflow.peers.configure(settings.peers)
        for take_over in taking_over:
            take_over()
        self.workflow.jobs.rules_changed()
        self._log.info("node.reloaded", changed=list(changed.reloadable))
        if changed.need_restart:
            self._log.warning("node.restart_needed", settings=list(changed.need_restart))

    async def _tell_unknown_peers(self) -> None:
        """What the settings say is to be called may be added later; until then its jobs wait."""
        for setting, ae_title in titles_called(self.settings):
            if await self.workflow.peers.get(ae_title) is None:
                self._log.warning("peer.unknown", ae_title=ae_title, setting=setting)

    def _health(self) -> dict[str, str | int]:
        assert self._acceptor is not None
        return {
            "status": "ok",
            "version": __version__,
            "associations": self._acceptor.associations,
            "loop_lag_ms": round(self.loop_lag * 1000),
        }


@contextmanager
def _listening(what: str, host: str, port: int) -> Iterator[None]:
    """Say which listener it is whose address cannot be had."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{what} cannot listen on {host}:{port}: {reason_of(error)}") from error


def archive_options(settings: Settings) -> ArchiveOptions:
    storage = settings.storage
    return ArchiveOptions(
        sync=storage.sync,
        duplicates=storage.duplicates,
        reserve=int(storage.reserve),
        workers=storage.workers,
        readers=storage.readers,
    )


def transcoder_options(settings: Settings) -> TranscoderOptions:
    transcoding = settings.transcoding
    return TranscoderOptions(
        workers=transcoding.workers,
        time_limit=transcoding.time_limit,
        memory_limit=int(transcoding.memory_limit),
        enabled=transcoding.enabled,
        recompress_lossy=transcoding.recompress_lossy,
    )


def acceptor_policy(settings: Settings, registry: ServiceRegistry) -> AcceptorPolicy:
    """What negotiation may agree to, read from the service classes."""
    dimse = settings.dimse

    def support(abstract_syntax: UID) -> Support | None:
        service = registry.service_of(abstract_syntax)
        if service is None:
            return None
        return Support(frozenset(service.transfer_syntaxes()), as_scu=service.is_user())

    def extended(sop_class: UID, offered: bytes) -> bytes | None:
        service = registry.service_of(sop_class)
        return None if service is None else service.extended_negotiation(sop_class, offered)

    return AcceptorPolicy(
        ae_title=settings.node.ae_title,
        support=support,
        transfer_syntax_preference=dimse.preferred_transfer_syntaxes,
        require_called_ae=dimse.require_called_ae_title,
        allowed_calling_aes=frozenset(dimse.allowed_calling_ae_titles) or None,
        max_pdu_length=dimse.max_pdu_length,
        window=(dimse.async_window, dimse.async_window),
        extended=extended,
    )


def acceptor_options(settings: Settings) -> AcceptorOptions:
    dimse = settings.dimse
    return AcceptorOptions(
        host=dimse.host,
        port=dimse.port,
        max_associations=dimse.max_associations,
        max_pdu_length=dimse.max_pdu_length,
        timeouts=timeouts_of(dimse),
    )


def serve(load: Callable[[], Settings]) -> int:
    """Run the node until SIGTERM or SIGINT. `load()` reads the settings, at the start and at each SIGHUP.

    Returns the exit status. Raises ConfigurationError, ArchiveError, OSError when the node cannot start.
    """
    settings = load()
    configure(settings.log.level, settings.log.format, gather=True)
    _raise_descriptor_limit(settings)
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings, load))


def _raise_descriptor_limit(settings: Settings) -> None:
    """Allow as many open files as the system lets us; tell when a full house would not find enough.

    The usual 1024 protects programs that use select(2), which nothing here does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    # a connection takes two, see net/transport
    needed = 2 * CONNECTIONS_PER_ASSOCIATION * settings.dimse.max_associations + _DESCRIPTORS_BESIDE
    if allowed < needed:
        structlog.get_logger().warning("node.few_descriptors", allowed=allowed, needed=needed)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not built for this platform: plain asyncio does the same, more slowly
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings, load: Callable[[], Settings]) -> int:
    loop = asyncio.get_running_loop()
    manager = ServiceManager.from_environment()
    stopping = asyncio.Event()
    node = Node(settings)

    def reload() -> None:
        if not node.is_serving:
            structlog.get_logger().error("node.reload_refused", reason="it does not serve yet, or no longer")
            return
        manager.reloading()
        try:
            node.reload(load())
        except ConfigurationError as error:
            structlog.get_logger().error("node.reload_refused", reason=str(error))
        finally:
            manager.ready(_status(node))  # whatever happened, the old settings serve

    # Before the start: "node.started" in the log is the earliest moment somebody may send one.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await _start(node, manager)
    manager.ready(_status(node))
    await _until(stopping, manager)
    manager.stopping("draining", node.settings.dimse.drain_timeout + _CLOSING_TIME)
    await node.stop()
    manager.close()
    return os.EX_OK


async def _start(node: Node, manager: ServiceManager) -> None:
    """Start; a manager that is patient is told that it goes on, while a large index is brought up to date."""
    starting = asyncio.create_task(node.start())
    while not starting.done():
        manager.starting(2 * _STARTING_INTERVAL)
        await asyncio.wait([starting], timeout=_STARTING_INTERVAL)
    await starting


async def _until(stopping: asyncio.Event, manager: ServiceManager) -> None:
    """Wait for the end, with a sign of life from the event loop itself whenever the manager wants one."""
    while not stopping.is_set():
        try:
            async with asyncio.timeout(manager.watchdog_interval):
                await stopping.wait()
        except TimeoutError:
            manager.watchdog()


def _status(node: Node) -> str:
    return f"{node.settings.node.ae_title} on port {node.dimse_port}"
