"""The list of the doctor's checks, and those whose subject is the machine itself.

Each check measures rather than assumes, says what it measured, and gives a fix that can be pasted.
"""

from __future__ import annotations

import shutil
import socket
import stat
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import httpx

from hearthnet.bus.bus import CapabilityBus
from hearthnet.config import Config
from hearthnet.errors import HearthNetError, IdentityError, StoreError
from hearthnet.events.event_log import EVENTS_FILE, EventLog
from hearthnet.identity.keys import PRIVATE_FILE, PUBLIC_FILE, KeyPair, short_id
from hearthnet.identity.manifest import Manifest, community_dir, read_manifest
from hearthnet.observability import metrics, orphans
from hearthnet.observability.doctor import CheckResult, register
from hearthnet.observability.store.quarantine import quarantined
from hearthnet.observability.store.reader import Reader
from hearthnet.observability.telemetry import DATABASE
from hearthnet.transport.signing import SENDER

__all__ = ["ALL", "register_all"]

MIN_FREE_BYTES: Final = 1_000_000_000
MAX_CLOCK_OFFSET_S: Final = 60.0
MAX_ERROR_RATE: Final = 0.2
MIN_TRACES: Final = 10  # fewer say nothing about a rate
_MDNS_GROUP: Final = "224.0.0.251"
_MDNS_PORT: Final = 5353
_ASK_TIMEOUT_S: Final = 2.0
_MAX_NAMES: Final = 3  # what fits a line
_ANCHOR_TIMEOUT_S: Final = 1.0  # four anchors that swallow packets must fit into the check's deadline


def _result(ok: bool, detail: str, fix: str | None = None, **evidence: object) -> CheckResult:
    return CheckResult("", ok=ok, detail=detail, fix=None if ok else fix, evidence=evidence)


def _skip(detail: str) -> CheckResult:
    return CheckResult("", ok=True, detail=detail, status="skip")


def keys_present(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The device key file exists, with mode 0600."""
    path = _keys_dir(config) / PRIVATE_FILE
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return _result(False, f"no device key at {path}", "hearthnet init", path=str(path))
    return _result(mode == 0o600, f"{path} has mode {mode:04o}", f"chmod 600 {path}", mode=f"{mode:04o}")


def keys_loadable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The keys parse as Ed25519, and belong together."""
    directory = _keys_dir(config)
    try:
        keys = KeyPair.load(directory)
        public = (directory / PUBLIC_FILE).read_bytes()
    except IdentityError as error:
        return _result(False, error.message, error.hint)
    except OSError as error:
        return _result(False, f"{PUBLIC_FILE} cannot be read: {error.strerror}", "restore it from a backup")
    if public != keys.public_bytes:
        return _result(False, f"{PUBLIC_FILE} is not the public half of the device key", "restore both from a backup")
    return _result(True, f"the key of {short_id(keys.node_id)}", node_id=keys.node_id)


def community_present(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The community manifest exists, is signed by its root, and has us as a member."""
    try:
        keys = KeyPair.load(_keys_dir(config))
        manifest = _manifest(config, keys)
    except HearthNetError as error:
        return _result(False, error.message, error.hint)
    level = manifest.level_of(keys.node_id)
    detail = f"{manifest.name!r}, {len(manifest.members)} member(s), we are {level or 'no member'}"
    return _result(level is not None, detail, "ask an anchor of the community for an invitation", level=level)


def event_log_writable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The event log opens and can be written; what the check writes it takes back."""
    try:
        keys = KeyPair.load(_keys_dir(config))
        path = _directory(config, keys) / EVENTS_FILE
        if not path.is_file():
            return _result(False, f"no event log at {path}", "hearthnet init")
        with EventLog(path) as events:
            events.check_writable()
            size = events.size(config.community.community_id or keys.node_id)
    except (IdentityError, StoreError) as error:
        return _result(False, error.message, error.hint)
    return _result(True, f"{size} event(s), writable", events=size)


def mdns_socket(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The mDNS socket can bind and join its group."""
    if not config.discovery.mdns_enabled:
        return _skip("switched off in [discovery]")
    return _multicast(_MDNS_GROUP, _MDNS_PORT)


def udp_multicast(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The UDP discovery socket can bind and join its group."""
    if not config.discovery.udp_enabled:
        return _skip("switched off in [discovery]")
    return _multicast(config.discovery.udp_multicast_group, config.discovery.udp_port)


def _multicast(group: str, port: int) -> CheckResult:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            return _result(
                False, f"UDP port {port} cannot be bound: {error.strerror}", f"sudo ss -ulpn sport = :{port}"
            )
        any_interface = socket.inet_aton(group) + socket.inet_aton("0.0.0.0")  # noqa: S104  # the system's choice
        try:
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, any_interface)
        except OSError as error:
            detail = f"port {port} is free, but no interface takes multicast: {error.strerror}"
            return CheckResult("", ok=True, detail=detail, status="warn", evidence={"port": port, "group": group})
    return _result(True, f"bound {port}, joined {group}", port=port, group=group)


def transport_port(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The bus port is free, or owned by us."""
    transport = config.transport
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((transport.host, transport.port))
        except OSError as error:
            return _who_holds(config, error)
    return _result(True, f"port {transport.port} is free", port=transport.port)


def _who_holds(config: Config, error: OSError) -> CheckResult:
    port = config.transport.port
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=_ASK_TIMEOUT_S, trust_env=False)
        holder = answer.headers.get(SENDER, "")
        if holder == KeyPair.load(_keys_dir(config)).node_id:
            return _result(True, f"port {port} is held by this node, which is running", holder="self")
    except (httpx.HTTPError, IdentityError):
        holder = ""
    who = "another HearthNet node" if holder else "another program"
    fix = f"see who it is: sudo ss -tlpn sport = :{port}; or set another [transport] port"
    return _result(False, f"port {port} is held by {who} ({error.strerror})", fix, holder=holder or None)


def at_least_one_capability(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The bus has one capability or more."""
    if bus is None:
        return _skip("the node is not running")
    count = len(bus.registry)
    return _result(count > 0, f"{count} capability(ies) offered", "configure a backend under [llm]", count=count)


def disk_space(config: Config, _: CapabilityBus | None) -> CheckResult:
    """1 GB free or more where our files lie."""
    data_dir = config.observability.data_dir or Path.home()
    while not data_dir.exists():
        data_dir = data_dir.parent
    free = shutil.disk_usage(data_dir).free
    detail = f"{free / 1e9:.1f} GB free at {data_dir}"
    return _result(free >= MIN_FREE_BYTES, detail, f"du -xh --max-depth=2 {data_dir} | sort -h", free_bytes=free)


def clock_sanity(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The clock is within 60 s of an anchor that is reachable over HTTP."""
    for target in config.emergency.probe_targets:
        try:
            started = time.time()
            answer = httpx.head(f"http://{target}/", timeout=_ANCHOR_TIMEOUT_S, trust_env=False)
            anchor_s = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (httpx.HTTPError, KeyError, ValueError):
            continue
        offset_s = (started + time.time()) / 2 - anchor_s
        detail = f"{offset_s:+.1f} s against {target}"
        return _result(abs(offset_s) <= MAX_CLOCK_OFFSET_S, detail, "sudo timedatectl set-ntp true", offset_s=offset_s)
    return _skip("no anchor answers: the internet is down, or none is configured")


def llm_backend_reachable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """One LLM backend or more responds."""
    backends = config.llm.backends
    if not backends:
        return _skip("no backend is configured")
    answers = {backend.url: _answers(backend.url) for backend in backends}
    up = sum(answers.values())
    detail = f"{up} of {len(backends)} backend(s) answer"
    return _result(up > 0, detail, "start one, or correct its url under [[llm.backends]]", answers=answers)


def _answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=_ASK_TIMEOUT_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def recent_error_rate(config: Config, _: CapabilityBus | None) -> CheckResult:
    """Fewer than 20 % of the last 100 traces failed."""
    path = (config.observability.data_dir or Path()) / DATABASE
    if not path.is_file():
        return _result(True, "nothing recorded yet", traces=0)
    reader = Reader(path)
    try:
        rows = reader.rows(
            "SELECT capability, count(*), sum(result NOT IN ('ok', 'cancelled')) AS failed"
            " FROM (SELECT capability, result FROM traces ORDER BY seq DESC LIMIT 100)"
            " GROUP BY capability ORDER BY failed DESC"
        )
    finally:
        reader.close()
    total, failed = sum(row[1] for row in rows), sum(row[2] for row in rows)
    if total < MIN_TRACES:
        return _result(True, f"only {total} trace(s) so far, too few for a rate", traces=total, failed=failed)
    detail = f"{failed} of the last {total} failed ({failed / total:.0%})"
    if failed:
        detail += f", most of them {rows[0][0]}"
    return _result(
        failed / total < MAX_ERROR_RATE,
        detail,
        "hearthnet trace recent 20 --failed",
        traces=total,
        failed=failed,
    )


def telemetry_store(config: Config, _: CapabilityBus | None) -> CheckResult:
    """telemetry.db can be read, and none that was damaged waits for somebody to look at it."""
    path = (config.observability.data_dir or Path()) / DATABASE
    kept = quarantined(path)
    if kept:
        detail = f"a database that could not be used was moved to {kept[-1]}; a new one was begun"
        fix = f"look at it (sqlite3 {kept[-1]}), then acknowledge: rm -r {kept[-1]}*"
        return CheckResult("", ok=True, detail=detail, fix=fix, status="warn", evidence={"quarantined": str(kept[-1])})
    if not path.is_file():
        return _result(True, "nothing recorded yet")
    reader = Reader(path)
    try:
        ((traces, logs, lost),) = reader.rows(
            "SELECT (SELECT count(*) FROM traces), (SELECT count(*) FROM logs),"
            " (SELECT ifnull(sum(count), 0) FROM gaps)"
        )
    except StoreError as error:
        return _result(False, error.message, error.hint or "start the node: it moves a damaged store aside")
    finally:
        reader.close()
    detail = f"{traces} trace(s), {logs} log record(s), {lost} lost"
    return _result(True, detail, traces=traces, logs=logs, lost=lost)


def orphan_spans(_: Config, bus: CapabilityBus | None) -> CheckResult:
    """No span was opened outside a trace, or after its trace had ended, since the node started."""
    if bus is None:
        return _skip("the node is not running")
    if metrics.disabled():
        return _skip("metrics are switched off, so nothing counts them")
    count = _total(metrics.orphan_spans_total.name)
    if not count:
        return _result(True, "every span found its trace", count=0)
    names = orphans.recent_names()
    detail = f"{count} span(s) were opened outside any trace and are not stored"
    if names:
        detail += f"; the last: {', '.join(names[:_MAX_NAMES])}"
    fix = "take the context along: carry() for threads, ContextExecutor for pools; end a trace after its tasks"
    return CheckResult("", ok=True, detail=detail, fix=fix, status="warn", evidence={"count": count, "names": names})


def _total(name: str) -> int:
    """Returns what a counter without labels stands at."""
    for line in metrics.exposition()[0].decode().splitlines():
        if line.startswith(f"{name} "):
            return int(float(line.split()[1]))
    return 0


def _keys_dir(config: Config) -> Path:
    return config.identity.keys_dir or Path("keys")


def _directory(config: Config, keys: KeyPair) -> Path:
    return community_dir(config.community.state_dir or Path(), config.community.community_id or keys.node_id)


def _manifest(config: Config, keys: KeyPair) -> Manifest:
    return read_manifest(_directory(config, keys))


ALL: Final[tuple[Callable[[Config, CapabilityBus | None], CheckResult], ...]] = (
    keys_present,
    keys_loadable,
    community_present,
    event_log_writable,
    mdns_socket,
    udp_multicast,
    transport_port,
    at_least_one_capability,
    disk_space,
    clock_sanity,
    llm_backend_reachable,
    recent_error_rate,
    telemetry_store,
    orphan_spans,
)


def register_all() -> None:
    """Registers every check with the doctor, under its own name."""
    for check in ALL:
        register(check.__name__, check)
