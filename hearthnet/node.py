"""The node: starts identity, telemetry, bus, services and transport, and stops them in reverse order."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hearthnet import __version__, checks
from hearthnet.bus.bus import CapabilityBus
from hearthnet.config import Config, known_secrets
from hearthnet.errors import IdentityError, WireError
from hearthnet.events.event_log import EVENTS_FILE, EventLog
from hearthnet.identity.community import MANIFEST_FILE, community_dir
from hearthnet.identity.keys import PRIVATE_FILE, KeyPair, short_id
from hearthnet.identity.manifest import Manifest, Membership, read_manifest, write_manifest
from hearthnet.locations import bytes_of, disk_use, locations_of
from hearthnet.observability import doctor, get_logger, metrics, telemetry
from hearthnet.observability.logs.levels import Levels
from hearthnet.observability.process import uncaught as capture
from hearthnet.observability.process.fault_file import FaultFile
from hearthnet.observability.process.watchdog import Watchdog
from hearthnet.observability.redaction.rules import register_secrets
from hearthnet.observability.telemetry import Telemetry
from hearthnet.observability.traces.propagation import ContextExecutor
from hearthnet.services import echo, llm
from hearthnet.services.emergency import EmergencyProbe
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app
from hearthnet.transport.auth.replay import JOURNAL_FILE, ReplayJournal, Replays
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.page.source import Page, PageSettings
from hearthnet.transport.server import Server

__all__ = ["Node", "initialise", "open_node"]

log = get_logger(__name__)

_GAUGED: Final = {"warn": 1, "fail": 2}  # statuses of checks as `hearthnet_doctor_check_status` has them, else 0
ONLINE_S: Final = 90.0  # a member whose last signed call is older counts as offline


@dataclass(frozen=True, slots=True)
class Initialised:
    """The result of `initialise`; `is_new` is False if the community existed already."""

    node_id: str
    manifest: Manifest
    is_new: bool


def initialise(config: Config, name: str) -> Initialised:
    """Creates the key pair, the community, its manifest and its first event, unless they exist.

    Raises:
        IdentityError: raised when an existing key or manifest is unusable.
        StoreError: raised when the event log cannot be written.
    """
    assert config.identity.keys_dir is not None
    keys = _own_keys(config, config.identity.keys_dir)
    directory = _community_path(config, config.community.community_id or keys.node_id)
    if os.path.lexists(directory / MANIFEST_FILE):
        return Initialised(keys.node_id, read_manifest(directory), is_new=False)
    if config.community.community_id not in (None, keys.node_id):
        raise IdentityError(
            f"the manifest of community {config.community.community_id} is missing",
            hint="fetch it from a member, or remove [community] community_id to create a new community",
        )
    with EventLog(directory / EVENTS_FILE) as events:
        manifest = _genesis(events, name, keys)
    write_manifest(manifest, directory)
    return Initialised(keys.node_id, manifest, is_new=True)


def _genesis(events: EventLog, name: str, keys: KeyPair) -> Manifest:
    """Returns the manifest according to the log's first event, which is written if the log is empty."""
    for event in events.events(keys.node_id):  # a crash came before the manifest was written
        return Manifest.genesis(event.data["name"], keys, event.data["created_at"])
    manifest = Manifest.genesis(name, keys)
    data = {"name": name, "root_key": manifest.root_key, "created_at": manifest.created_at}
    events.append(manifest.community_id, "community.created", data, keys)
    return manifest


def _own_keys(config: Config, directory: Path) -> KeyPair:
    if os.path.lexists(directory / PRIVATE_FILE) or not config.identity.auto_generate:
        keys = KeyPair.load(directory)
        keys.save_public(directory)  # missing if the first `init` was killed, or the disk was full
        return keys
    keys = KeyPair.generate()
    keys.save(directory)
    return keys


class Node:
    """A running node. Created by `open_node`."""

    def __init__(self, config: Config, keys: KeyPair, membership: Membership, recording: Telemetry) -> None:
        self.config = config
        self.membership = membership
        self.telemetry = recording
        self.bus = CapabilityBus(keys.node_id, membership.level_of)
        self.levels = Levels()
        self.emergency = EmergencyProbe(config.emergency)
        self._keys = keys
        folder = _community_path(config, self.manifest.community_id)
        self._journal = ReplayJournal(folder / JOURNAL_FILE)
        self._replays = Replays(keys.node_id, journal=self._journal)
        self._started = time.monotonic()
        self._last_seen: dict[str, float] = {}  # only members, so bounded by the manifest
        self._events_path = folder / EVENTS_FILE
        self._page = self._make_page()

    @property
    def manifest(self) -> Manifest:
        """The current manifest."""
        return self.membership.manifest()

    def _make_page(self) -> Page:
        settings = self.config.observability
        assert settings.data_dir is not None
        shown = PageSettings(
            settings.data_dir, settings.log_dir, settings.max_disk_mb, self.manifest.name, self.bus.node_id
        )
        return Page(shown, Grants(settings.data_dir), lambda: self.diagnose([]), self.telemetry.suspect)

    def services(self) -> Services:
        """Returns the parts of this node that the transport needs."""
        return Services(
            bus=self.bus,
            telemetry=self.telemetry,
            manifest=self.membership.manifest,
            seen=self.note_seen,
            status=self.status,
            doctor=self.diagnose,
            metrics_loopback_only=self.config.observability.metrics_loopback_only,
            keys=self._keys,
            replays=self._replays,
            page=self._page,
        )

    def diagnose(self, only: list[str]) -> list[dict[str, Any]]:
        """Runs all checks, or those in `only`, and returns their results.

        Raises:
            WireError: raised as `bad_request` when no check has that name.
        """
        try:
            results = doctor.run_all(self.config, self.bus, only=only)
        except KeyError as error:
            raise WireError("bad_request", f"no check is named {error.args[0]}") from error
        for result in results:
            metrics.doctor_check_status.labels(result.name).set(_GAUGED.get(result.status, 0))
        return [result.as_dict() for result in results]

    def note_seen(self, caller: str) -> None:
        """Records that a member's signed call arrived now."""
        self._last_seen[caller] = time.monotonic()

    def _online(self) -> int:
        """Returns the number of members seen within `ONLINE_S`, including this node."""
        since = time.monotonic() - ONLINE_S
        others = [seen for caller, seen in self._last_seen.copy().items() if caller != self.bus.node_id]
        return 1 + sum(seen >= since for seen in others)

    def status(self) -> dict[str, Any]:
        """Returns the node's status."""
        size, head = self._event_log()
        capabilities = self.bus.stats()
        return {
            "node_id": self.bus.node_id,
            "short_id": short_id(self.bus.node_id),
            "version": __version__,
            "community_id": self.manifest.community_id,
            "community": self.manifest.name,
            "run_id": self.telemetry.run_id,
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self._started,
            "port": self.config.transport.port,
            "calls_in_flight": sum(entry["running"] for entry in capabilities),
            "event_log_size": size,
            "event_log_head": head,
            "telemetry": {"store": self.telemetry.error or "ok"},
            "disk": disk_use(locations_of(self.config)),
            "capabilities": capabilities,
            "ring": self.telemetry.capability_stats(),
        }

    def _event_log(self) -> tuple[int, int]:
        with EventLog(self._events_path) as events:
            return events.size(self.manifest.community_id), events.head(self.manifest.community_id)

    def refresh_metrics(self) -> None:
        """Sets this node's gauges for a scrape."""
        community = short_id(self.manifest.community_id)  # the full one is the founder's node id
        size, head = self._event_log()
        metrics.event_log_size.labels(community).set(size)
        metrics.event_log_lamport_head.labels(community).set(head)
        metrics.nodes_online.labels(community).set(self._online())
        metrics.blob_storage_bytes.set(bytes_of(locations_of(self.config).blobs_dir))
        self.emergency.refresh_metrics()
        self.bus.refresh_metrics()

    def close(self) -> None:
        """Closes the node's own files."""
        self._journal.close()
        self._page.close()

    async def serve(
        self, listening: socket.socket, stop: asyncio.Event, on_started: Callable[[], None] | None = None
    ) -> None:
        """Serves on a bound socket until `stop` is set; calls `on_started` once it listens."""
        load = Load()
        transport = self.config.transport
        app = build_app(self.services(), self.levels, load, transport)
        server = Server(app, transport, load, self.bus.node_id)
        log.info("node started", extra={"port": transport.port, "node": short_id(self.bus.node_id)})
        serving = asyncio.create_task(server.serve([listening], on_started), name="transport")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            server.stop()
            await serving
        finally:
            stopping.cancel()
            log.info("node stopped")


@asynccontextmanager
async def open_node(config: Config) -> AsyncIterator[Node]:
    """Yields a node with telemetry recording and services registered; `config` must have its paths resolved.

    Raises:
        IdentityError: raised when the node is not initialised, or its key or manifest is unusable.
    """
    checks.register_all()
    assert config.identity.keys_dir is not None
    assert config.observability.data_dir is not None
    keys = KeyPair.load(config.identity.keys_dir)
    register_secrets([keys.private_bytes, *known_secrets(config)])
    membership = Membership(_community_path(config, config.community.community_id or keys.node_id))
    # Work that a handler sends to a thread stays in its trace, whichever asyncio function it uses.
    asyncio.get_running_loop().set_default_executor(ContextExecutor(thread_name_prefix="hearthnet"))
    # Outermost, so that a crash in native code while the store is opened or closed is written as well.
    with FaultFile(config.observability.data_dir) as faults:
        async with (
            telemetry.open(config.observability, console="off", node_id=keys.node_id) as recording,
            llm.LlmChat(config.llm.backends) as chat,
        ):
            faults.tell()
            node = Node(config, keys, membership, recording)
            node.bus.register(echo.DESCRIPTOR, echo.echo)
            if config.llm.backends:
                node.bus.register(llm.DESCRIPTOR, chat.respond)
            stop_refreshing = metrics.on_scrape(node.refresh_metrics)
            settings = config.observability
            watchdog = Watchdog(asyncio.get_running_loop(), settings.stall_s, settings.data_dir)
            try:
                with watchdog, capture.capturing(), node.levels, node.emergency:
                    capture.watch_loop(asyncio.get_running_loop())
                    yield node
            finally:
                stop_refreshing()
                node.close()


def _community_path(config: Config, community_id: str) -> Path:
    assert config.community.state_dir is not None
    return community_dir(config.community.state_dir, community_id)
